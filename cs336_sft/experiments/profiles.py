"""The sizes at which the same code runs: models, problems and defaults. Nothing heavy is imported here."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cs336_sft.errors import ConfigError
from cs336_sft.model.loading import resolve_source
from cs336_sft.records import Problem

Split = Literal["train", "validation", "test", "heldout_templates"]
GSM8K_HUB_NAME = "openai/gsm8k"


@dataclass(frozen=True)
class Profile:
    """One size of the course: a model, problems, and defaults of ``RunConfig`` under its fields' names."""

    name: str
    model: str  # "embedded" (part of the package), a model of `cs336-sft fetch`, a folder or a hub name
    data: Literal["generated", "gsm8k"]  # generated: word problems made at once
    max_new_tokens: int
    learning_rate: float
    template: str = "gsm8k"
    train_size: int = 512
    eval_size: int = 256
    full_size: int | None = None  # number of training problems that "full" means for an endless source
    batch_size: int = 8
    micro_batch_size: int = 8
    epochs: int = 3
    mixed_precision: Literal["no", "bf16"] = "no"

    def model_source(self) -> str | Path:
        """Return the folder or hub name of this profile's model (see ``resolve_source``)."""
        return resolve_source(self.model)

    def problems(
        self, split: Split, n: int | None = None, *, seed: int = 0, source: str | Path | None = None
    ) -> list[Problem]:
        """Load ``n`` problems of a split, chosen by ``seed``, or all.

        Smaller samples are the beginnings of larger ones. Generated problems are endless: without ``n`` there are
        ``train_size`` or ``eval_size``. GSM8K's validation problems are 512 held out of train. ``source`` is GSM8K as
        a folder or hub name in place of the environment variable ``CS336_GSM8K``, or a JSONL file with the split.

        Raises DataError, ConfigError: unreadable, too few problems, or a split that the data does not have.
        """
        if n is not None and n < 1:
            raise ConfigError(f"{n} problems asked for", "ask for at least 1")
        if source is None and self.data == "generated":
            from cs336_sft.data.word_problems import generate_problems

            default = self.train_size if split == "train" else self.eval_size
            return generate_problems(n or default, split=split, seed=seed)
        problems = _gsm8k(split, source)
        if n is None or n == len(problems):
            return problems
        if n > len(problems):
            what = f"{self.name}, split {split}: {n} problems asked for, {len(problems)} there"
            raise ConfigError(what, f"ask for at most {len(problems)}")
        random.Random(seed).shuffle(problems)
        return problems[:n]


def _gsm8k(split: Split, source: str | Path | None) -> list[Problem]:
    from cs336_sft.data import gsm8k

    if source is not None and (Path(source).is_file() or str(source).endswith((".jsonl", ".json"))):
        return list(gsm8k.read_problems(source))
    source = source or os.environ.get("CS336_GSM8K") or GSM8K_HUB_NAME
    if split == "test":
        return list(gsm8k.load_gsm8k(source, "test"))
    if split in ("train", "validation"):
        train, validation = gsm8k.hold_out(gsm8k.load_gsm8k(source, "train"))
        return list(train if split == "train" else validation)
    raise ConfigError(f"GSM8K has no split {split!r}", "choose train, validation or test")


_PROFILES = (
    Profile("tiny", "embedded", "generated", max_new_tokens=160, learning_rate=1e-4, full_size=2048),
    Profile("smollm2", "smollm2", "gsm8k", max_new_tokens=320, learning_rate=1e-4, mixed_precision="bf16"),
    Profile(
        name="qwen2.5-math-1.5b",
        model="Qwen/Qwen2.5-Math-1.5B",
        data="gsm8k",
        max_new_tokens=512,
        learning_rate=1e-5,
        micro_batch_size=4,
        mixed_precision="bf16",
    ),
    Profile(
        name="qwen2.5-coder-1.5b",  # the shape of the notes' model, and their settings
        model="qwen2.5-coder-1.5b",
        data="gsm8k",
        max_new_tokens=1024,
        learning_rate=1e-5,
        eval_size=512,
        mixed_precision="bf16",
    ),
)

PROFILE_NAMES = tuple(profile.name for profile in _PROFILES)


def get_profile(name: str | None = None) -> Profile:
    """Return a profile (default: that of ``$CS336_PROFILE``, or tiny).

    Raises ConfigError: there is none of that name.

    >>> get_profile("qwen2.5-math-1.5b").model
    'Qwen/Qwen2.5-Math-1.5B'
    """
    wanted = name or os.environ.get("CS336_PROFILE") or "tiny"
    for profile in _PROFILES:
        if profile.name == wanted:
            return profile
    origin = "" if name else " (from CS336_PROFILE)"
    raise ConfigError(f"no profile is called {wanted!r}{origin}", f"choose one of {', '.join(PROFILE_NAMES)}")


def with_model(profile: Profile, model: str | None) -> Profile:
    """Return the profile with another model, unless that is None."""
    return profile if model is None else replace(profile, model=model)
