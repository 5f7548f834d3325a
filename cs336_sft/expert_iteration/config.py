"""Settings of expert iteration, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.schedules import Cadence
from cs336_sft.utils.validation import check_choice, check_counts, check_field, check_flags, is_count, is_number, narrow

TrainFrom = Literal["previous", "start"]
Select = Literal["correct", "random", "finished", "human"]
SelectionGrader = Literal["strict", "lenient"]


@dataclass(frozen=True)
class ExpertIterationConfig(SFTConfig):
    """Settings of the rounds, and (inherited) of the fine-tuning in each round."""

    rounds: int = 3
    questions_per_round: int = 128  # D_b of Algorithm 2, drawn from the pool without replacement within a round
    num_samples: int = 4  # G, samples per question
    temperature: float = 1.0
    top_p: float = 1.0
    min_new_tokens: int = 4
    max_new_tokens: int = 160  # of rollouts and of the greedy evaluations
    train_from: TrainFrom = "previous"  # weights that a round trains; "start" as in STaR and ReST-EM
    # What to train on. Controls: as many random samples of all, or of those that finished before the limit, or the
    # human answers to the same questions.
    select: Select = "correct"
    max_per_question: int | None = None  # samples kept
    drop_duplicates: bool = True  # keep the first of equal samples of a question
    selection_grader: SelectionGrader = "strict"  # or a lenient reading of the final answer
    add_format: bool = False  # append the line `#### N` to the kept samples; needs the lenient grader
    grader_error: float = 0.0  # probability of flipping each reward before selection (a control)
    append_eos: bool = True  # end kept samples with end-of-text where they stopped at a stop string
    samples_per_round: tuple[int, ...] | None = None  # trained on, instead of what the filter keeps (controls)
    chunk_questions: int = 32  # sampled at a time: a killed run loses at most this many
    keep_rounds: int | None = None  # newest rounds whose weights stay on disk; None: all
    # Other defaults than in SFTConfig: a round trains once on its samples, and evaluations come after rounds.
    epochs: int = 1
    eval_every: Cadence = None
    keep_checkpoints: int | None = 1
    progress: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "rounds", "questions_per_round", "num_samples", "chunk_questions")
        check_counts(self, "max_per_question", "keep_rounds", optional=True)
        check_choice(self, "train_from", get_args(TrainFrom))
        check_choice(self, "select", get_args(Select))
        check_choice(self, "selection_grader", get_args(SelectionGrader))
        check_flags(self, "drop_duplicates", "add_format", "append_eos")
        error = is_number(self.grader_error) and 0 <= self.grader_error <= 1
        check_field(error, self, "grader_error", "give a probability from 0 to 1")
        varied = self.num_samples == 1 or self.temperature != 0
        check_field(varied, self, "temperature", "such samples are all the same: raise it, or set num_samples=1")
        lenient = not self.add_format or self.selection_grader == "lenient"
        check_field(lenient, self, "add_format", "set selection_grader='lenient': the strict one demands the format")
        counts = self.samples_per_round
        valid = isinstance(counts, tuple) and len(counts) == self.rounds and all(is_count(n, least=0) for n in counts)
        remedy = f"give one whole number for each of the {self.rounds} rounds, or None"
        check_field(counts is None or valid, self, "samples_per_round", remedy)
        check_field(self.max_steps is None, self, "max_steps", "leave it None: epochs and samples give the steps")
        check_field(self.eval_every is None, self, "eval_every", "leave it None: evaluations come after rounds")
        self.sampling(1)  # checks the rest

    def round_seed(self, number: int) -> int:
        """Derive the seed of a round's sampling, choice and training."""
        return self.seed * 1000 + number  # another one each round: an unchanged policy must still give new samples

    def sampling(self, number: int, *, stop: tuple[str, ...] = ()) -> SamplingConfig:
        """Build the sampling settings of a round's rollouts."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            num_samples=self.num_samples,
            seed=self.round_seed(number),
            stop=stop,
            min_new_tokens=self.min_new_tokens,
            record_entropy=True,
        )

    def sft_config(self, number: int, steps: int) -> SFTConfig:
        """Build the settings of a round's fine-tuning."""
        return narrow(self, SFTConfig, seed=self.round_seed(number), max_steps=steps)
