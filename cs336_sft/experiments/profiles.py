"""The three sizes at which the same code runs: which model, which problems, which limits and settings.

Nothing heavy is imported here: the command line reads profiles before it knows whether it needs PyTorch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cs336_sft.errors import ConfigError
from cs336_sft.records import Problem

Split = Literal["train", "validation", "test", "heldout_templates"]
GSM8K_HUB_NAME = "openai/gsm8k"


@dataclass(frozen=True)
class Profile:
    """One size of the course.

    Attributes:
        name: ``tiny``, ``smollm2`` or ``qwen2.5-math-1.5b``.
        model: ``embedded`` (shipped in the package), ``smollm2`` (the folder that ``cs336-sft fetch smollm2`` makes),
            or a folder or hub name.
        data: ``generated`` (word problems made on the spot) or ``gsm8k``.
        limit: the usual generation limit, in tokens; ``raised_limit`` and ``doubled_limit`` are those that the lesson
            on truncation compares it with.
        template: name of the prompt template.
        train_size, eval_size: default numbers of training and evaluation problems.
        full_size: the training problems that count as all of them, where the source is endless; None: all it has.
        learning_rate, batch_size, epochs: defaults of supervised fine-tuning; ``batch_size`` counts the sequences of
            one optimizer step, ``microbatch_size`` those that go through the model at once.
        mixed_precision: ``"no"`` or ``"bf16"`` (autocast over fp32 master weights), for training on a GPU.
        needs: what it takes to run, in words.

    >>> get_profile("tiny").limit, get_profile("tiny").raised_limit, get_profile("tiny").doubled_limit
    (160, 320, 640)
    """

    name: str
    model: str
    data: Literal["generated", "gsm8k"]
    limit: int
    raised_limit: int
    doubled_limit: int
    learning_rate: float
    needs: str
    template: str = "gsm8k"
    train_size: int = 512
    eval_size: int = 256
    full_size: int | None = None
    batch_size: int = 8
    microbatch_size: int = 8
    epochs: int = 3
    mixed_precision: Literal["no", "bf16"] = "no"

    def model_source(self) -> str | Path:
        """What :func:`cs336_sft.model.loading.load_model_and_tokenizer` takes for this profile's model.

        Raises:
            CourseError: the file is missing from the installation, or was not fetched yet.
        """
        if self.model == "embedded":
            from cs336_sft.model.loading import embedded_model_path

            return embedded_model_path()
        if self.model == "smollm2":
            from cs336_sft.data.download import fetched_folder

            return fetched_folder("smollm2")
        return self.model

    def problems(
        self, split: Split, n: int | None = None, *, seed: int = 0, source: str | Path | None = None
    ) -> list[Problem]:
        """Problems of a split: ``n`` of them, or all that the source has.

        Generated problems are endless, so ``n`` falls back to ``train_size`` or ``eval_size``. GSM8K has no
        validation part: 512 problems, always the same, are held out of train. Where ``n`` is less than a split holds,
        a seeded sample is taken, such that smaller samples are the beginnings of larger ones.

        Args:
            source: GSM8K as a folder or hub name in place of the one named by the environment variable
                ``CS336_GSM8K``; or one JSONL file, which is then taken whole as this split.

        Raises:
            DataError: a file that can't be read, or a split with fewer than ``n`` problems.
            ConfigError: a split that this profile's data does not have.

        >>> first = get_profile("tiny").problems("validation", 2)
        >>> len(first), first == get_profile("tiny").problems("validation", 2)
        (2, True)
        """
        if n is not None and n < 1:
            raise ConfigError(f"{n} problems asked for", "ask for at least 1")
        if source is None and self.data == "generated":
            from cs336_sft.data.word_problems import generate_problems

            return generate_problems(n or self._default_size(split), split=split, seed=seed)
        return _take(self._gsm8k(split, source), n, seed, f"{self.name}, split {split}")

    def _default_size(self, split: Split) -> int:
        return self.train_size if split == "train" else self.eval_size

    def _gsm8k(self, split: Split, source: str | Path | None) -> list[Problem]:
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
    Profile(
        name="tiny",
        model="embedded",
        data="generated",
        limit=160,
        raised_limit=320,
        doubled_limit=640,
        learning_rate=1e-4,
        needs="two CPU cores, 2 GB of memory, no network",
        full_size=2048,
    ),
    Profile(
        name="smollm2",
        model="smollm2",
        data="gsm8k",
        limit=320,
        raised_limit=640,
        doubled_limit=1280,
        learning_rate=1e-4,
        needs="a GPU, or a CPU and patience; `cs336-sft fetch smollm2` and GSM8K",
        mixed_precision="bf16",
    ),
    Profile(
        name="qwen2.5-math-1.5b",
        model="Qwen/Qwen2.5-Math-1.5B",
        data="gsm8k",
        limit=512,
        raised_limit=1024,
        doubled_limit=2048,
        learning_rate=1e-5,
        needs="a GPU with 44-80 GB for full fine-tuning; the hub or a downloaded copy, and GSM8K",
        microbatch_size=4,
        mixed_precision="bf16",
    ),
)

PROFILE_NAMES = tuple(profile.name for profile in _PROFILES)


def get_profile(name: str | None = None) -> Profile:
    """The profile of that name; without a name the one in the environment variable ``CS336_PROFILE``, else ``tiny``.

    Raises:
        ConfigError: there is none of that name.

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
    """The profile with another model: a folder, a hub name, or None to leave it as it is.

    >>> with_model(get_profile("qwen2.5-math-1.5b"), "Qwen/Qwen2.5-1.5B").model
    'Qwen/Qwen2.5-1.5B'
    """
    return profile if model is None else replace(profile, model=model)


def _take(problems: list[Problem], n: int | None, seed: int, what: str) -> list[Problem]:
    """``n`` of the problems: the first of a seeded shuffle, so that smaller samples are parts of larger ones."""
    if n is None or n == len(problems):
        return problems
    if n > len(problems):
        raise ConfigError(f"{what}: {n} problems asked for, {len(problems)} there", f"ask for at most {len(problems)}")
    import random

    order = list(range(len(problems)))
    random.Random(seed).shuffle(order)
    return [problems[i] for i in order[:n]]
