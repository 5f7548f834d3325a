"""Text that is meant to break a grader: it must be graded without an exception, and fast."""

from __future__ import annotations

import os
import random
import time

import pytest

from cs336_sft.grading import STYLES, detect_style, get_reward_fn, lenient_reward_fn, read_answer
from cs336_sft.grading.number import read_number

SLOWEST = 0.050  # seconds for one grade, the best of five
FUZZ_SHORT = 20_000
FUZZ_SOAK = 1_000_000

_BODIES = {
    "digits": "1" * 10_000_000,
    "letters": "a" * 10_000_000,
    "spaces": " " * 10_000_000,
    "open braces": "{" * 100_000,
    "close braces": "}" * 100_000,
    "nested braces": "{" * 50_000 + "}" * 50_000,
    "nested boxes": "\\boxed{" * 14_000 + "18" + "}" * 14_000,
    "unclosed boxes": "\\boxed{" * 14_000,
    "boxes": "\\boxed{18}" * 10_000,
    "spaced boxes": "\\boxed        " * 7_000,
    "nested tags": "</think>" + "<answer>" * 6_000 + "18" + "</answer>" * 5_000,
    "stray closing tags": "</think><answer>" + "</answer>" * 11_000,
    "unclosed tags": "</think>" + "<answer>" * 12_000,
    "thinks": "</think>" * 12_000,
    "hashes": "#" * 100_000,
    "hash lines": "####\n" * 20_000,
    "hash groups": "#### " * 20_000,
    "hash newline run": "####" + "\n" * 99_000,
    "fractions": "\\frac{" * 16_000,
    "fraction digits": "\\frac12" * 14_000,
    "annotations": "<<" * 50_000,
    "closed annotations": "<<1>>" * 20_000,
    "commas": "1," * 50_000,
    "dots": "1." * 50_000,
    "slashes": "1/" * 50_000,
    "equals": "=" * 100_000,
    "equations": "1=" * 50_000,
    "minus signs": "-" * 100_000,
    "stars": "*" * 100_000,
    "spaced stars": "* " * 50_000,
    "underscores": "_a" * 50_000,
    "dollars": "$" * 100_000,
    "backslashes": "\\" * 100_000,
    "million": "18" + " million" * 12_000,
    "tower": "8**" * 30_000 + "8",
    "latex tower": "8^{" * 25_000 + "8" + "}" * 25_000,
    "exponent": "1e" + "9" * 10_000,
    "scientific": "1 \\times 10^{" + "9" * 10_000 + "}",
    "long integer": "9" * 10_000,
    "long decimal": "0." + "3" * 10_000,
    "NULs": "\x00" * 100_000,
    "surrogates": "\ud800" * 50_000,
    "right to left": "\u202e18\u200f" * 20_000,
    "zero width": "\u200b" * 100_000,
    "combining": "1" + "\u0336" * 100_000,
    "questions": "Question " * 11_000,
    "question lines": "question\n" * 11_000,
    "question colons": "q:" * 50_000,
    "question words": "question: " * 10_000,
    "question numbers": "\nquestion 1111" * 7_000,
    "turns": "the user: " * 10_000,
    "marker leads": "\n" + "> * _ # - " * 10_000 + "x: question",
    "chat openings": "<|" * 50_000,
    "chat bars": "<|a" * 33_000,
    "inst": "[INST" * 20_000,
    "html": "<b " * 33_000,
    "entities": "&lt;&#49;" * 11_000,
    "code": "__import__('os').system('true')\n" * 3_000,
    "words": "one " * 25_000,
    "answer is": "the answer is " * 7_000,
    "answer colon": "answer:" * 14_000,
    "sentences": "A. " * 33_000,
    "lambda": "lambda: 18\n" * 9_000,
    "one line of prose": "The cat sat on 1 mat. " * 4_500,
    "vulgar fractions": "½" * 100_000,
    "emoji": "🎉" * 50_000,
    "tabs": "\t" * 100_000,
    "carriage returns": "\r" * 100_000,
    "line separators": "\u2028" * 100_000,
}
_WRAPPERS = {
    "bare": "{}",
    "hashes": "#### {}",
    "tags": "</think> <answer>{}</answer>",
    "box": "\\boxed{{{}}}",
    "short hashes": None,  # the first 900 characters, so that the number reader gets the text
}


def hostile_texts(body_name: str) -> list[tuple[str, str]]:
    """(name, text) of one body in every wrapper."""
    body = _BODIES[body_name]
    return [
        (f"{body_name}, {name}", "#### " + body[:900] if wrapper is None else wrapper.format(body))
        for name, wrapper in _WRAPPERS.items()
    ]


def slowest_grade(text: str, rounds: int = 5) -> float:
    """CPU seconds of the slowest of the four graders on ``text``, each the best of ``rounds``."""
    graders = [get_reward_fn(style) for style in STYLES] + [lenient_reward_fn]
    slowest = 0.0
    for grader in graders:
        best = float("inf")
        for _ in range(rounds):
            start = time.process_time()
            grader(text, "18")
            best = min(best, time.process_time() - start)
            if best < SLOWEST / 10:
                break
        slowest = max(slowest, best)
    return slowest


@pytest.mark.parametrize("name", _BODIES)
def test_hostile_text_is_graded_fast(name: str) -> None:
    for full_name, text in hostile_texts(name):
        seconds = slowest_grade(text)
        assert seconds < SLOWEST, f"{full_name}: {seconds * 1000:.1f} ms"


def test_huge_numbers_are_no_number() -> None:
    for span in ("1e999999999", "1e-999999999", "9" * 400, "1 × 10^99999999", "0." + "1" * 400):
        assert read_number(span).value is None


_PIECES = (
    "#### |####|\n|\r\n| |  |18|1,080|0|5|.|,|-|−|–|—|+|*|**|/|=|^|%|$|\\$|€|(|)|[|]|{|}|\\boxed{|\\frac{|\\frac12|}{|"
    "\\text{|\\times|\\le|\\pm|\\,|{,}|<answer>|</answer>|</think>| <answer>|<<|>>|<|>|~|~~|`|_|#|&|@|!|?|:|;|'|\"|"
    "apples|dollars| or | not | and |million|half|eighteen|e3|1e9|x|pm|th|May|Question:|Q:|User:|\nQuestion: |"
    "<|im_end|>|</s>|½|²|５|\u200b|\u202e|\u2009|\x00|\ud800|🎉|π|√|"
    "≥|≈|→|é|元|不|٣|&lt;|\t|the answer is |#### 18|\\boxed{18}"
).split("|")


def _fuzzed(generator: random.Random) -> str:
    if generator.random() < 0.1:
        return "".join(chr(generator.randrange(0x110000)) for _ in range(generator.randrange(30)))
    return "".join(generator.choice(_PIECES) for _ in range(generator.randrange(1, 14)))


def _fuzz(count: int, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(count):
        text = _fuzzed(generator)
        style = generator.choice(STYLES)
        wrapped = generator.choice((text, "#### " + text, f"</think><answer>{text}</answer>", f"\\boxed{{{text}}}"))
        verdict = get_reward_fn(style)(wrapped, "18")
        reading = read_answer(wrapped, style)
        # The two ways through the code agree, and so do a verdict and its explanation.
        assert verdict["format_reward"] == float(reading.format), repr(wrapped)
        assert verdict["reward"] == float(reading.value == 18), repr(wrapped)
        if reading.format:
            assert wrapped[reading.start : reading.end] == reading.text
        lenient_reward_fn(wrapped, "18")


def test_fuzzed_strings_never_raise() -> None:
    _fuzz(FUZZ_SHORT, seed=0)


@pytest.mark.soak
def test_a_million_fuzzed_strings_never_raise() -> None:
    _fuzz(int(os.environ.get("CS336_FUZZ", FUZZ_SOAK)), seed=1)


def test_detect_style_takes_anything() -> None:
    generator = random.Random(2)
    for _ in range(2_000):
        assert detect_style(_fuzzed(generator)) in (*STYLES, None)


@pytest.mark.parametrize("length", [150, 900, 1_100, 5_000])
@pytest.mark.parametrize("filler", ["and on ", "x", "= ", "½ "])
def test_a_sentence_that_rambles_on_after_its_last_digit_is_read_all_the_same(filler: str, length: int) -> None:
    # Seen with SmolLM2 on GSM8K: more than 1,000 characters without a digit, in the sentence that held the answer.
    response = "She has 12 apples and so " + filler * (length // len(filler))
    assert lenient_reward_fn(response, "12") in (0.0, 1.0)
    if filler == "and on " and length < 2_000:
        assert lenient_reward_fn(response, "12") == 1.0
