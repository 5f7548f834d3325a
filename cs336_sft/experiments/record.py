"""A sweep as tables, from its run directories or from one compact file that can be kept in a repository.

The file holds the grid, versions, device and date, and what ``run_record`` collects of each run; a file
``….generations.jsonl.gz`` next to it may hold generations.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import pandas

from cs336_sft.errors import DataError
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.evaluation.outcomes import outcome_letters
from cs336_sft.evaluation.truncation import find_first_answer
from cs336_sft.experiments.grid import Grid, SweepRun
from cs336_sft.experiments.sweep import SweepResult
from cs336_sft.generation.response_text import decode_response
from cs336_sft.model.loading import load_tokenizer
from cs336_sft.records import Graded
from cs336_sft.training.result import load_result
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import JSONDict, atomic_write, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = "cs336-sft sweep 1"
_tokenizer = lru_cache(maxsize=4)(load_tokenizer)  # runs of a sweep share it
_LOSS_FIELDS = ("loss", "grad_norm", "lr", "target_tokens", "tokens", "seconds")
_RUN_COLUMNS = "steps tokens_per_second peak_memory_bytes train_seconds n_training_examples trained_parameters".split()


def run_record(run: SweepRun, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> JSONDict:
    """Collect what is recorded of a finished run.

    Each evaluation has ``outcomes``, a letter a problem (``outcome_letters``), and ``positions``, which need the
    tokenizer (``answer_positions``). The loss curve is thinned (``thin``); ``lengths`` are those of the last answers.
    """
    path = Path(folder) / run.name
    result = load_result(path)
    identity, made = read_json(path / "config.json"), read_json(path / "settings.json")
    session = read_json(path / "versions.json")["sessions"][-1]
    timed = result.metrics[1:] or result.metrics  # the first step also warms up
    files = sorted(RunDirectory(path).generations.glob("step-*.jsonl"))
    generated = {int(file.stem.removeprefix("step-")): read_generations(file) for file in files}
    test = path / "test.json"
    positions = {} if tokenizer is None else {str(s): answer_positions(tokenizer, g) for s, g in generated.items()}
    return {
        "name": run.name,
        "settings": run.config.settings(),
        "date": session["date"],
        "device": session["device"],
        "n_training_examples": identity["n_training_examples"],
        "parameters": identity["parameters"],
        "trained_parameters": made["trained_parameters"],
        "peak_memory_bytes": made["peak_memory_bytes"],
        "steps": result.steps,
        "train_seconds": sum(step["seconds"] for step in result.metrics),
        "tokens_per_second": median(step["tokens_per_second"] for step in timed) if timed else None,
        "evaluations": list(result.evaluations),
        "losses": thin(result.metrics),
        "outcomes": {str(step): outcome_letters(graded) for step, graded in generated.items()},
        "positions": positions,
        "lengths": [len(item.generation.token_ids) for item in generated[max(generated)]] if generated else [],
        "test": read_json(test) if test.exists() else None,
    }


def answer_positions(tokenizer: PreTrainedTokenizerBase, graded: Iterable[Graded]) -> list[list[int | None]]:
    """List the length of each generation and the end of its first answer.

    Both are numbers of tokens, so that a record can be scored again at any lower limit; None: there is no answer. A
    generation without token ids gives an empty list.
    """
    found = []
    for item in graded:
        ids = item.generation.token_ids
        span = find_first_answer(tokenizer, ids)
        found.append([len(ids), span.end if span else None] if ids else [])
    return found


def thin(metrics: Sequence[Mapping[str, Any]], points: int = 64) -> dict[str, list[Any]]:
    """Thin a training curve to means over the steps up to each ``step``.

    >>> thin([{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}], points=2)
    {'step': [2, 3], 'loss': [3.0, 1.0]}
    """
    points = min(points, len(metrics))
    ends = [round(len(metrics) * (k + 1) / points) for k in range(points)]
    columns: dict[str, list[Any]] = {"step": [metrics[end - 1]["step"] for end in ends]}
    for name in _LOSS_FIELDS:
        curve = [record.get(name) for record in metrics]
        parts = [[value for value in curve[a:b] if value is not None] for a, b in itertools.pairwise([0, *ends])]
        if any(parts):
            columns[name] = [float(f"{fmean(values):.6g}") if values else None for values in parts]
    return columns


def write_record(
    path: str | Path,
    grid: Grid,
    folder: str | Path,
    *,
    result: SweepResult | None = None,
    jobs: int = 1,
    generations: bool = False,
) -> None:
    """Write the record of a sweep's finished runs, which are in ``folder``.

    ``result`` has the errors of runs that failed. With more than one of the ``jobs`` at the same time, times and speeds
    are those of a shared machine. ``generations`` keeps those of the first seed's last evaluation and test as well.
    Raises DataError: no run of the grid is finished.
    """
    path, done = Path(path), _finished(folder, grid)
    session = read_json(Path(folder) / done[-1].name / "versions.json")["sessions"][-1]
    failed = [] if result is None else result.with_status("failed")
    content = {
        "format": FORMAT,
        "grid": grid.to_dict(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "device": session["device"],
        "jobs": jobs,
        "versions": {"python": session["python"], **session["packages"]},
        "platform": session["platform"],
        "runs_planned": len(grid.runs()),
        "failed": [{"name": status.name, "error": status.error} for status in failed],
        "runs": [run_record(run, folder, _tokenizer(run.config.model_source())) for run in done],
    }
    write_json_compact(path, content)
    if generations:
        kept = [run for run in done if run.config.seed == done[0].config.seed]
        write_generation_record(generations_path(path), kept, folder)


def write_json_compact(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with one line a run rather than a line a number."""
    runs = ",\n".join("  " + json.dumps(run, ensure_ascii=False, allow_nan=False) for run in content["runs"])
    head = json.dumps({**content, "runs": []}, indent=1, ensure_ascii=False, allow_nan=False)
    opening, closing = head.rsplit("[]", 1)
    with atomic_write(path) as file:
        file.write(f"{opening}[\n{runs}\n ]{closing}\n")


def read_sweep_record(path: str | Path) -> JSONDict:
    """Read a file that ``write_record`` wrote, or raise DataError."""
    remedy = "give a file that `cs336-sft sweep --record` wrote"
    content = read_json(path, DataError, remedy)
    if content.get("format") != FORMAT:
        raise DataError(f"{path} is not the record of a sweep", remedy)
    return content


def read_recorded(path: str | Path) -> pandas.DataFrame:
    """Read the evaluations of a recorded sweep into a table, one row each.

    Columns: ``run``; every setting; ``step``, ``epoch`` and all metrics with their intervals; ``outcomes``, a letter a
    problem; ``last`` (True for a run's last evaluation); duration, speed, memory and sizes of the run; ``test_…`` if
    there was a test. ``frame.attrs["record"]`` has versions, device, date, jobs and grid.
    """
    content = read_sweep_record(path)
    frame = _frame(content["runs"])
    frame.attrs["record"] = {name: value for name, value in content.items() if name != "runs"}
    return frame


def recorded_losses(path: str | Path) -> pandas.DataFrame:
    """Read the training curves of a recorded sweep, one row a point (``thin``)."""
    frames = []
    for run in read_sweep_record(path)["runs"]:
        frame = pandas.DataFrame(run["losses"])
        for name, value in _settings_columns(run).items():
            if name not in frame:
                frame.insert(0, name, [value] * len(frame))
        frames.append(frame)
    return pandas.concat(frames, ignore_index=True)


def sweep_frame(folder: str | Path, grid: Grid) -> pandas.DataFrame:
    """Make the table of ``read_recorded`` from the run directories of a sweep."""
    return _frame([run_record(run, folder) for run in _finished(folder, grid)])


def generations_path(path: str | Path) -> Path:
    """Return the path of a record's generations."""
    return Path(path).with_suffix(".generations.jsonl.gz")


def write_generation_record(path: Path, runs: Iterable[SweepRun], folder: str | Path) -> None:
    """Write the generations of each run's last evaluation, and once of step 0.

    With ``token_ends`` any lower limit can be tried without the tokenizer. The id names the question.
    """
    with atomic_write(path, binary=True) as raw, gzip.open(raw, "wt", encoding="utf-8", compresslevel=9) as file:
        for number, run in enumerate(runs):
            tokenizer = _tokenizer(run.config.model_source())
            generations = RunDirectory(Path(folder) / run.name).generations
            steps = sorted(generations.glob("step-*.jsonl"))
            # Step 0 is the same model in every run of a sweep over one model: the first run's is enough.
            wanted = [*steps[-1:], *generations.glob("test.jsonl"), *(steps[:1] if number == 0 else ())]
            for kept in dict.fromkeys(wanted):
                for item in read_generations(kept):
                    made = item.generation
                    line = {
                        "run": run.name,
                        "evaluation": kept.stem,
                        "id": item.problem.id,
                        "final": item.problem.final,
                        "text": made.text,
                        "tokens": len(made.token_ids),
                        "token_ends": token_ends(tokenizer, made.token_ids, made.text),
                        "finish_reason": made.finish_reason,
                        "reward": item.reward,
                        "format_reward": item.format_reward,
                        "lenient": item.lenient,
                    }
                    print(json.dumps(line, ensure_ascii=False), file=file)


def token_ends(tokenizer: Any, ids: Sequence[int], text: str) -> list[int]:
    """Count the characters of ``text`` that each token adds.

    Special tokens add none, and of the tokens that make up one character the last one adds it.
    """
    ends, start, done = [0], 0, 0  # text[:done] is what ids[:start] say: decoding goes on from there
    for count in range(1, len(ids) + 1):
        begun = decode_response(tokenizer, ids[start:count])
        fits = len(os.path.commonprefix([begun, text[done : done + len(begun)]]))
        ends.append(max(ends[-1], done + fits))
        if fits == len(begun):  # no character is left unfinished
            start, done = count, done + fits
    return [end - begin for begin, end in itertools.pairwise(ends)]


def recorded_generations(path: str | Path) -> list[JSONDict]:
    """Read a record's generations, or raise DataError if it has none."""
    source = generations_path(path)
    if not source.exists():
        raise DataError(f"{source} does not exist", "record the sweep with --generations first-seed")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _finished(folder: str | Path, grid: Grid) -> list[SweepRun]:
    runs = [run for run in grid.runs() if (Path(folder) / run.name / "settings.json").exists()]
    if not runs:
        raise DataError(f"{folder} holds no finished run of the grid {grid.name!r}", "run the sweep first")
    return runs


def _settings_columns(run: JSONDict) -> JSONDict:
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in run["settings"].items()}
    return {"run": run["name"], **settings}


def _frame(runs: Sequence[JSONDict]) -> pandas.DataFrame:
    rows = []
    for run in runs:
        about = _settings_columns(run) | {name: run[name] for name in _RUN_COLUMNS}
        about |= {f"test_{name}": value for name, value in (run["test"] or {}).items() if name != "problems"}
        for evaluation in run["evaluations"]:
            letters = run["outcomes"].get(str(evaluation["step"]))
            last = evaluation["step"] == run["evaluations"][-1]["step"]
            rows.append({**about, **evaluation, "outcomes": letters, "last": last})
    return pandas.DataFrame.from_records(rows)
