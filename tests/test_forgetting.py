"""Forgetting: the tasks are the references' arithmetic, and the measures see what they should."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.data.word_problems import generate_problems
from cs336_sft.errors import DataError
from cs336_sft.lessons.forgetting import Calculation, calculations, is_completed, score_calculations, text_loss
from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
from cs336_sft.records import Generation, Problem


class Echo:
    """A sampler that gives prepared texts, and keeps the prompts and settings that it was asked with."""

    def __init__(self, texts) -> None:
        self.texts, self.asked = texts, None

    def generate(self, prompts, sampling):
        self.asked = (list(prompts), sampling)
        return [[Generation(p, (5,), text, "length")] for p, text in zip(prompts, self.texts, strict=True)]

    def update_weights(self, model) -> None: ...


def test_every_annotation_of_generated_problems_becomes_a_task_with_the_lines_before_it() -> None:
    problems = generate_problems(20, split="validation", seed=3)
    tasks = calculations(problems)
    assert len(tasks) == sum(problem.answer.count("<<") for problem in problems)
    # Completed with its result, a task is the beginning of the next one of its problem.
    within = [(a, b) for a, b in zip(tasks, tasks[1:], strict=False) if b.prompt.startswith(a.prompt)]
    assert within and all(b.prompt.startswith(f"{a.prompt} {a.result}\n") for a, b in within)
    assert not any("<<" in task.prompt or "####" in task.prompt for task in tasks)


def test_answers_without_annotations_give_no_task_and_no_score() -> None:
    assert calculations([Problem("How many?", "Seven. <<x>> <<=>> <<2+5=seven>>\n#### 7", "7")]) == []
    with pytest.raises(DataError, match="no calculations"):
        score_calculations(Echo([]), [])


def test_scores_are_in_the_tasks_order_and_decoding_is_greedy() -> None:
    tasks = [Calculation("A: 1+1 =", "2"), Calculation("A: 2+2 =", "4"), Calculation("A: 3+3 =", "6")]
    echo = Echo([" 2\n", " 5", ""])
    assert score_calculations(echo, tasks) == [1.0, 0.0, 0.0]
    assert echo.asked[0] == [task.prompt for task in tasks] and echo.asked[1].temperature == 0


@pytest.mark.parametrize(
    ("text", "result", "right"),
    [
        (" 24 clips", "24", True),
        (" 240", "24", False),
        (" 2", "24", False),
        (" -3", "-3", True),
        (" .5", "0.5", False),  # not a number as this course writes them
        (" 0.50", ".5", True),
        (" twenty-four", "24", False),
        ("\n\n\n\n\n\n24", "24", False),
        ("", "24", False),
    ],
)
def test_what_counts_as_completed(text, result, right) -> None:
    assert is_completed(text, result) is right


@given(st.text(max_size=60), st.integers(-(10**6), 10**6))
def test_no_continuation_raises_and_the_right_number_is_found(text, number) -> None:
    is_completed(text, str(number))
    assert is_completed(f" {number:,} {text}", str(number))


def test_the_base_model_can_calculate_and_its_text_loss_is_that_of_its_own_text() -> None:
    model, tokenizer = load_model_and_tokenizer(embedded_model_path(), device="cpu")
    own = "Question: Sam has 3 pens. He buys 4 more. How many pens does Sam have?\nAnswer: 3+4 = 7\nThe answer is 7."
    strange = own[::-1]
    assert 0 < text_loss(model, tokenizer, [own]) < text_loss(model, tokenizer, [strange]) < math.inf
    # Every token weighs alike: a text twice is the text once.
    assert math.isclose(text_loss(model, tokenizer, [own, own]), text_loss(model, tokenizer, [own]), rel_tol=1e-5)
    with pytest.raises(DataError):
        text_loss(model, tokenizer, ["", "a"])
