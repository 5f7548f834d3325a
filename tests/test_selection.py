"""What a round of expert iteration trains on: against brute force, and case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.expert_iteration.selection import (
    answer_length,
    flip_verdicts,
    lenient_verdicts,
    random_samples,
    select_samples,
    training_example,
)
from cs336_sft.prompts import get_template
from cs336_sft.records import Generation, Graded, Problem


def sample(question: str, number: int, text: str, reward: float = 1.0, lenient: float = 1.0, **values) -> Graded:
    problem = Problem(f"question {question}", "#### 5", "5", id=question)
    generation = Generation(problem.question, tuple(map(ord, text)), text, "stop", sample=number)
    return Graded(problem, replace(generation, **values), reward, reward, reward, lenient)


samples = st.lists(
    st.builds(
        sample,
        st.sampled_from("ABC"),
        st.integers(0, 5),
        st.sampled_from(["x", " x", "x\n", "y", "z"]),
        st.sampled_from([0.0, 1.0]),
    ),
    max_size=20,
)


@given(samples, st.one_of(st.none(), st.integers(1, 3)))
def test_selection_equals_the_rules_read_aloud(graded, cap):
    expected = []
    for i, item in enumerate(graded):
        same = [j for j in graded[:i] if j.problem.id == item.problem.id and j.reward > 0]
        texts = {j.generation.text.strip() for j in same}
        new = item.generation.text.strip() not in texts
        if item.reward > 0 and new and (cap is None or len(texts) < cap):
            expected.append(item)
    assert select_samples(graded, cap) == expected


def test_duplicates_can_be_kept():
    graded = [sample("A", 0, "x"), sample("A", 1, "x"), sample("A", 2, "y", reward=0.0)]
    assert select_samples(graded) == graded[:1]
    assert select_samples(graded, drop_duplicates=False) == graded[:2]


@given(samples, st.integers(0, 25), st.integers(0, 3))
def test_the_random_control_takes_that_many_of_all_whatever_their_verdict(graded, n, seed):
    chosen = random_samples(graded, n, seed)
    pool = {(i.problem.id, i.generation.text.strip()) for i in graded}
    keys = [(i.problem.id, i.generation.text.strip()) for i in chosen]
    assert len(keys) == len(set(keys)) == min(n, len(pool))
    assert chosen == random_samples(graded, n, seed)
    blind = random_samples([replace(i, reward=0.0) for i in graded], n, seed)
    assert [replace(i, reward=0.0) for i in chosen] == blind
    positions = [next(k for k, other in enumerate(graded) if other is i) for i in chosen]
    assert positions == sorted(positions)


def test_the_random_control_is_uniform():
    graded = [sample("A", i, str(i), reward=float(i == 0)) for i in range(4)]
    hits = sum(graded[0] in random_samples(graded, 2, seed) for seed in range(2000))
    assert 900 < hits < 1100  # half, 4.5 standard errors


def test_the_lenient_judge_replaces_the_reward_alone():
    item = sample("A", 0, "so 5", reward=0.0, lenient=1.0)
    [judged] = lenient_verdicts([item])
    assert judged == replace(item, reward=1.0)


def test_grader_errors_are_as_frequent_as_asked_both_ways_and_fixed_by_the_seed():
    graded = [sample(f"q{i}", i % 3, "x", reward=float(i % 2)) for i in range(4000)]
    flipped = flip_verdicts(graded, 0.1, seed=3)
    for right in (0.0, 1.0):
        changed = [a.reward != b.reward for a, b in zip(graded, flipped, strict=True) if a.reward == right]
        assert 0.08 < sum(changed) / len(changed) < 0.12
    assert flipped == flip_verdicts(graded, 0.1, seed=3) != flip_verdicts(graded, 0.1, seed=4)
    alone = flip_verdicts(graded[7:8], 0.1, seed=3)
    assert alone == flipped[7:8]  # whatever else is graded
    assert flip_verdicts(graded, 0.0, seed=3) == graded


# --- training examples: the ids that were sampled


def generated(tokenizer, ids, finish="stop", prompt="Tom has", final="36"):
    ids = tuple(ids)
    text = tokenizer.decode([i for i in ids if i != tokenizer.eos_token_id])
    problem = Problem("q", f"#### {final}", final, id="q")
    return Graded(problem, Generation(prompt, ids, text, finish), 1.0, 1.0, 1.0, 1.0)


def odd_ids(tokenizer, text: str) -> tuple[int, ...]:
    """The text letter by letter: ids that the tokenizer itself would not choose."""
    return tuple(i for letter in text for i in tokenizer(letter)["input_ids"])


def test_sampled_ids_are_trained_on_as_they_are(tokenizer):
    ids = (*odd_ids(tokenizer, " pencils\n#### 36"), tokenizer.eos_token_id)
    assert list(ids[:-1]) != tokenizer(" pencils\n#### 36")["input_ids"]
    example = training_example(generated(tokenizer, ids), tokenizer)
    assert example.response_ids == ids
    assert example.prompt_ids == tuple(tokenizer("Tom has")["input_ids"])


def test_end_of_text_is_appended_once_and_only_to_what_ended(tokenizer):
    eos, ids = tokenizer.eos_token_id, odd_ids(tokenizer, "#### 36")
    assert training_example(generated(tokenizer, (*ids, eos)), tokenizer).response_ids == (*ids, eos)
    stopped = generated(tokenizer, ids)  # at a stop string
    assert training_example(stopped, tokenizer).response_ids == (*ids, eos)
    assert training_example(stopped, tokenizer, append_eos=False).response_ids == ids
    cut_off = generated(tokenizer, ids, finish="length")
    assert training_example(cut_off, tokenizer).response_ids == ids


def test_the_format_line_comes_before_end_of_text(tokenizer):
    eos, ids = tokenizer.eos_token_id, odd_ids(tokenizer, " The answer is 36.")
    example = training_example(generated(tokenizer, (*ids, eos)), tokenizer, add_format=True)
    assert example.response_ids == (*ids, *tokenizer("\n#### 36")["input_ids"], eos)


@pytest.mark.parametrize(
    ("style", "text", "kept"),
    [
        ("gsm8k", " 3*12 = 36\n#### 36\n\nQuestion: Tom has", " 3*12 = 36\n#### 36"),
        ("gsm8k", "#### 36", "#### 36"),
        ("r1_zero", "so </think> <answer> 36 </answer> and", "so </think> <answer> 36 </answer>"),
        ("question_only", "so \\boxed{36} because", "so \\boxed{36}"),
    ],
)
def test_a_cut_off_sample_is_trimmed_to_its_answer(tokenizer, style, text, kept):
    assert get_template(style).name == style
    ids = odd_ids(tokenizer, text)
    item = generated(tokenizer, ids, finish="length")
    n = answer_length(item, tokenizer, style)
    assert tokenizer.decode(list(ids[:n])) == kept
    example = training_example(item, tokenizer, trim=style)
    assert example.response_ids == (*ids[:n], tokenizer.eos_token_id)
    ended = generated(tokenizer, ids)
    assert training_example(ended, tokenizer, trim=style).response_ids == (*ids, tokenizer.eos_token_id)
