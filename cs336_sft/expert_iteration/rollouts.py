"""Sample rollouts once: a cache on disk, keyed by the sampling settings, the weights and the engine.

Runs that share a start and a cache share their first round. ``KEY.json`` says what ``KEY.jsonl`` depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cs336_sft.errors import CourseError, RunDirectoryError
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.records import Example, Generation
from cs336_sft.tokenization import encode
from cs336_sft.utils.distributed import gather, is_main
from cs336_sft.utils.files import JSONDict, JsonLines, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def rollout_key(sampling: SamplingConfig, weights: str, engine: str) -> str:
    """Hash what samples depend on, except their prompt."""
    text = json.dumps(_settings(sampling, weights, engine), sort_keys=True)
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
) -> list[list[Generation]]:
    """Return the samples of each prompt, from the cache or newly sampled.

    ``weights`` names the policy (``fingerprint_weights``), ``engine`` what else the samples depend on (default: the
    sampler's class); ``chunk`` prompts are sampled and written at a time. Log-probabilities and entropies are rounded
    to 5 decimals. Several processes all call it: the main one reads and writes the cache.
    Raises CourseError: the sampler gave another number of samples. Raises RunDirectoryError: an unreadable cache.
    """
    engine = engine or type(sampler).__name__
    key, folder = rollout_key(sampling, weights, engine), Path(folder)
    lines = JsonLines(folder / f"{key}.jsonl")
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock") if is_main() else nullcontext():
        cached: dict[str, list[JSONDict]] = {}
        if is_main():
            write_json(folder / f"{key}.json", _settings(sampling, weights, engine))
            lines.keep(lambda _row: True)  # drops a line that was cut off, so that the next one starts on its own
            cached = {row.get("prompt"): row.get("samples") for row in lines.read()}
        cached = gather({prompt: cached[prompt] for prompt in prompts if prompt in cached})[0]  # the main process's
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in cached]
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            for prompt, samples in zip(part, sampler.generate(part, sampling), strict=True):
                if len(samples) != sampling.num_samples:
                    problem = f"the sampler gave {len(samples)} samples of a prompt, not {sampling.num_samples}"
                    raise CourseError(problem, "correct the sampler's generate()")
                cached[prompt] = [_to_json(sample) for sample in samples]
                if is_main():
                    lines.append({"prompt": prompt, "samples": cached[prompt]})
    try:
        # Also new samples are converted from JSON: a resumed run has the same numbers as one that was not stopped.
        return [[_from_json(prompt, sample) for sample in cached[prompt]] for prompt in prompts]
    except (AttributeError, TypeError) as error:
        raise RunDirectoryError(f"{lines.path}: not a cache of rollouts ({error!r})", "delete the file") from error


def as_sampled(samples: Sequence[Generation], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Turn samples into examples made of the ids that were sampled, and nothing else."""
    prompts = encode([sample.prompt for sample in samples], tokenizer, add_bos=True)
    return [Example(tuple(prompt), sample.token_ids) for prompt, sample in zip(prompts, samples, strict=True)]


def _settings(sampling: SamplingConfig, weights: str, engine: str) -> JSONDict:
    return {"weights": weights, "engine": engine, "sampling": json.loads(json.dumps(asdict(sampling)))}


def _to_json(generation: Generation) -> JSONDict:
    record = asdict(generation)
    del record["prompt"]
    for name in ("logprobs", "entropies"):
        record[name] = record[name] and [round(value, 5) for value in record[name]]
    return record


def _from_json(prompt: str, record: JSONDict) -> Generation:
    values = {name: tuple(value) if isinstance(value, (list, tuple)) else value for name, value in record.items()}
    return Generation(prompt=prompt, **values)
