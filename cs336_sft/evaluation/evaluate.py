"""Evaluate a model: prompts -> generations -> verdicts -> metrics, with every generation kept on disk.

    evaluation = evaluate(sampler, problems, get_template("gsm8k"), gsm8k_reward_fn, SamplingConfig(), path="out.jsonl")
    evaluation.metrics.accuracy

Sampler and reward function are passed in: the same function evaluates any model, engine and answer format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError, DataError, EngineDiedError
from cs336_sft.evaluation.metrics import Metrics, compute_metrics
from cs336_sft.generation.response_text import decode_response
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.grading import lenient_reward_fn
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Generation, Graded, Problem
from cs336_sft.utils.distributed import is_main

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RewardFn = Callable[[str, str], Mapping[str, float]]
LenientFn = Callable[[str, str], float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics beside the graded generations they come from (problem by problem, then sample by sample)."""

    metrics: Metrics
    graded: tuple[Graded, ...]


def evaluate(
    sampler: Sampler,
    problems: Sequence[Problem],
    template: PromptTemplate,
    reward_fn: RewardFn,
    sampling: SamplingConfig,
    *,
    lenient_fn: LenientFn = lenient_reward_fn,
    path: str | Path | None = None,
) -> Evaluation:
    """Sample ``sampling.n`` answers to each problem and grade them.

    Args:
        reward_fn: ``(response, reference) -> {"format_reward", "answer_reward", "reward"}``; the reference is
            ``problem.final``.
        lenient_fn: ``(response, reference) -> 0.0 or 1.0``: is any readable final answer right?
        path: a JSONL file for the generations, one a line (`write_generations`). Of several processes the main one
            writes it; `processes.SharedSampler` shares the prompts out among them.

    Raises:
        DataError: no problems.
        ContextLengthError: a prompt with the generation limit does not fit the model.
        EngineDiedError: the engine failed in the middle. What it had finished is graded and kept beside ``path``, as
            ``*.partial.jsonl``.

    >>> from cs336_sft.grading import gsm8k_reward_fn
    >>> from cs336_sft.prompts import get_template
    >>> class Always5:
    ...     def generate(self, prompts, sampling):
    ...         return [[Generation(prompt, (5, 0), " 5\\n#### 5", "stop")] for prompt in prompts]
    ...     def update_weights(self, model): ...
    >>> problems = [Problem("2 + 3?", "#### 5", "5", id="a"), Problem("2 + 4?", "#### 6", "6", id="b")]
    >>> evaluation = evaluate(Always5(), problems, get_template("gsm8k"), gsm8k_reward_fn, SamplingConfig())
    >>> evaluation.metrics.accuracy, evaluation.metrics.format_accuracy
    (0.5, 1.0)
    """
    if not problems:
        raise DataError("there are no problems to evaluate", "give at least one")
    prompts = [template.prompt(problem) for problem in problems]

    def grade_all(generations: Sequence[Sequence[Generation | None]]) -> tuple[Graded, ...]:
        return tuple(
            grade(problem, generation, reward_fn, lenient_fn)
            for problem, samples in zip(problems, generations, strict=True)
            for generation in samples
            if generation is not None
        )

    try:
        graded = grade_all(sampler.generate(prompts, sampling))
    except EngineDiedError as error:
        if path is not None and error.finished:
            partial = Path(path).with_suffix(".partial.jsonl")
            write_generations(partial, grade_all(error.generations))
            error.add_remedy(f"they are kept in {partial}")
        raise
    if path is not None and is_main():
        write_generations(path, graded)
    return Evaluation(compute_metrics(graded), graded)


def grade(
    problem: Problem, generation: Generation, reward_fn: RewardFn, lenient_fn: LenientFn = lenient_reward_fn
) -> Graded:
    """One generation with its verdicts; the arguments are those of `evaluate`.

    >>> from cs336_sft.grading import gsm8k_reward_fn
    >>> generation = Generation(prompt="Q", token_ids=(5, 0), text=" That makes 5.", finish_reason="stop")
    >>> graded = grade(Problem("2 + 3?", "#### 5", "5"), generation, gsm8k_reward_fn)
    >>> graded.reward, graded.lenient
    (0.0, 1.0)
    """
    rewards = reward_fn(generation.text, problem.final)
    return Graded(
        problem=problem,
        generation=generation,
        format_reward=float(rewards["format_reward"]),
        answer_reward=float(rewards["answer_reward"]),
        reward=float(rewards["reward"]),
        lenient=float(lenient_fn(generation.text, problem.final)),
    )


def rescore_at_limit(
    graded: Sequence[Graded],
    limit: int,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFn,
    *,
    lenient_fn: LenientFn = lenient_reward_fn,
) -> tuple[Graded, ...]:
    """The verdicts that the same generations would have got under a lower ``max_new_tokens``, without a model.

    Exact for greedy decoding and for keyed noise: the first ``limit`` tokens do not depend on the limit.

    Raises:
        ConfigError: the limit is below 1, or above the one under which a generation was cut off: how it would have
            gone on is not known.
    """
    if limit < 1:
        raise ConfigError(f"limit is {limit}", "give at least 1 token")
    rescored = []
    for item in graded:
        generation = item.generation
        length = len(generation.token_ids)
        if length < limit and generation.finish_reason == "length":
            raise ConfigError(
                f"a generation of {item.problem.id or 'a problem'} was cut off after {length} tokens; "
                f"nothing is known of the tokens up to {limit}",
                f"give a limit of at most {length}, or generate again with max_new_tokens={limit}",
            )
        if length > limit:
            kept = generation.token_ids[:limit]
            generation = replace(
                generation,
                token_ids=kept,
                text=decode_response(tokenizer, kept),
                finish_reason="length",
                stop_reason=None,
                logprobs=generation.logprobs and generation.logprobs[:limit],
                entropies=generation.entropies and generation.entropies[:limit],
            )
            item = grade(item.problem, generation, reward_fn, lenient_fn)
        rescored.append(item)
    return tuple(rescored)


def write_generations(path: str | Path, graded: Sequence[Graded]) -> None:
    """Write one JSON object a line: problem, prompt, text, token ids, how it ended, verdicts.

    Log-probabilities and entropies go in as their means (``mean_logprob``, ``mean_entropy``, null if not recorded):
    one number a token would double the file. The file appears whole or not at all, also when the process is killed.
    """
    write_jsonl(path, [_to_json(item) for item in graded])


def write_jsonl(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows beside ``path``, then move them there in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogatepass") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_json(item: Graded) -> dict[str, Any]:
    problem, generation = item.problem, item.generation
    return {
        "id": problem.id,
        "template": problem.template,
        "question": problem.question,
        "answer": problem.answer,
        "final": problem.final,
        "prompt": generation.prompt,
        "sample": generation.sample,
        "text": generation.text,
        "token_ids": list(generation.token_ids),
        "finish_reason": generation.finish_reason,
        "stop_reason": generation.stop_reason,
        "format_reward": item.format_reward,
        "answer_reward": item.answer_reward,
        "reward": item.reward,
        "lenient": item.lenient,
        "mean_logprob": fmean(generation.logprobs) if generation.logprobs else None,
        "mean_entropy": fmean(generation.entropies) if generation.entropies else None,
    }


def read_generations(path: str | Path) -> tuple[Graded, ...]:
    """Read back what `write_generations` wrote. Everything but ``logprobs`` and ``entropies``, of which only means
    were kept: they come back as None.

    Raises:
        DataError: no such file, or a line that is not such a record; the message names file, line and field.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file", "give the JSONL file that an evaluation wrote")
    graded = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                graded.append(_from_json(json.loads(line)))
            except (ValueError, TypeError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
                raise DataError(
                    f"{path}, line {number}: {error}", "write the file again, or remove the line"
                ) from error
    return tuple(graded)


_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "template", "question", "answer", "final", "prompt", "text", "finish_reason"), str),
    **dict.fromkeys(("format_reward", "answer_reward", "reward", "lenient"), (int, float)),
    "sample": int,
    "token_ids": list,
    "stop_reason": (str, type(None)),
}


def _from_json(row: object) -> Graded:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for name, kind in _FIELDS.items():
        if name not in row:
            raise ValueError(f"no field {name!r}")
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ValueError(f"field {name!r} is {row[name]!r}")
    if row["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"field 'finish_reason' is {row['finish_reason']!r}, not 'stop' or 'length'")
    if not all(type(token) is int for token in row["token_ids"]):
        raise ValueError("field 'token_ids' holds something that is not a whole number")
    return Graded(
        problem=Problem(**{name: row[name] for name in ("question", "answer", "final", "id", "template")}),
        generation=Generation(
            prompt=row["prompt"],
            token_ids=tuple(row["token_ids"]),
            text=row["text"],
            finish_reason=row["finish_reason"],
            stop_reason=row["stop_reason"],
            sample=row["sample"],
        ),
        **{name: float(row[name]) for name in ("format_reward", "answer_reward", "reward", "lenient")},
    )
