"""The configuration of one run of expert iteration: fields, options and JSON keys have the same names.

config = make_ei_config(profile="tiny", sft_size=128, sft_epochs=8, learning_rate=3e-5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cs336_sft.experiments.config import RunFields, make_config
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.training.config import SFTConfig
from cs336_sft.utils.validation import check_choice, check_counts, check_field, is_number, narrow


@dataclass(frozen=True)
class ExpertIterationRunConfig(RunFields, ExpertIterationConfig):
    """Everything that one run of expert iteration is made of.

    Attributes:
        pool_size: number of questions that rounds draw from; None: ``questions_per_round``.
        skip_train: number of training problems to leave out, because the model was trained on them.
        sft_size: number of further training problems for a first SFT (``sft_epochs``); they are not in the pool.
        sft_learning_rate: learning rate of the first SFT; None: the profile's.
        subset_seed: random seed for choosing the training problems.
        test_size: number of test problems; None: ``eval_size``.

    >>> ExpertIterationRunConfig(sft_size=128, num_samples=8).max_new_tokens
    160
    """

    pool_size: int | None = None
    skip_train: int = 0
    sft_size: int = 0
    sft_epochs: int = 3
    sft_learning_rate: float | None = None
    subset_seed: int = 0
    test_size: int | None = None

    def __post_init__(self) -> None:
        ExpertIterationConfig.__post_init__(self)
        RunFields.__post_init__(self)
        check_counts(self, "skip_train", "sft_size", "subset_seed", least=0)
        check_counts(self, "sft_epochs")
        check_counts(self, "pool_size", "test_size", optional=True)
        check_choice(self, "test_checkpoint", ("last", None))
        rate = self.sft_learning_rate
        valid = rate is None or (is_number(rate) and rate > 0)
        check_field(valid, self, "sft_learning_rate", "give a positive number, or None")

    def start_config(self) -> SFTConfig:
        """Build the settings of the first SFT."""
        rate = self.sft_learning_rate or get_profile(self.profile).learning_rate
        return narrow(self, SFTConfig, learning_rate=rate, epochs=self.sft_epochs)


def make_ei_config(**overrides: Any) -> ExpertIterationRunConfig:
    """Make a configuration: the profile's defaults, then the overrides.

    See ``make_config``; ``epochs`` are those of a round, so their default does not depend on the profile.

    >>> make_ei_config(profile="smollm2", gpu=False).max_new_tokens
    320
    """
    return make_config(config_class=ExpertIterationRunConfig, **{"epochs": 1} | overrides)
