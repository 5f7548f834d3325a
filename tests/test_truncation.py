"""Where answers stand, how outputs end, how likely the model is to stop; and scores under other rules of stopping."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.evaluation.truncation import (
    GSM8K_ANSWER,
    AnswerSpan,
    count_endings,
    eos_log_probs,
    find_first_answer,
    find_recorded_answer,
    rescore_at_first_answer,
    rescore_in_context,
    rescore_with_stop,
    tokens_until,
)
from cs336_sft.experiments.record import token_ends
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.response_text import decode_response
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.grading.response_end import cut_position
from cs336_sft.prompts import get_template
from cs336_sft.records import Example, Generation, Graded, Problem

TEXTS = [
    " 3*12 = <<3*12=36>>36\n#### 36",
    " 3*12 = 36\n#### 36+36 = <<36+36=72>>72\n#### 72",
    " 36\n\nQuestion: Tom has 5.\n#### 5",
    " ####\n#### $1,234.50 a day",
    "#### 7",
    " no answer at all",
    " £5 – 3½\n#### –4 £",
]


def item(text: str, tokenizer, *, final: str = "36", eos: bool = False, prompt: str = "Q") -> Graded:
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids += (tokenizer.eos_token_id,) * eos
    generation = Generation(prompt, ids, decode_response(tokenizer, ids), "stop" if eos else "length")
    verdicts = gsm8k_reward_fn(text, final)
    problem = Problem("How many?", f"#### {final}", final, id=text)
    return Graded(
        problem, generation, verdicts["format_reward"], verdicts["answer_reward"], verdicts["reward"], lenient=0.0
    )


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
    # A record knows the tokens by their lengths alone.
    whole = decode_response(tokenizer, ids)
    assert find_recorded_answer(whole, token_ends(tokenizer, ids, whole)) == first_answer_by_search(tokenizer, ids)
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


def test_endings_are_counted_in_their_cells(tokenizer) -> None:
    graded = [item(TEXTS[0], tokenizer, eos=True), item(TEXTS[0], tokenizer), item(TEXTS[5], tokenizer)]
    assert count_endings(graded) == {
        ("stop", True): 1,
        ("stop", False): 0,
        ("length", True): 1,
        ("length", False): 1,
    }
    assert sum(count_endings([]).values()) == 0


def test_eos_log_prob_is_that_of_a_full_forward_pass(tokenizer, random_model) -> None:
    eos = tokenizer.eos_token_id
    prompt, response = (tuple(tokenizer(text)["input_ids"]) for text in ("Tom has 3 boxes.", " 36\n#### 36"))
    with_eos, without = Example(prompt, (*response, eos)), Example(prompt, response)
    random_model.train()
    values = eos_log_probs(random_model, tokenizer, [with_eos, without, Example(prompt, ())])
    assert random_model.training  # put back
    random_model.eval()
    with torch.no_grad():
        logits = random_model(torch.tensor([prompt + response])).logits[0]  # [T, V]
    expected = [logits[-1].log_softmax(-1)[eos].item(), logits[len(prompt) - 1].log_softmax(-1)[eos].item()]
    assert values == pytest.approx([expected[0], expected[0], expected[1]], abs=1e-5)
    assert expected[0] != pytest.approx(expected[1], abs=1e-2)  # else the test could not tell positions apart


def test_eos_log_prob_needs_an_eos_and_tokens(random_model, tokenizer) -> None:
    with pytest.raises(DataError, match="without tokens"):
        eos_log_probs(random_model, tokenizer, [Example((), (tokenizer.eos_token_id,))])

    class Bare:
        eos_token_id = None

    with pytest.raises(ConfigError, match="no end-of-text"):
        eos_log_probs(random_model, Bare(), [])


@pytest.fixture
def stored(random_model, tokenizer, problems):
    """Greedy generations of a random model, made without stop strings."""
    return run(random_model, tokenizer, problems, SamplingConfig(max_new_tokens=24))


def run(model, tokenizer, problems, sampling):
    template = get_template("gsm8k")
    return evaluate(HFSampler(model, tokenizer), problems[:6], template, gsm8k_reward_fn, sampling).graded


def test_stop_strings_after_the_fact_equal_stop_strings_while_generating(
    random_model, tokenizer, problems, stored
) -> None:
    characters = sorted({c for graded in stored for c in graded.generation.text})
    stop = tuple(characters[:: max(1, len(characters) // 3)])
    expected = run(random_model, tokenizer, problems, SamplingConfig(max_new_tokens=24, stop=stop))
    assert any(graded.generation.stop_reason for graded in expected)
    assert rescore_with_stop(stored, stop, tokenizer, gsm8k_reward_fn) == expected


def test_of_two_stop_strings_the_one_completed_first_ends_it(tokenizer) -> None:
    (graded,) = rescore_with_stop([item(" ab cd ef", tokenizer)], ("ef", "cd"), tokenizer, gsm8k_reward_fn)
    assert (graded.generation.text, graded.generation.stop_reason) == (" ab cd", "cd")
    assert graded.generation.finish_reason == "stop"


@pytest.mark.parametrize("stop", ["x", (), ("x", "")])
def test_stop_strings_are_checked(tokenizer, stop) -> None:
    with pytest.raises(ConfigError, match="stop is"):
        rescore_with_stop([], stop, tokenizer, gsm8k_reward_fn)


def test_a_small_context_clips_long_prompts_first(tokenizer) -> None:
    short, long = "Q", "Q: Tom has 3 boxes."
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in (short, long)]
    graded = [item(TEXTS[1], tokenizer, prompt=prompt) for prompt in (short, long)]
    total = len(graded[0].generation.token_ids)
    context = lengths[0] + total
    clipped = rescore_in_context(graded, context, tokenizer, gsm8k_reward_fn)
    assert clipped[0] == graded[0]  # just fits
    assert len(clipped[1].generation.token_ids) == context - lengths[1] < total
    assert clipped[1].generation.finish_reason == "length"
    assert clipped[1].generation.text == decode_response(tokenizer, clipped[1].generation.token_ids)
    with pytest.raises(ContextLengthError, match=f"at least {lengths[1] + 1}"):
        rescore_in_context(graded, lengths[1], tokenizer, gsm8k_reward_fn)


def test_stopping_at_the_first_answer_undoes_what_came_after(tokenizer) -> None:
    corrupted, fine, none = (item(text, tokenizer) for text in (TEXTS[1], TEXTS[0], TEXTS[5]))
    assert corrupted.reward == 0.0
    rescored = rescore_at_first_answer([corrupted, fine, none], tokenizer, gsm8k_reward_fn)
    assert rescored[0].reward == 1.0
    assert rescored[0].generation.text == " 3*12 = 36\n#### 36"
    assert rescored[0].generation.finish_reason == "stop"
    assert rescored[1:] == (fine, none)


def test_tokenwise_records_are_cut_with_the_tokens(tokenizer) -> None:
    graded = item(TEXTS[1], tokenizer)
    values = tuple(float(k) for k in range(len(graded.generation.token_ids)))
    graded = replace(graded, generation=replace(graded.generation, logprobs=values, entropies=values))
    for (cut,) in (
        rescore_at_first_answer([graded], tokenizer, gsm8k_reward_fn),
        rescore_with_stop([graded], ("+",), tokenizer, gsm8k_reward_fn),
    ):
        count = len(cut.generation.token_ids)
        assert 0 < count < len(values)
        assert cut.generation.logprobs == cut.generation.entropies == values[:count]
