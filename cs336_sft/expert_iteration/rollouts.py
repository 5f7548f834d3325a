"""Rollouts that are sampled once: a cache on disk, keyed by how they were sampled and by whose weights.

    generations = sample_rollouts(sampler, prompts, sampling, folder, weights=fingerprint_weights(model))

Sampling takes most of the time of expert iteration. So rollouts are appended to the cache a chunk of questions at a
time: a killed run loses one chunk, and arms of an experiment that share a start share their first round.

::

    rollouts/3f9c…e1.json    what the samples depend on: weights, engine, sampling parameters
    rollouts/3f9c…e1.jsonl   one line a prompt, with all its samples
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from cs336_sft.errors import CourseError, RunDirectoryError
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.records import Generation
from cs336_sft.utils.files import JsonLines, Record, write_json


def rollout_key(sampling: SamplingConfig, weights: str, engine: str) -> str:
    """The name under which samples are kept: a hash of everything that they depend on but their prompt.

    >>> keys = {rollout_key(SamplingConfig(seed=seed), weights, "HF") for seed in (0, 1) for weights in ("a", "b")}
    >>> len(keys)
    4
    """
    text = json.dumps(_parameters(sampling, weights, engine), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def sample_rollouts(
    sampler: Sampler,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    folder: str | Path,
    *,
    weights: str,
    engine: str | None = None,
    chunk: int = 32,
    progress: Callable[[int], Any] | None = None,
) -> list[list[Generation]]:
    """``sampling.n`` generations of each prompt: those in the cache from there, the others sampled and added to it.

    What is returned was read back from the cache, so that a run that was resumed has the same numbers as one that was
    not (log-probabilities and entropies are kept to 5 decimals).

    Args:
        sampler: holds the weights that ``weights`` names.
        folder: of the cache; several processes may share it.
        weights: the policy's ``fingerprint_weights``.
        engine: what else distinguishes two samplers of the same weights; default: the sampler's class name.
        chunk: prompts sampled, and written, at a time.
        progress: called after each chunk with the number of its prompts.

    Raises:
        CourseError: the sampler gave another number of samples than was asked for.
        RunDirectoryError: a line of the cache can't be read.

    >>> import tempfile
    >>> class Counting:
    ...     prompts = 0
    ...     def generate(self, prompts, sampling):
    ...         self.prompts += len(prompts)
    ...         return [[Generation(prompt, (5, 0), "5", "stop")] for prompt in prompts]
    ...     def update_weights(self, model): ...
    >>> sampler, folder = Counting(), tempfile.mkdtemp()
    >>> for prompts in (["a", "b"], ["b", "c"]):
    ...     rollouts = sample_rollouts(sampler, prompts, SamplingConfig(), folder, weights="w")
    >>> sampler.prompts, rollouts[1][0].prompt  # "b" was sampled once
    (3, 'c')
    """
    engine = engine or type(sampler).__name__
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    key = rollout_key(sampling, weights, engine)
    lines = JsonLines(folder / f"{key}.jsonl")
    with FileLock(folder / f"{key}.lock"):
        write_json(folder / f"{key}.json", _parameters(sampling, weights, engine))
        lines.keep(lambda _record: True)  # drops a line that was cut off, so that the next one starts anew
        cached = {record["prompt"]: record for record in lines.read()}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in cached]
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            for prompt, samples in zip(part, sampler.generate(part, sampling), strict=True):
                if len(samples) != sampling.n:
                    raise CourseError(
                        f"the sampler gave {len(samples)} samples of a prompt, {sampling.n} were asked for",
                        "mend the sampler",
                    )
                cached[prompt] = {"prompt": prompt, "samples": [_to_json(sample) for sample in samples]}
                lines.append(cached[prompt])
            if progress is not None:
                progress(len(part))
    try:
        return [[_from_json(prompt, sample) for sample in cached[prompt]["samples"]] for prompt in prompts]
    except (KeyError, TypeError) as error:
        raise RunDirectoryError(f"{lines.path}: not a cache of rollouts ({error!r})", "delete the file") from error


def _parameters(sampling: SamplingConfig, weights: str, engine: str) -> Record:
    return {"weights": weights, "engine": engine, "sampling": json.loads(json.dumps(asdict(sampling)))}


def _to_json(generation: Generation) -> Record:
    def rounded(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else [round(value, 5) for value in values]

    record = asdict(generation) | {
        "logprobs": rounded(generation.logprobs),
        "entropies": rounded(generation.entropies),
    }
    del record["prompt"]
    return record


def _from_json(prompt: str, record: Record) -> Generation:
    tuples = ("token_ids", "logprobs", "entropies")
    values = {name: tuple(v) if name in tuples and v is not None else v for name, v in record.items()}
    return Generation(prompt=prompt, **values)
