"""Properties of the grader: any number in any dress is read, no other number is, and shortcuts change nothing."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cs336_sft.grading import STYLES, grade_response, lenient_reward_fn, read_answer
from cs336_sft.grading.answer_span import find_span
from cs336_sft.grading.ground_truth import read_truth
from cs336_sft.grading.number import read_number, read_number_slowly
from cs336_sft.grading.response_end import first_marker, may_need_cut

_NOUNS = "apples eggs dollars miles hours students boxes marbles pages people minutes pencils cookies".split()
_OPENINGS = [
    "",
    "The answer is ",
    "Answer: ",
    "So she has ",
    "In total there are ",
    "Therefore, the final answer is: ",
    "x = ",
    "= ",
    "The total is ",
    "5 + 3 = ",
    "Janet's profit is ",
]
_CLOSINGS = ["", ".", "!", " in total.", " every day.", " at the market", ", which is the answer.", " (total)"]
_PROSE = st.lists(
    st.sampled_from(
        "Janet sells 9 eggs at $2 each. 9 * 2 = <<9*2=18>>18 dollars so there are then 16 - 7 left \n - ** "
        "3/4 of 1,080 means that we add them \\frac{1}{2} and 40% (see above) not 5 or 6".split(" ")
    ),
    max_size=12,
).map(" ".join)


def _grouped(digits: str, separator: str) -> str:
    return f"{int(digits):,}".replace(",", separator)


@st.composite
def numbers(draw: st.DrawFn) -> tuple[Fraction, str]:
    """A value and one way to write its numeral."""
    kind = draw(st.sampled_from(["integer", "grouped", "decimal", "fraction", "mixed", "exponent", "full width"]))
    negative = draw(st.booleans())
    n = draw(st.one_of(st.integers(0, 20), st.integers(0, 10**7), st.integers(0, 10**20)))
    sign = draw(st.sampled_from(["-", "−"])) if negative else ""
    if kind == "integer":
        value, text = Fraction(n), str(n)
    elif kind == "full width":
        value, text = Fraction(n), "".join(chr(ord(c) + 0xFEE0) for c in str(n))
    elif kind == "grouped":
        value, text = Fraction(n), _grouped(str(n), draw(st.sampled_from([",", "{,}", "\u202f", "\\,"])))
    elif kind == "decimal":
        places = draw(st.text("0123456789", min_size=1, max_size=8))
        value = Fraction(n) + Fraction(int(places), 10 ** len(places))
        text = draw(st.sampled_from([str(n), f"{n:,}"])) + "." + places
    elif kind == "exponent":
        power = draw(st.integers(-12, 12))
        value, text = Fraction(n) * Fraction(10) ** power, f"{n}e{power}"
    else:
        bottom = draw(st.integers(2, 99))
        top = draw(st.integers(1, bottom - 1))
        form = draw(st.sampled_from(["{}/{}", "\\frac{{{}}}{{{}}}", "\\dfrac{{{}}}{{{}}}"])).format(top, bottom)
        value = Fraction(top, bottom)
        if kind == "mixed":
            value, form = value + n, f"{n} {form}"
        text = form
    return (-value if negative else value), sign + text


@st.composite
def answers(draw: st.DrawFn) -> tuple[Fraction, str, str]:
    """A value, a span that states it, and the style it is wrapped for."""
    value, text = draw(numbers())
    negative = value < 0
    if draw(st.booleans()) and not negative:
        text = draw(st.sampled_from(["$", "\\$", "€", "$ "])) + text
    if draw(st.booleans()):
        text = draw(
            st.sampled_from(["**{}**", "*{}*", "`{}`", "\\boxed{{{}}}", "\\textbf{{{}}}", "({})", "$ {} $"])
        ).format(text)
    if draw(st.booleans()):
        noun = draw(st.sampled_from(_NOUNS))
        text += draw(st.sampled_from([" {}", " \\text{{ {} }}", "\\text{{ {}}}", " {} per day"])).format(noun)
    elif draw(st.booleans()):
        text += draw(st.sampled_from(["%", "\\%", " percent"]))
    opening, closing = draw(st.sampled_from(_OPENINGS)), draw(st.sampled_from(_CLOSINGS))
    if closing == "!" and (not opening or "=" in opening):
        closing = "."  # "x = 5!" is a factorial, "The answer is 5!" an exclamation
    return value, opening + text + closing, draw(st.sampled_from(STYLES))


def _wrap(span: str, style: str, before: str, after: str) -> str:
    if style == "gsm8k":
        return f"{before}\n#### {span}\n{after}"
    if style == "r1_zero":
        return f"{before} </think> <answer> {span} </answer> {after}"
    return f"{before}\n\\boxed{{{span}}}\n{after}"


@settings(max_examples=600, deadline=None, derandomize=True)
@given(answers(), _PROSE, _PROSE)
def test_any_number_in_any_dress_and_prose_is_right(answer: tuple, before: str, after: str) -> None:
    value, span, style = answer
    response = _wrap(span, style, before, after)
    assert read_answer(response, style).value == value, read_answer(response, style)
    assert grade_response(response, value, style)["reward"] == 1.0
    invented = "\n\nQuestion: Tom has 5 apples.\nAnswer: #### 5 </think> <answer>5</answer> \\boxed{5}"
    assert grade_response(response + invented, value, style)["reward"] == 1.0


@settings(max_examples=600, deadline=None, derandomize=True)
@given(answers(), st.one_of(st.integers(-(10**6), 10**6).map(Fraction), numbers().map(lambda pair: pair[0])), _PROSE)
def test_any_other_number_is_wrong(answer: tuple, other: Fraction, before: str) -> None:
    value, span, style = answer
    if other == value:
        return
    response = _wrap(span, style, before, "")
    assert grade_response(response, other, style) == {"format_reward": 1.0, "answer_reward": 0.0, "reward": 0.0}
    for near in (-value, value * 10, value / 10, value / 100, value + Fraction(1, 10**6), value + 1):
        if near != value:
            assert grade_response(response, near, style)["reward"] == 0.0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    numbers(),
    numbers(),
    st.sampled_from([" or ", " and ", ", ", "; ", " to ", "-", " - ", " + ", ":", " / 7 / ", "\n", " "]),
)
def test_two_numbers_are_no_answer(first: tuple, second: tuple, between: str) -> None:
    span = first[1] + between + second[1]
    value = read_number(span).value
    # Written together some pairs are one number: "3" and "1/4" is a mixed number, "1" "," "080" is 1,080.
    if value is not None:
        assert (
            between in (" ", "\n", " and ", "-", ":", ", ", "; ")
            and value not in (first[0], second[0])
            or first[0] == 0
        )
    for one in (first[0], second[0]):
        if between in (" or ", ", ", "; ", " to ", " + ", ":", " / 7 / "):
            assert grade_response("#### " + span.replace("\n", " "), one)["reward"] == 0.0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    numbers(),
    st.sampled_from(["not ", "more than ", "at least ", "> ", "≥ ", "\\le ", "up to ", "less than ", "never "]),
)
def test_denials_and_inequalities_are_no_answer(number: tuple, word: str) -> None:
    assert read_number(word + number[1]).value is None
    assert read_number("It is " + word + number[1] + " apples").value is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(numbers())
def test_a_truth_is_read_like_an_answer(number: tuple) -> None:
    value, text = number
    for truth in (text, f"\\boxed{{{text}}}", f"some text\n#### {text}", f"{text} apples"):
        assert read_truth(truth) == (value,)
    assert lenient_reward_fn(f"The answer is {text}", text) == 1.0


_ANY_TEXT = st.text(
    st.one_of(
        st.sampled_from(list(" \n#0123456789.,-$%/{}<>|:=()*\\abcdexqQ")),
        st.characters(codec=None, exclude_categories=()),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(_ANY_TEXT)
@example("１８")
@example(" $1,080 ")
@example("-0")
def test_the_shortcut_for_plain_numbers_changes_nothing(span: str) -> None:
    assert read_number(span) == read_number_slowly(span)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.from_regex(r"[ \t]*\$?-?(?:[0-9]{1,16}|[0-9]{1,4}(?:,[0-9]{2,4}){1,5})[ \t]*", fullmatch=True), _ANY_TEXT)
def test_the_shortcuts_agree_on_what_they_are_made_for(span: str, before: str) -> None:
    assert read_number(span) == read_number_slowly(span)
    text = before + "####" + span
    found = find_span(text, "gsm8k")
    assert found is not None and read_number(text[found.start : found.end]) == read_number_slowly(span)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    _ANY_TEXT,
    st.sampled_from(["", "\n", "Question:", "\nq 1 :", "</s>", "\nUser :", "[INST]", "\n**Problem 3**\n", "Q:"]),
    _ANY_TEXT,
)
def test_the_quick_test_for_a_cut_misses_no_marker(before: str, marker: str, after: str) -> None:
    text = before + marker + after
    if not may_need_cut(text):
        assert first_marker(text) == len(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_ANY_TEXT, st.sampled_from(["{}", "#### {}", "</think><answer>{}</answer>", "\\boxed{{{}}}"]))
def test_no_text_raises_and_the_rewards_are_those_of_the_reading(text: str, wrapper: str) -> None:
    response = wrapper.format(text)
    for style in STYLES:
        for options in ({}, {"strict": False, "first": True}):
            rewards = grade_response(response, ["5", "18"], style, **options)
            reading = read_answer(response, style, **options)
            assert rewards["format_reward"] == float(reading.format)
            assert rewards["reward"] == rewards["answer_reward"] == float(reading.value in (5, 18))
    assert lenient_reward_fn(response, 5) in (0.0, 1.0)
