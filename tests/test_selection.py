"""What a round of expert iteration trains on: against brute force, and case by case."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.selection import (
    flip_rewards,
    questions_of_round,
    random_samples,
    round_metrics,
    select_for_training,
    select_samples,
    selection_rewards,
    training_example,
)
from cs336_sft.prompts import get_template
from cs336_sft.records import Example, Generation, Graded, Problem


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
def test_the_random_control_takes_that_many_of_all_whatever_their_reward(graded, n, seed):
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


def test_the_reward_used_for_selection_is_the_graders():
    graded = [sample("A", 0, "so 5", reward=0.0, lenient=1.0), sample("B", 0, "#### 5"), sample("C", 0, "", 0.0, 0.0)]
    lenient = ExpertIterationConfig(selection_grader="lenient")
    assert selection_rewards(ExpertIterationConfig(), graded) == [0.0, 1.0, 0.0]
    assert selection_rewards(lenient, graded) == [1.0, 1.0, 0.0]

    def empty(response, reference):
        assert reference == "5"
        return {"format_reward": 1.0, "answer_reward": 1.0, "reward": float(not response)}

    assert selection_rewards(lenient, graded, empty) == [0.0, 0.0, 1.0]
    assert select_samples(graded, rewards=[1.0, 0.0, 1.0]) == [graded[0], graded[2]]


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_sample_that_the_limit_cut_off_is_never_correct(error):
    graded = [sample("A", 0, "#### 5", finish_reason="length"), sample("B", 0, "5", 0.0, finish_reason="length")]
    assert selection_rewards(ExpertIterationConfig(grader_error=error), graded) == [0.0, 0.0]


def test_grader_errors_are_as_frequent_as_asked_both_ways_and_fixed_by_the_seed():
    graded = [sample(f"q{i}", i % 3, "x", reward=float(i % 2)) for i in range(4000)]
    rewards = [item.reward for item in graded]
    flipped = flip_rewards(graded, rewards, 0.1, seed=3)
    for right in (0.0, 1.0):
        changed = [a != b for a, b in zip(rewards, flipped, strict=True) if a == right]
        assert 0.08 < sum(changed) / len(changed) < 0.12
    assert flipped == flip_rewards(graded, rewards, 0.1, seed=3) != flip_rewards(graded, rewards, 0.1, seed=4)
    assert flip_rewards(graded[7:8], rewards[7:8], 0.1, seed=3) == flipped[7:8]  # whatever else is graded
    assert flip_rewards(graded, rewards, 0.0, seed=3) == rewards
    assert flip_rewards(graded, rewards, 1.0, seed=3) == [1.0 - reward for reward in rewards]


def test_which_rewards_are_flipped_is_fixed_for_good():
    """By the first 8 bytes of BLAKE2b of "seed/question/sample", read as a fraction."""
    graded = [sample(question, number, "x") for question in "AB" for number in range(4)]

    def uniform(name):
        return int(hashlib.blake2b(name.encode(), digest_size=8).hexdigest(), 16) / 2**64

    fractions = [uniform(f"3/{item.problem.id}/{item.generation.sample}") for item in graded]
    for error in (0.2, 0.5, 0.8, fractions[0]):
        expected = [float(fraction >= error) for fraction in fractions]
        assert flip_rewards(graded, [1.0] * 8, error, seed=3) == expected
    assert flip_rewards(graded[:1], [0.25], 0.0, seed=3) == [0.25]  # a reward that is not flipped stays as it is
    odd = sample("\ud800", 0, "x")  # half of a surrogate pair
    assert flip_rewards([odd], [0.0], 1.0, seed=3) == [1.0]
    flipped = selection_rewards(ExpertIterationConfig(grader_error=0.5, seed=3), graded)
    assert flipped == flip_rewards(graded, [1.0] * 8, 0.5, seed=3)


def test_a_finish_reason_read_from_a_file_counts_like_a_literal():
    cut_off, strict = json.loads('["length", "lenient"]')
    graded = [sample("A", 0, "5", reward=0.0), sample("B", 0, "5", finish_reason=cut_off)]
    assert selection_rewards(ExpertIterationConfig(selection_grader=strict), graded) == [1.0, 0.0]


# --- a round: its questions, its examples, its metrics


def test_a_round_draws_its_questions_from_the_pool_without_replacement():
    pool = [Problem(f"q{i}", "#### 5", "5") for i in range(20)]
    config = ExpertIterationConfig(questions_per_round=8)
    drawn = [questions_of_round(pool, config, number) for number in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != questions_of_round(pool, replace(config, seed=1), 1)
    assert all(len(set(questions)) == 8 and set(questions) <= set(pool) for questions in drawn)
    assert questions_of_round(pool, replace(config, questions_per_round=20), 1) == pool
    pool = [Problem(f"q{i}", "#### 5", "5") for i in range(300)]
    assert questions_of_round(pool, replace(config, questions_per_round=int("300")), 1) == pool
    with pytest.raises(ValueError, match="larger than population"):
        questions_of_round(pool[:7], config, 1)


ROUND = ExpertIterationConfig(rounds=2, batch_size=2, epochs=3, seed=4)


def graded_round(tokenizer):
    """Question A: two right (one of them twice) and one wrong; B: one right; C: one cut off."""
    eos = tokenizer.eos_token_id
    values = [("A", " 5", 1.0), ("A", " 6", 0.0), ("A", "5", 1.0), ("A", "4+1=5", 1.0), ("B", "#### 5", 1.0)]
    graded = [
        sample(question, number, text, reward, token_ids=(*odd_ids(tokenizer, text), eos))
        for number, (question, text, reward) in enumerate(values)
    ]
    return [*graded, sample("C", 5, "1 2 3", 0.0, 0.0, token_ids=odd_ids(tokenizer, "1 2 3"), finish_reason="length")]


def select_of_round(tokenizer, number=1, **settings):
    graded, config = graded_round(tokenizer), replace(ROUND, **settings)
    questions = list({item.problem.id: item.problem for item in graded}.values())
    rewards = selection_rewards(config, graded)
    template = get_template("gsm8k")
    return graded, select_for_training(config, number, questions, graded, rewards, template, tokenizer)


def test_a_round_trains_on_its_correct_samples(tokenizer):
    graded, selection = select_of_round(tokenizer)
    kept = [graded[0], graded[3], graded[4]]
    assert selection.examples() == [training_example(item, tokenizer) for item in kept]
    prompts = [tokenizer(item.generation.prompt)["input_ids"] for item in kept]
    assert selection.rows == [
        {
            "round": 1,
            "source": "rollout",
            "id": item.problem.id,
            "sample": item.generation.sample,
            "text": item.generation.text,
            "reward": 1.0,
            "lenient": 1.0,
            "finish_reason": "stop",
            "prompt_ids": prompt,
            "response_ids": list(item.generation.token_ids),
        }
        for item, prompt in zip(kept, prompts, strict=True)
    ]
    assert (selection.steps, selection.would_keep) == (3 * 2, 3)  # 3 epochs of a batch of 2 and one of 1
    assert selection.kept["n"] == 3 and selection.kept["n_questions"] == 2
    metrics = round_metrics(graded, selection)
    assert (metrics["rollout_n"], metrics["would_keep"], metrics["kept_n"], metrics["kept_n_questions"]) == (6, 3, 3, 2)


def test_limits_of_a_round(tokenizer):
    def taken(**settings):
        _, selection = select_of_round(tokenizer, **settings)
        return [row["sample"] for row in selection.rows], selection.steps, selection.would_keep

    assert taken(max_per_question=1) == ([0, 4], 3, 2)
    assert taken(drop_duplicates=False) == ([0, 2, 3, 4], 6, 4)
    assert taken(samples_per_round=(1, 5), number=2) == ([0, 3, 4], 9, 3)  # no more than there are
    samples, steps, would_keep = taken(samples_per_round=(1, 5), number=1)
    assert (len(samples), steps, would_keep) == (1, 3, 3)
    assert taken(samples_per_round=(0, 5)) == ([], 0, 3)
    samples, steps, _ = taken(rounds=3, samples_per_round=(3, 3, 2), number=3)
    assert (len(samples), steps) == (2, 3)


def test_the_controls_of_a_round(tokenizer):
    graded, random = select_of_round(tokenizer, select="random")
    assert random.examples() == [
        training_example(item, tokenizer) for item in random_samples(graded, 3, ROUND.round_seed(1))
    ]
    graded, finished = select_of_round(tokenizer, select="finished", samples_per_round=(9, 9))
    assert [row["sample"] for row in finished.rows] == [0, 1, 3, 4] and finished.steps == 3 * 5
    graded, human = select_of_round(tokenizer, select="human")
    assert (human.steps, human.would_keep, human.kept) == (6, 3, {})
    origins = [(row["round"], row["source"], row["id"], row["sample"], row["text"]) for row in human.rows]
    assert origins == [(1, "human", question, None, "#### 5") for question in "ABC"]
    assert [row["response_ids"][-1] for row in human.rows] == [tokenizer.eos_token_id] * 3
    _, unended = select_of_round(tokenizer, select="human", append_eos=False)
    assert [row["response_ids"] + [tokenizer.eos_token_id] for row in unended.rows] == [
        row["response_ids"] for row in human.rows
    ]


def test_only_correct_samples_get_the_format_line(tokenizer):
    line = tokenizer("\n#### 5")["input_ids"]
    correct = json.loads('"correct"')  # as from a configuration file
    for select, added in ((correct, True), ("random", False), ("finished", False)):
        _, selection = select_of_round(tokenizer, select=select, selection_grader="lenient", add_format=True)
        for row in selection.rows:
            assert (row["response_ids"][-len(line) - 1 : -1] == line) is added, select


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
    unended = training_example(generated(tokenizer, ids), tokenizer, append_eos=False, add_format=True)
    assert unended.response_ids == (*ids, *tokenizer("\n#### 36")["input_ids"])


def test_an_end_of_text_above_all_other_ids():
    class Letters:
        eos_token_id = 1000

        def __call__(self, texts, **kwargs):
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    letters, end = Letters(), int("1000")
    line = tuple(map(ord, "\n#### 36"))
    for ids in ((53,), (53, end)):
        item = Graded(Problem("q", "#### 36", "36"), Generation("Q", ids, "5", "stop"), 1.0, 1.0, 1.0, 1.0)
        assert training_example(item, letters).response_ids == (53, 1000)
        assert training_example(item, letters, add_format=True).response_ids == (53, *line, 1000)


def test_a_sample_without_tokens(tokenizer):
    eos, prompt = tokenizer.eos_token_id, tuple(tokenizer("Tom has")["input_ids"])
    assert training_example(generated(tokenizer, ()), tokenizer) == Example(prompt, (eos,))
    line = tuple(tokenizer("\n#### 36")["input_ids"])
    assert training_example(generated(tokenizer, ()), tokenizer, add_format=True).response_ids == (*line, eos)
