"""The grader against labelled answers, GSM8K's references, and its own shortcuts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.grading import (
    STYLES,
    cut_position,
    detect_style,
    get_reward_fn,
    grade_response,
    gsm8k_reward_fn,
    lenient_reward_fn,
    question_only_reward_fn,
    r1_zero_reward_fn,
    read_answer,
    read_leniently,
)
from cs336_sft.grading.ground_truth import read_truth
from cs336_sft.grading.number import read_number
from cs336_sft.grading.response_end import READ_LIMIT
from cs336_sft.prompts import get_template
from cs336_sft.records import Problem

CASES_FILE = Path(__file__).parent / "data" / "grader_cases.jsonl"
RIGHT = {"format_reward": 1.0, "answer_reward": 1.0, "reward": 1.0}
WRONG = {"format_reward": 1.0, "answer_reward": 0.0, "reward": 0.0}
NOTHING = {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}


def labelled_cases() -> list[dict]:
    return [json.loads(line) for line in CASES_FILE.read_text(encoding="ascii").splitlines()]


def test_the_rounds_of_the_labelled_set_are_told_as_they_are() -> None:
    history = json.loads(CASES_FILE.with_suffix(".rounds.json").read_text(encoding="ascii"))
    told = {row["round"]: row["cases"] for row in history["rounds"]}
    assert told == dict(Counter(case["round"] for case in labelled_cases()))
    for row in history["rounds"]:
        assert row["agreed_at_first_look"] + row["false_accepts_at_first_look"] <= row["cases"]
    recorded = json.loads((CASES_FILE.parents[2] / "recorded" / "grader_benchmark.json").read_text(encoding="utf-8"))
    assert recorded["rounds"][CASES_FILE.name] == history


def gsm8k_problems() -> list[Problem]:
    folder = os.environ.get("CS336_GSM8K")
    if not folder:
        pytest.skip("set CS336_GSM8K to a folder with GSM8K's train.jsonl and test.jsonl")
    problems = []
    for split in ("train", "test"):
        for line in (Path(folder) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            final = row["answer"].rsplit("####", 1)[1].strip().replace(",", "")
            problems.append(Problem(row["question"], row["answer"], final))
    return problems


@pytest.mark.parametrize("rule", sorted({case["rule"] for case in labelled_cases()}))
def test_labelled_answers(rule: str) -> None:
    wrong = []
    for case in labelled_cases():
        if case["rule"] != rule:
            continue
        verdict = grade_response(case["response"], case["ground_truth"], case["style"], strict=False)
        expected = {
            "format_reward": float(case["format"]),
            "answer_reward": float(case["correct"]),
            "reward": float(case["correct"]),
        }
        if verdict != expected:
            reading = read_answer(case["response"], case["style"], strict=False)
            wrong.append((case["id"], case["response"], case["ground_truth"], verdict, reading.reason))
    assert not wrong


def test_the_labelled_set_can_catch_a_grader_that_always_says_the_same() -> None:
    cases = labelled_cases()
    right = sum(case["correct"] for case in cases)
    assert len(cases) >= 400 and len({case["id"] for case in cases}) == len(cases)
    assert 0.35 < right / len(cases) < 0.65
    for style in STYLES:
        assert sum(case["style"] == style for case in cases) > 100


@pytest.mark.parametrize("style", STYLES)
def test_gsm8k_references_grade_themselves_and_no_other(style: str) -> None:
    problems = gsm8k_problems()
    assert len(problems) == 8792
    reward_fn, respond = get_reward_fn(style), get_template(style).respond
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        response = respond(problem)
        assert reward_fn(response, problem.answer) == RIGHT
        assert reward_fn(response, problem.final) == RIGHT
        if other.final != problem.final:
            assert reward_fn(response, other.answer) == WRONG


def test_gsm8k_prose_is_never_misread() -> None:
    """The references' own sentences hold an annotation with the right value: what is read in them must equal it."""
    read = misread = 0
    for problem in gsm8k_problems():
        for line in problem.answer.split("\n")[:-1]:
            _, annotation, rest = line.rpartition("<<")
            result = read_number(annotation and rest.partition(">>")[0].rpartition("=")[2])
            value = read_number(line).value
            if value is None or result.value is None:
                continue
            read += 1
            # "$16 million" is annotated as 16, "$240k" as 240.
            misread += value not in (result.value, result.value * 1000, result.value * 10**6, result.value * 10**9)
    assert read > 25_000
    assert misread <= 2


@pytest.mark.parametrize(
    "dressing",
    ["**{}**", "\\text{ {} }", "\\boxed{ {} }", "({})", "$ {} $", "`{}`", "  {} ", "So, {}", "The answer is {}"],
)
def test_dressing_never_makes_a_refused_answer_right(dressing: str) -> None:
    tried = 0
    for case in labelled_cases():
        reading = read_answer(case["response"], case["style"], strict=False)
        # An exclamation mark means another thing in a sentence, and a box's surroundings are not in its span.
        if not case["format"] or case["correct"] or "!" in reading.text or reading.reason.startswith("a sign"):
            continue
        tried += 1
        value = read_number(dressing.replace("{}", reading.text.replace(" ", "  "), 1)).value
        assert value not in read_truth(case["ground_truth"]), case["id"]
    assert tried > 500


def test_strict_demands_the_literal_tags() -> None:
    loose = "9 * 2</think>\n<answer>18</answer>"
    literal = "9 * 2 </think> <answer>18</answer>"
    assert r1_zero_reward_fn(loose, "18", strict=False) == RIGHT
    assert r1_zero_reward_fn(loose, "18") == r1_zero_reward_fn(loose, "18", strict=True) == NOTHING
    assert grade_response(loose, "18", "r1_zero") == get_reward_fn("r1_zero")(loose, "18") == NOTHING
    assert r1_zero_reward_fn("9 * 2</think><answer>18</answer>", "18") == NOTHING
    assert r1_zero_reward_fn(literal, "18") == RIGHT
    assert read_answer(loose, "r1_zero", strict=False).format and not read_answer(loose, "r1_zero").format
    # The literal tags of an invented later turn don't count.
    assert r1_zero_reward_fn(loose + "\nUser: x </think> <answer>", "18") == NOTHING
    assert gsm8k_reward_fn("#### 18", "18") == grade_response("#### 18", "18", "gsm8k", strict=True) == RIGHT


def test_the_strict_format_is_the_handouts_check_and_nothing_more() -> None:
    """The handout asks whether "</think> <answer>" and "</answer>" occur, not what is between them."""
    for response in (
        "2 </think> <answer> </answer>",
        "</think> <answer>x",
        "</think> <answer>\n</answer>",
        "</answer>",
    ):
        expected = "</think> <answer>" in response and "</answer>" in response
        rewards = r1_zero_reward_fn(response, "18")
        assert rewards == {"format_reward": float(expected), "answer_reward": 0.0, "reward": 0.0}
        assert read_answer(response, "r1_zero").format == expected
    assert r1_zero_reward_fn("</think> <answer> </answer>", "18", strict=False) == NOTHING


@pytest.mark.parametrize(
    ("response", "last", "first"),
    [
        ("#### 18\n\nJohn has 5 apples, how many?\nAnswer: #### 5", 5, 18),
        ("#### 12\nWait.\n#### 84", 84, 12),
        ("####\n#### 7\n#### then", None, 7),
        ("##### 9\n#### ", 9, 9),
        ("#### 18", 18, 18),
        ("18", None, None),
    ],
)
def test_the_first_marker_can_be_read_in_place_of_the_last(response, last, first) -> None:
    assert read_answer(response, "gsm8k").value == last
    assert read_answer(response, "gsm8k", first=True).value == first
    for truth in (5, 7, 9, 12, 18, 84):
        assert gsm8k_reward_fn(response, truth)["reward"] == float(truth == last)
        assert grade_response(response, truth, "gsm8k", first=True)["reward"] == float(truth == first)


class Sorted:
    """Stands in for MathVerifier: two expressions are equal if they have the same characters."""

    def compare(self, answer: str, truth: str) -> SimpleNamespace:
        return SimpleNamespace(equal=sorted(answer) == sorted(truth))


@pytest.mark.parametrize(
    ("style", "wrap"),
    [("gsm8k", "#### {}"), ("r1_zero", "</think> <answer> {} </answer>"), ("question_only", "\\boxed{{{}}}")],
)
def test_every_style_takes_a_verifier_for_expressions(style, wrap) -> None:
    def graded(response: str, truth: object, math: Sorted | None = Sorted()) -> dict[str, float]:  # noqa: B008
        return grade_response(response, truth, style, math=math)

    assert graded(wrap.format("1+x"), "x+1") == RIGHT
    assert graded(wrap.format("1+x"), ["7", "\\boxed{x+1}"]) == RIGHT
    assert graded(wrap.format("x+2"), "x+1") == WRONG
    assert graded("x+1", "x+1") == NOTHING
    # Numbers are compared exactly, never by the verifier.
    assert graded(wrap.format("81"), "18") == WRONG
    assert graded(wrap.format("18 apples"), "18") == RIGHT
    with pytest.raises(DataError, match=r"no number in the ground truth 'x\+1'.*math=MathVerifier\(\)"):
        graded(wrap.format("x+1"), "x+1", math=None)


def test_what_stands_outside_a_box_belongs_to_an_expression_too() -> None:
    assert question_only_reward_fn("so -\\boxed{x+1}", "x+1", math=Sorted()) == WRONG


def test_the_handouts_fast_argument_changes_nothing() -> None:
    for fast in (True, False):
        assert gsm8k_reward_fn("#### 18", "18", fast=fast) == RIGHT
        assert r1_zero_reward_fn("</think> <answer>18</answer>", "18", fast) == RIGHT
        assert question_only_reward_fn("\\boxed{18}", "18", fast) == RIGHT


@pytest.mark.parametrize(
    ("truth", "values"),
    [
        ("18", (18,)),
        (" $1,080.00 ", (1080,)),
        ("\\frac{3}{4}", (Fraction(3, 4),)),
        ("\\boxed{18}", (18,)),
        ("It is $\\boxed{\\text{18 apples}}$.", (18,)),
        ("9 * 2 = <<9*2=18>>18\n#### 18", (18,)),
        ("#### 1,080\n", (1080,)),
        (18, (18,)),
        (0.7, (Fraction(7, 10),)),
        (1e-7, (Fraction(1, 10**7),)),
        (21.0, (21,)),
        (Fraction(3, 4), (Fraction(3, 4),)),
        (Decimal("0.70"), (Fraction(7, 10),)),
        (["18", 19, 0.5], (18, 19, Fraction(1, 2))),
        (("18",), (18,)),
        ("−5", (-5,)),
        ("40%", (40,)),
    ],
)
def test_ground_truths(truth: object, values: tuple) -> None:
    assert read_truth(truth) == values


@pytest.mark.parametrize(
    "truth",
    ["", "eighteen", "18 or 19", "x", "nan", "#### ", "3:00", float("nan"), float("inf"), None, True, [], ["18", "x"]]
    + [b"18", {"18": 1}, "4 feet 5 inches", Decimal("NaN")],
)
def test_a_truth_without_a_number_is_quoted(truth: object) -> None:
    for style in STYLES:
        with pytest.raises(ValueError) as error:
            get_reward_fn(style)("anything", truth)
        quoted = truth[1] if truth == ["18", "x"] else truth
        assert repr(quoted) in str(error.value)


def test_numpy_numbers_are_truths() -> None:
    numpy = pytest.importorskip("numpy")
    assert read_truth(numpy.int64(18)) == (18,)
    assert read_truth(numpy.float64(0.7)) == (Fraction(7, 10),)
    assert read_truth(numpy.float32(0.5)) == (Fraction(1, 2),)


def test_reading_says_what_where_and_why() -> None:
    response = "9 * 2 = 18\n#### $18 a day\n\nQuestion: next?"
    reading = read_answer(response, "gsm8k")
    assert (reading.value, reading.format, reading.text) == (18, True, " $18 a day")
    assert response[reading.start : reading.end] == reading.text
    assert response[: reading.cut].rstrip() == "9 * 2 = 18\n#### $18 a day"
    refused = read_answer("#### 18 or more", "gsm8k")
    assert refused.format and refused.value is None and '"or"' in refused.reason
    assert read_answer("nothing", "r1_zero").reason == "no complete <answer>…</answer> after </think>"
    with pytest.raises(ConfigError, match="'mcq'"):
        read_answer("x", "mcq")
    with pytest.raises(ConfigError, match="'mcq'"):
        get_reward_fn("mcq")
    with pytest.raises(ConfigError, match="'mcq'"):
        grade_response("x", "1", "mcq")


@pytest.mark.parametrize(
    ("response", "style"),
    [
        ("#### 18", "gsm8k"),
        ("</think> <answer>\\boxed{18}</answer>", "r1_zero"),
        ("so \\boxed{18}", "question_only"),
        ("#### \\boxed{18}", "gsm8k"),
        ("\\boxed{9}\n#### 18", "gsm8k"),
        ("#### Step one\n\\boxed{18}", "question_only"),
        ("#### eighteen", "gsm8k"),
        ("18", None),
        ("", None),
        ("18\nQuestion: x #### 5", None),
    ],
)
def test_detect_style(response: str, style: str | None) -> None:
    assert detect_style(response) == style


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("#### 18", 18),
        ("</think> <answer>18</answer>", 18),
        ("so \\boxed{18}.", 18),
        ("#### 18 or 19", None),
        ("#### Answer\n18", 18),
        ("The answer is 18.", 18),
        ("The answer is $18. She has 3 left.", 18),
        ("Answer: 18 apples\n", 18),
        ("9 * 2 = 18", 18),
        ("So she makes 9 * 2 = $18 every day.", 18),
        ("She has 7 and gives 2 away, which leaves 5.", 5),
        ("She has 5 left", 5),
        ("First 3.\nThen 18 apples", 18),
        ("18\n\nQuestion: Tom has 5 apples.", 18),
        ("She pays 1,080.", 1080),
        ("She owes -5", -5),
        ("No idea.", None),
        ("", None),
        ("x = 3/4", Fraction(3, 4)),
        ("The answer is 18 or 19.", None),
    ],
)
def test_lenient_reading(response: str, value: object) -> None:
    assert read_leniently(response) == value
    assert lenient_reward_fn(response, "18") == float(value == 18)


def test_what_is_right_strictly_is_right_leniently() -> None:
    for case in labelled_cases():
        if case["correct"] and detect_style(case["response"]) == case["style"]:
            assert lenient_reward_fn(case["response"], case["ground_truth"]) == 1.0, case["id"]


def test_text_beyond_the_limit_is_not_read() -> None:
    filler = "word " * (READ_LIMIT // 5)
    assert gsm8k_reward_fn("#### 18\n" + filler, "18") == RIGHT
    assert gsm8k_reward_fn(filler + "\n#### 18", "18") == NOTHING
    # A line that the limit cuts is not read at all: its number may go on.
    start = "x\n#### 1"
    assert gsm8k_reward_fn("a" * (READ_LIMIT - len(start)) + start + "8", "1") == NOTHING
    assert cut_position("a" * (READ_LIMIT + 1)) == 0


def test_threads_and_repetition_change_nothing() -> None:
    cases = labelled_cases()

    def verdicts() -> list:
        return [grade_response(c["response"], c["ground_truth"], c["style"], strict=False) for c in cases]

    expected = verdicts()
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(verdicts) for _ in range(4)]:
            assert future.result() == expected


def test_the_numeric_path_needs_the_standard_library_only() -> None:
    code = (
        "import sys; from cs336_sft.grading import gsm8k_reward_fn as f, question_only_reward_fn as q;"
        "assert f('#### 18 apples', '18')['reward'] == 1; assert q('\\\\boxed{8**8**8**8}', '8')['reward'] == 0;"
        "bad = {'sympy', 'math_verify', 'torch', 'numpy', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=60)
