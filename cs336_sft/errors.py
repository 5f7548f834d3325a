"""Errors that a user can act on: what is wrong, where, and what to do about it.

The command line prints them in one line and exits with status 2; a notebook shows the same text.
"""

from __future__ import annotations


class CourseError(Exception):
    """A mistake in the input or the set-up, with its remedy.

    >>> print(CourseError("train.jsonl, line 3: no field 'answer'", "add the field or remove the line"))
    train.jsonl, line 3: no field 'answer'. Remedy: add the field or remove the line.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.problem}. Remedy: {self.remedy}.")


class DataError(CourseError, ValueError):
    """A data file, a record or a ground truth that can't be read."""


class ConfigError(CourseError, ValueError):
    """A field of a configuration with a value that makes no sense."""


class ContextLengthError(CourseError, ValueError):
    """Prompt length plus generation limit exceed what the model or the engine can hold."""


class RunDirectoryError(CourseError):
    """A run directory that can't be used: another run's, locked, or damaged."""


class StaleEngineError(CourseError):
    """A generation engine that still holds the weights of an earlier step."""


class EngineDiedError(CourseError):
    """The generation engine failed in the middle of a batch."""

    def __init__(self, problem: str, remedy: str, generations: list[list]) -> None:
        super().__init__(problem, remedy)
        self.generations = generations  # as `Sampler.generate` returns them; None where a sample was not finished

    def add_remedy(self, text: str) -> None:
        """Add to the remedy, in the message too."""
        self.remedy = f"{self.remedy}; {text}"
        self.args = (f"{self.problem}. Remedy: {self.remedy}.",)

    @property
    def finished(self) -> int:
        """Count the finished samples."""
        return sum(generation is not None for samples in self.generations for generation in samples)


class RewardFunctionError(CourseError):
    """A reward function that failed on a response. All generations are kept."""

    def __init__(self, problem: str, remedy: str, ungraded: list[tuple]) -> None:
        super().__init__(problem, remedy)
        self.ungraded = ungraded  # a (problem, generation) pair for each generation
