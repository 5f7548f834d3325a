from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.data import gsm8k as module
from cs336_sft.data.gsm8k import final_answer, hold_out, load_gsm8k, read_problems, write_problems
from cs336_sft.errors import ConfigError, CourseError, DataError
from cs336_sft.records import Problem


def line(question="2 + 3?", answer="2+3 = <<2+3=5>>5\n#### 5", **more) -> str:
    return json.dumps({"question": question, "answer": answer, **more})


@pytest.mark.parametrize(
    ("written", "final"),
    [
        ("5", "5"),
        ("1,080", "1080"),
        ("109,200,000", "109200000"),
        ("1080", "1080"),
        ("-7", "-7"),
        ("$18", "18"),
        ("$1,080.50", "1080.50"),
        ("-$4", "-4"),
        ("$-4", "-4"),
        ("3.25", "3.25"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("0", "0"),
    ],
)
def test_final_answers(written, final):
    for answer in (
        f"#### {written}",
        f"a = 1\n####{written}  ",
        f"#### 99\nb\n ####  {written}\n\n",
        f"a\r\n#### {written}\r\n",
    ):
        assert final_answer(answer) == final


@pytest.mark.parametrize(
    "answer",
    [
        *["", "5", "####", "#### ", "#### five", "### 5", "so #### 5", "#### 5\nso it is 5", "#### 5 #### 6"],
        *["#### 1,08", "#### 10,8000", "#### ,080", "#### 1,,000", "#### 1 080", "#### 5.", "#### .", "#### -"],
        *["#### $", "#### --5", "#### -$-5", "#### 5 apples", "#### 5%", "#### 1/2", "#### 1e3", "#### nan", "#### ٥"],
    ],
)
def test_unreadable_final_answers(tmp_path, answer):
    assert final_answer(answer) is None
    path = tmp_path / "train.jsonl"
    path.write_text(line() + "\n" + line(answer=answer) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: .*'answer'.*Remedy: "):
        read_problems(path)


def test_reading(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(line() + "\n" + line("Größe?", "{x}\n#### 1,080") + "\n", encoding="utf-8")
    assert read_problems(str(path)) == [
        Problem("2 + 3?", "2+3 = <<2+3=5>>5\n#### 5", "5", id="gsm8k/train/0"),
        Problem("Größe?", "{x}\n#### 1,080", "1080", id="gsm8k/train/1"),
    ]


def test_byte_order_mark_line_ends_and_blank_lines_are_tolerated(tmp_path):
    path = tmp_path / "test.jsonl"
    plain = [Problem("2 + 3?", "2+3 = <<2+3=5>>5\n#### 5", "5", id=f"gsm8k/test/{i}") for i in range(3)]
    for before, end in (("", "\n"), ("\ufeff", "\r\n"), ("\n \n", "\n\n"), ("\ufeff\r\n", "\r\n\t\r\n")):
        path.write_bytes((before + line() + end + line() + end + line()).encode())
        assert read_problems(path) == plain
        path.write_bytes((before + line() + end + line() + end + line() + end).encode())
        assert read_problems(path) == plain


def test_separators_inside_a_string_end_no_line(tmp_path):
    path = tmp_path / "train.jsonl"
    question = "a\u2028b\u2029c\x85d"
    path.write_text(json.dumps({"question": question, "answer": "#### 5"}, ensure_ascii=False), encoding="utf-8")
    assert [problem.question for problem in read_problems(path)] == [question]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("{", "not JSON"),
        (line()[:-1], "not JSON"),
        (line() + line(), "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('"question"', "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"answer": "#### 5"}', "no field 'question'"),
        ('{"question": "2 + 3?"}', "no field 'answer'"),
        (line(question=5), "field 'question' is int, not a string"),
        (line(answer=None), "field 'answer' is NoneType, not a string"),
        (line(answer=["#### 5"]), "field 'answer' is list, not a string"),
        (line(question=""), "field 'question' is empty"),
        (line(question=" \n"), "field 'question' is empty"),
        (line(answer=""), "field 'answer' is empty"),
        (line(answer="five"), "last line of 'answer' is 'five'"),
        (line(question="\ud83d"), "field 'question' has half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_an_error_that_names_file_and_line(tmp_path, bad, named):
    path = tmp_path / "train.jsonl"
    path.write_text(f"{line()}\n\n{bad}\n{line()}\n")
    with pytest.raises(DataError) as caught:
        read_problems(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3") and named in message and "Remedy: " in message
    assert len(message) < 500 + len(str(path)) and "\n" not in message


@pytest.mark.parametrize(
    ("fields", "id"),
    [
        ({"id": 17, "instance": 3, "original_id": 1}, "17"),
        ({"id": None, "template": None}, "gsm8k/train/0"),
        ({"id": 1.5, "template": 2}, "gsm8k/train/0"),
        ({"id": True, "template": ["a"]}, "gsm8k/train/0"),
        ({"id": "\ud83d", "template": "\ud83d"}, "gsm8k/train/0"),
        ({"id": {"a": 1}, "final": "6"}, "gsm8k/train/0"),
    ],
)
def test_foreign_fields_make_no_file_unreadable(tmp_path, fields, id):
    path = tmp_path / "train.jsonl"
    path.write_text(line(**fields) + "\n", encoding="utf-8")
    problems = read_problems(path)
    assert problems == [Problem("2 + 3?", "2+3 = <<2+3=5>>5\n#### 5", "5", id=id)]
    write_problems(tmp_path / "again.jsonl", problems)
    assert read_problems(tmp_path / "again.jsonl") == problems


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(line().encode() + b"\n" + '{"question": "Größe"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2: byte 17 is not UTF-8"):
        read_problems(path)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl can't be read: No such file"):
        read_problems(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="can't be read"):
        read_problems(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\xef\xbb\xbf\n\r\n")
    with pytest.raises(DataError, match="holds no problem"):
        read_problems(tmp_path / "empty.jsonl")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, texts, st.integers(-(10**6), 10**6), texts, st.text("abc", max_size=3)), min_size=1))
@settings(deadline=None, max_examples=50)
def test_written_problems_read_back_equal(tmp_path_factory, parts):
    problems = [Problem(q, f"{a}\n#### {n}", str(n), id=i, template=t) for q, a, n, i, t in parts]
    path = tmp_path_factory.mktemp("written") / "deep" / "train.jsonl"
    write_problems(path, problems)
    assert read_problems(path) == problems


def test_written_files_have_gsm8ks_fields(tmp_path):
    path = tmp_path / "x.jsonl"
    write_problems(path, [Problem("Größe?", "#### 1,080", "1080"), Problem("b", "#### 2", "2", id="w/1", template="t")])
    lines = path.read_bytes().decode().split("\n")
    assert lines[0] == '{"question": "Größe?", "answer": "#### 1,080"}' and lines[2] == ""
    assert json.loads(lines[1]) == {"question": "b", "answer": "#### 2", "id": "w/1", "template": "t"}


def test_writing_is_all_or_nothing(tmp_path, monkeypatch, problems):
    path = tmp_path / "train.jsonl"
    write_problems(path, problems[:2])
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "replace", full_disk)
        with pytest.raises(CourseError, match="disk full"):
            write_problems(path, problems)
    with pytest.raises(DataError, match="problem 1 for"):
        write_problems(path, [problems[0], replace(problems[1], answer="no final line")])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["train.jsonl"], "a temporary file was left"
    write_problems(path, problems)
    assert read_problems(path) == problems


def test_a_problem_that_contradicts_itself_is_not_written(tmp_path):
    with pytest.raises(DataError, match="its final answer is '6', but its answer ends in '5'"):
        write_problems(tmp_path / "x.jsonl", [Problem("2 + 3?", "#### 5", "6")])
    with pytest.raises(DataError, match="'question' is empty"):
        write_problems(tmp_path / "x.jsonl", [Problem("", "#### 5", "5")])


@pytest.fixture
def folder(tmp_path):
    for split, final in (("train", 1), ("test", 2)):
        (tmp_path / f"{split}.jsonl").write_text(line(answer=f"#### {final}"))
    (tmp_path / "mine.jsonl").write_text(line(answer="#### 3"))
    return tmp_path


def test_load_from_folder_and_file(folder):
    assert [load_gsm8k(folder, split)[0].final for split in ("train", "test")] == ["1", "2"]
    assert load_gsm8k(str(folder), "test")[0].id == "gsm8k/test/0"
    assert load_gsm8k(folder / "train.jsonl", "train")[0].final == "1"
    assert load_gsm8k(folder / "mine.jsonl", "test")[0].final == "3"


def test_load_refuses_the_other_splits_file_and_unknown_splits(folder):
    for file, split in (("train", "test"), ("test", "train")):
        with pytest.raises(ConfigError, match=f"split '{split}' was asked of"):
            load_gsm8k(folder / f"{file}.jsonl", split)
    with pytest.raises(ConfigError, match="no split 'validation'"):
        load_gsm8k(folder, "validation")
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl can't be read"):
        load_gsm8k(folder, "test")


def fake_datasets(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_load_from_the_hub(monkeypatch):
    def load_dataset(name, config, *, split):
        assert (name, config, split) == ("openai/gsm8k", "main", "test")
        return iter([{"question": "a", "answer": "#### 1,080"}, {"question": "b", "answer": "#### 2"}])

    fake_datasets(monkeypatch, load_dataset)
    assert load_gsm8k("openai/gsm8k", "test") == [
        Problem("a", "#### 1,080", "1080", id="gsm8k/test/0"),
        Problem("b", "#### 2", "2", id="gsm8k/test/1"),
    ]
    fake_datasets(monkeypatch, lambda *args, split: [{"question": "a", "answer": "#### x"}])
    with pytest.raises(DataError, match=r"openai/gsm8k \(train\), row 0: the last line"):
        load_gsm8k("openai/gsm8k", "train")


def test_load_without_hub(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"needs the package datasets.*cs336-sft\[hub\]"):
        load_gsm8k("openai/gsm8k", "train")

    for error in (ConnectionError("no route"), RuntimeError("no route")):  # HTTP clients' own errors are no OSError

        def offline(*args, error=error, **kwargs):
            raise error

        fake_datasets(monkeypatch, offline)
        with pytest.raises(DataError, match=f"from the hub: {type(error).__name__}: no route.*connection"):
            load_gsm8k("openai/gsm8k", "train")
    # What looks like a path is not looked up on the hub.
    for source in (folder / "none", "data/none.jsonl", "./data/none", "/no/such", "none", "a/b/c", "~/none"):
        with pytest.raises(DataError, match="does not exist"):
            load_gsm8k(source, "train")


def numbered(n: int) -> list[Problem]:
    return [Problem(f"{i} + 0?", f"#### {i}", str(i), id=f"n/{i}") for i in range(n)]


def test_hold_out_is_a_seeded_partition():
    problems = numbered(200)
    train, validation = hold_out(problems, n=50, seed=3)
    assert (len(train), len(validation)) == (150, 50)
    assert sorted(train + validation, key=problems.index) == problems
    assert train == [p for p in problems if p in train] and validation == [p for p in problems if p in validation]
    assert hold_out(problems, n=50, seed=3) == (train, validation)
    other = hold_out(problems, n=50, seed=4)[1]
    assert 2 <= len(set(other) & set(validation)) <= 28  # 12.5 expected of independent draws, standard deviation 2.7
    assert hold_out(problems, n=20, seed=3)[1] == [p for p in validation if p in hold_out(problems, n=20, seed=3)[1]]


def test_hold_out_depends_on_neither_order_nor_ids():
    problems = numbered(100)
    validation = {problem.question for problem in hold_out(problems, n=30)[1]}
    shuffled = [replace(problem, id="") for problem in random.Random(0).sample(problems, len(problems))]
    assert {problem.question for problem in hold_out(shuffled, n=30)[1]} == validation


def test_hold_out_pins_the_choice():
    """The held-out problems stay the same from version to version: results are compared over them."""
    assert [problem.final for problem in hold_out(numbered(40), n=6)[1]] == ["14", "18", "23", "32", "33", "35"]


def test_hold_out_range():
    problems = numbered(5)
    assert hold_out(problems, n=0) == (problems, [])
    assert len(hold_out(problems, n=4)[0]) == 1
    for n in (5, 6, -1):
        with pytest.raises(ConfigError, match=f"{n} of 5 problems"):
            hold_out(problems, n=n)


def test_the_real_gsm8k(gsm8k):
    train, test = load_gsm8k(gsm8k, "train"), load_gsm8k(gsm8k, "test")
    assert (len(train), len(test)) == (7473, 1319)
    assert train[0].final == "72" and train[17].id == "gsm8k/train/17"
    assert sum("," in problem.final for problem in train + test) == 0
    assert sorted(p.final for p in train + test if p.final.startswith("-")) == ["-10", "-12", "-3", "-47", "-7"]
    rest, validation = hold_out(train)
    assert (len(rest), len(validation)) == (6961, 512)
    assert not {p.question for p in rest} & {p.question for p in validation}
