"""The exercises: what each is called, asks for and hints at. Light to import; the checks are in ``checks``."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cs336_sft.errors import ConfigError

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "exercises"


@dataclass(frozen=True)
class Exercise:
    """One exercise."""

    number: str  # "ex03"
    name: str  # "masked_normalize"; the file is ex03_masked_normalize.py
    topic: str
    functions: tuple[str, ...]  # what the learner writes
    difficulty: int  # 1 (a line or two) to 5
    minutes: int  # about how long it takes
    notebook: str  # teaches it

    @property
    def file_name(self) -> str:
        return f"{self.number}_{self.name}.py"

    @property
    def title(self) -> str:
        return f"{self.number} {self.name}"

    @property
    def hints(self) -> tuple[str, str, str]:
        """Return three hints: where to look, what to do, nearly the code."""
        return tuple(tomllib.loads((ASSETS / "hints.toml").read_text(encoding="utf-8"))[self.number])


EXERCISES = (
    Exercise("ex01", "token_lengths", "data", ("token_lengths", "length_percentiles"), 1, 15, "01_token_lengths"),
    Exercise("ex02", "tokenize_prompt_and_output", "data", ("tokenize_prompt_and_output",), 3, 30, "02_masked_loss"),
    Exercise("ex03", "masked_normalize", "loss", ("masked_normalize",), 1, 10, "02_masked_loss"),
    Exercise("ex04", "sft_microbatch_train_step", "loss", ("sft_microbatch_train_step",), 2, 20, "02_masked_loss"),
    Exercise("ex05", "compute_entropy", "log-probabilities", ("compute_entropy",), 2, 15, "04_first_sft_run"),
    Exercise(
        "ex06", "get_response_log_probs", "log-probabilities", ("get_response_log_probs",), 2, 20, "02_masked_loss"
    ),
    Exercise("ex07", "grade_gsm8k", "grading", ("gsm8k_reward_fn",), 4, 45, "03_grader"),
    Exercise("ex08", "generation_metrics", "grading", ("compute_metrics",), 2, 15, "04_first_sft_run"),
    Exercise("ex09", "append_eos", "data", ("tokenize_prompt_and_output",), 3, 20, "02_masked_loss"),
    Exercise(
        "ex10", "gradient_accumulation", "loss", ("token_mean_loss", "accumulate_gradients"), 3, 25, "02_masked_loss"
    ),
    Exercise("ex11", "chunked_log_probs", "log-probabilities", ("chunked_log_probs",), 4, 45, "10_out_of_memory"),
    Exercise("ex12", "expert_iteration_select", "expert iteration", ("select_samples",), 2, 20, "09_expert_iteration"),
    Exercise("ex13", "debug_a_run", "training", ("train",), 5, 60, "04_first_sft_run"),
)


def find_exercise(name: str) -> Exercise:
    """Find an exercise by number, name or file name, or raise ConfigError.

    >>> find_exercise("3") == find_exercise("ex3") == find_exercise("ex03_masked_normalize.py")
    True
    """
    asked = name.strip().lower().removesuffix(".py")
    if (number := asked.removeprefix("ex")).isdecimal():
        asked = f"ex{int(number):02}"
    for exercise in EXERCISES:
        if asked in (exercise.number, exercise.name, exercise.file_name.removesuffix(".py")):
            return exercise
    close = difflib.get_close_matches(asked, [e.number for e in EXERCISES] + [e.name for e in EXERCISES], n=1)
    remedy = f"did you mean {close[0]}" if close else "give one of ex01 to ex13"
    raise ConfigError(f"no exercise is called {name!r}", remedy)
