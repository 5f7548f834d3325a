"""Settings of GRPO, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.schedules import Cadence
from cs336_sft.utils.validation import check_choice, check_counts, check_field, check_flags, is_number

Reward = Literal["strict", "lenient", "format", "random"]
LossType = Literal["no_baseline", "reinforce_with_baseline", "grpo_clip"]
Lengths = Literal["answer", "constant"]


@dataclass(frozen=True)
class GRPOConfig(SFTConfig):
    """Settings of the steps, and (inherited) of the optimizer."""

    steps: int = 50  # each samples answers and learns from them
    questions_per_step: int = 8
    num_samples: int = 8  # G, answers of a group
    temperature: float = 1.0
    min_new_tokens: int = 4
    max_new_tokens: int = 160  # of answers and of the greedy evaluations
    reward: Reward = "strict"  # "format" and "random" are controls
    loss_type: LossType = "grpo_clip"
    cliprange: float = 0.2
    normalize_by_std: bool = True  # False: Dr. GRPO
    lengths: Lengths = "answer"  # mean over an answer's tokens, or "constant": sum / max_new_tokens (Dr. GRPO)
    chunk_questions: int = 32  # sampled at a time: a killed run loses at most this many
    # Other meanings or defaults than in SFTConfig.
    epochs: int = 1  # passes over the answers of a step; above 1 off-policy
    batch_size: int = 64  # answers of an optimizer update; below questions_per_step * num_samples off-policy, too
    eval_every: Cadence = 10
    checkpoint_every: int = 10
    progress: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "steps", "questions_per_step", "num_samples", "chunk_questions", "checkpoint_every")
        check_choice(self, "reward", get_args(Reward))
        check_choice(self, "loss_type", get_args(LossType))
        check_choice(self, "lengths", get_args(Lengths))
        check_flags(self, "normalize_by_std")
        check_field(self.num_samples > 1, self, "num_samples", "give at least 2: an answer is compared with others")
        check_field(self.temperature != 0, self, "temperature", "raise it: equal answers teach nothing")
        positive = is_number(self.cliprange) and self.cliprange > 0
        check_field(positive, self, "cliprange", "give a positive number, such as 0.2")
        fresh = self.epochs == 1 and self.batch_size >= self.questions_per_step * self.num_samples
        remedy = "use 'grpo_clip', which knows how the policy has changed; or epochs=1 and a batch_size of all answers"
        check_field(fresh or self.loss_type == "grpo_clip", self, "loss_type", remedy)
        check_field(self.max_steps is None, self, "max_steps", "leave it None: steps says how many")
        self.sampling(1)  # checks the rest

    def sampling(self, step: int, *, stop: tuple[str, ...] = ()) -> SamplingConfig:
        """Build the sampling settings of a step's answers."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            num_samples=self.num_samples,
            seed=self.seed * 100_000 + step,  # another one each step: an unchanged policy must still give new answers
            stop=stop,
            min_new_tokens=self.min_new_tokens,
            record_entropy=True,
        )
