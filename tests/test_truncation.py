"""Where the first answer of an output stands."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.errors import DataError
from cs336_sft.evaluation.truncation import (
    GSM8K_ANSWER,
    AnswerSpan,
    find_first_answer,
    tokens_until,
)
from cs336_sft.generation.response_text import decode_response
from cs336_sft.grading.response_end import cut_position

TEXTS = [
    " 3*12 = <<3*12=36>>36\n#### 36",
    " 3*12 = 36\n#### 36+36 = <<36+36=72>>72\n#### 72",
    " 36\n\nQuestion: Tom has 5.\n#### 5",
    " ####\n#### $1,234.50 a day",
    "#### 7",
    " no answer at all",
    " £5 – 3½\n#### –4 £",
]


def first_answer_by_search(tokenizer, ids) -> AnswerSpan | None:
    """Token by token, from the definition."""
    text = decode_response(tokenizer, ids)
    match = GSM8K_ANSWER.search(text[: cut_position(text)])
    if match is None:
        return None
    shown = [decode_response(tokenizer, ids[:k]) for k in range(len(ids) + 1)]
    end = next(k for k, t in enumerate(shown) if t.startswith(text[: match.end()]))
    begins = next(k for k, t in enumerate(shown) if t.startswith(text[: match.start() + 1]))
    return AnswerSpan(begins - 1, end)


@pytest.mark.parametrize("text", TEXTS)
def test_first_answer_against_a_search_from_the_definition(tokenizer, text) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert find_first_answer(tokenizer, ids) == first_answer_by_search(tokenizer, ids)
    # End-of-text adds no answer and moves none.
    assert find_first_answer(tokenizer, [*ids, tokenizer.eos_token_id]) == first_answer_by_search(tokenizer, ids)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 18", "#### 18"),
        ("so\n#### $1,234.50 a day", "#### $1,234.50"),
        ("#### 63+63 = 126", "#### 63"),  # the first number on the line
        ("#### none\n#### 4", "#### 4"),  # no number on the first marker's line
        ("#### 5.\n", "#### 5"),
        ("## 5", None),
        ("####\n5", None),
    ],
)
def test_what_counts_as_an_answer(text, answer) -> None:
    found = GSM8K_ANSWER.search(text)
    assert (found and found.group()) == answer


def test_an_answer_to_another_problem_is_none(tokenizer) -> None:
    assert find_first_answer(tokenizer, tokenizer(TEXTS[2])["input_ids"]) is None
    assert find_first_answer(tokenizer, tokenizer("#### 36" + TEXTS[2])["input_ids"]).start == 0


def test_the_ends_of_a_span_are_the_limits_that_just_show_it(tokenizer) -> None:
    ids = tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]
    span = find_first_answer(tokenizer, ids)
    assert "####" in decode_response(tokenizer, ids[: span.start + 1])
    assert "#" not in decode_response(tokenizer, ids[: span.start])
    assert decode_response(tokenizer, ids[: span.end]).endswith("#### 36")
    assert not decode_response(tokenizer, ids[: span.end - 1]).endswith("#### 36")


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="a1 #\n£é–½", max_size=24), data=st.data())
def test_tokens_until_is_the_smallest_count(tokenizer, text, data) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = decode_response(tokenizer, ids)
    beginning = whole[: data.draw(st.integers(0, len(whole)))]
    count = tokens_until(tokenizer, ids, beginning)
    shown = [decode_response(tokenizer, ids[:k]).startswith(beginning) for k in range(len(ids) + 1)]
    assert count == shown.index(True)


def test_tokens_until_wants_a_beginning(tokenizer) -> None:
    with pytest.raises(DataError, match="another beginning"):
        tokens_until(tokenizer, tokenizer("abc")["input_ids"], "b")
