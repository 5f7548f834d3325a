from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.data.gsm8k import write_problems
from cs336_sft.data.qwen_tokenizer import _from_ranks, load_qwen_tokenizer
from cs336_sft.data.token_lengths import LengthTable, file_length_percentiles, length_percentiles, token_lengths
from cs336_sft.errors import DataError
from cs336_sft.prompts import get_template
from cs336_sft.records import Problem

# Recorded by the author of the course's notes on GSM8K with Qwen2.5's tokenizer, and reproduced here.
NOTES = """
| 50% | 78.0 | 111.0 | 191.0 | 80.0 | 115.0 | 199.0 |
| 90% | 112.0 | 195.0 | 298.0 | 115.0 | 197.0 | 297.2 |
| 95% | 123.0 | 229.0 | 335.0 | 128.0 | 221.0 | 334.0 |
| 99% | 151.0 | 287.3 | 412.3 | 150.6 | 281.6 | 402.8 |
| 99.5% | 162.0 | 314.9 | 441.9 | 159.2 | 308.3 | 450.7 |
"""


def characters(texts, **kwargs):
    """A tokenizer whose tokens are characters."""
    return {"input_ids": [list(text) for text in texts]}


def by_hand(values: list[int], percent: float) -> float:
    """The percentile by linear interpolation between the two nearest ranks."""
    ordered = sorted(values)
    rank = percent / 100 * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def test_lengths_of_prompt_and_raw_answer():
    """The answer is counted as in the file: no leading space and no end-of-text, unlike a training example."""
    problems = [Problem("abc", "x <<1=1>>1\n#### 1", "1"), Problem("", "#### 22", "22")]
    template = get_template("gsm8k")
    bare = len(template.text) - len("{question}")
    table = token_lengths(iter(problems), template, characters)
    assert table == LengthTable(prompt=(bare + 3, bare), answer=(17, 7))
    assert table.total == (bare + 20, bare + 7)


def test_lengths_leave_out_special_tokens(tokenizer, problems):
    table = token_lengths(problems, get_template("question_only"), tokenizer)
    assert table.prompt == tuple(len(tokenizer.backend_tokenizer.encode(p.question).ids) for p in problems)
    assert table.answer == tuple(len(tokenizer.backend_tokenizer.encode(p.answer).ids) for p in problems)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=40))
@settings(deadline=None)
def test_percentiles_equal_interpolation_by_hand(pairs):
    prompt, answer = zip(*pairs, strict=True)
    got = length_percentiles(LengthTable(prompt, answer))
    parts = {"prompt": prompt, "answer": answer, "total": [p + a for p, a in pairs]}
    assert list(got) == list(parts)
    for part, values in parts.items():
        assert list(got[part]) == ["50", "90", "95", "99", "99.5"]
        for name, value in got[part].items():
            assert value == pytest.approx(by_hand(values, float(name)), abs=1e-9)
    json.dumps(got)  # plain floats


def test_percentiles_of_nothing():
    with pytest.raises(DataError, match="no lengths"):
        length_percentiles(LengthTable((), ()))


def test_file_percentiles(tmp_path):
    files = []
    for name, count in (("train", 3), ("test", 2)):
        files.append(tmp_path / f"{name}.jsonl")
        write_problems(files[-1], [Problem("q" * (i + 1), f"#### {10**i}", str(10**i)) for i in range(count)])
    got = file_length_percentiles([files[0], str(files[1])], get_template("question_only"), characters)
    assert list(got) == [str(file) for file in files]
    assert got[str(files[0])]["prompt"] == {"50": 2.0, "90": 2.8, "95": 2.9, "99": 3.0, "99.5": 3.0}  # 2.98, 2.99
    assert got[str(files[1])]["answer"]["50"] == 6.5
    with pytest.raises(DataError, match=r"none\.jsonl"):
        file_length_percentiles([tmp_path / "none.jsonl"], get_template("gsm8k"), characters)


def test_the_notes_table_in_all_30_entries(gsm8k: Path, qwen):
    expected = {}
    for line in NOTES.split("\n")[1:-1]:
        percent, *values = [cell.strip() for cell in line.strip("|").split("|")]
        columns = [(split, part) for split in ("train", "test") for part in ("prompt", "answer", "total")]
        for (split, part), value in zip(columns, values, strict=True):
            expected[split, part, percent.rstrip("%")] = float(value)
    assert len(expected) == 30

    files = {split: str(gsm8k / f"{split}.jsonl") for split in ("train", "test")}
    got = file_length_percentiles(list(files.values()), get_template("gsm8k"), qwen)
    assert {key: got[files[key[0]]][key[1]][key[2]] for key in expected} == expected


def test_qwen_ids_and_specials(qwen):
    assert qwen("Hello, world!", add_special_tokens=False)["input_ids"] == [9707, 11, 1879, 0]
    assert qwen("Hello, world!")["input_ids"] == [9707, 11, 1879, 0]
    assert qwen.pad_token_id == qwen.eos_token_id == 151643
    assert qwen.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [151644, 151645]
    assert len(qwen("12345")["input_ids"]) == 5  # every digit apart
    for text in ("Žluťoučký kůň 🐎\r\n\n  x", "a  b\t c ", "don't WE'LL", " 1,080.50$"):
        assert qwen.decode(qwen(text)["input_ids"]) == text
    assert qwen("e\u0301")["input_ids"] == qwen("\u00e9")["input_ids"]  # composed first, as Qwen's own does


# A vocabulary of all bytes and a few longer tokens; "abc" can be cut in two ways, and "bc" comes before "ab". "12" is
# never used, since every digit is a piece of its own; no two tokens make "dddd", which is one only as a whole piece.
LONGER = [b"bc", b"ab", b"abc", b" a", b"aa", b"aaa", b"abcd", b"cd", b"12", b"dddd"]
RANKS = {bytes([i]): i for i in range(256)} | {token: 256 + i for i, token in enumerate(LONGER)}


def merge_by_hand(piece: bytes) -> list[int]:
    """tiktoken's rule: a piece that is a token stays whole; else join the neighbours whose join ranks lowest."""
    if piece in RANKS:
        return [RANKS[piece]]
    parts = [bytes([byte]) for byte in piece]
    while True:
        joins = [(RANKS[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in RANKS]
        if not joins:
            return [RANKS[part] for part in parts]
        _, i = min(joins)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@pytest.fixture(scope="module")
def small_qwen():
    return _from_ranks(RANKS)


@given(st.text("abcd", min_size=1, max_size=12))
@settings(deadline=None)
def test_ranks_become_the_merges_they_stand_for(small_qwen, word):
    assert small_qwen(word)["input_ids"] == merge_by_hand(word.encode())


def test_pieces_are_split_as_in_qwen(small_qwen):
    for text, pieces in {
        "a 12": ["a", " ", "1", "2"],
        "abc's": ["abc", "'s"],
        "ab!?\n\ncd": ["ab", "!?\n\n", "cd"],
        "a  ab": ["a", " ", " ab"],
        "dddd1ddddd": ["dddd", "1", "ddddd"],
        "e\u0301": ["\u00e9"],  # composed first
    }.items():
        assert small_qwen(text)["input_ids"] == [i for piece in pieces for i in merge_by_hand(piece.encode())], text


def test_qwen_loader_names_what_is_wrong(tmp_path, tokenizer):
    with pytest.raises(DataError, match="does not exist.*fetch qwen-tokenizer"):
        load_qwen_tokenizer(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        load_qwen_tokenizer(tmp_path)
    path = tmp_path / "qwen.tiktoken"
    for bad in (b"YQ== x", b"YQ==", b"Y!Q== 1", b"YQ== 1 2", b"\xff 1", b""):
        path.write_bytes(b"IQ== 0\n" + bad + b"\nIg== 2\n")
        with pytest.raises(DataError, match="line 2"):
            load_qwen_tokenizer(path)
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items()))
    with pytest.raises(DataError, match="is not Qwen2.5's tokenizer"):
        load_qwen_tokenizer(path)
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="is not Qwen2.5's tokenizer"):
        load_qwen_tokenizer(tmp_path / "other")
