"""A sweep as tables, from its run directories or from one compact file that can be kept in a repository.

    write_record("recorded/lr/tiny.json", grid, "runs/lr")       # what `cs336-sft sweep --record FILE` does
    frame = read_recorded("recorded/lr/tiny.json")               # one row an evaluation; sweep_frame: from the runs
    losses = recorded_losses("recorded/lr/tiny.json")            # one row a (thinned) optimizer step

The file holds the grid, versions, device and date, and for each run its settings, every evaluation in full with the
outcome of each problem (``outcomes``: letters, see that module) and its ``positions`` (see ``answer_positions``), the
lengths of the last one's answers, the loss curve in at most 64 points, and memory and speed.
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
from typing import TYPE_CHECKING, Any, Literal

from cs336_sft.errors import DataError
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.evaluation.outcomes import outcome_letters
from cs336_sft.evaluation.truncation import find_first_answer
from cs336_sft.experiments.grid import Grid, SweepRun
from cs336_sft.experiments.profiles import get_profile, with_model
from cs336_sft.experiments.sweep import SweepResult
from cs336_sft.generation.response_text import decode_response
from cs336_sft.records import Graded
from cs336_sft.training.result import load_result
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import JSONDict, atomic_write, read_json

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

FORMAT = "cs336-sft sweep 1"
LOSS_POINTS = 64
_LOSS_FIELDS = ("loss", "grad_norm", "lr", "target_tokens", "tokens", "seconds")
_RUN_COLUMNS = ("steps", "tokens_per_second", "peak_memory_bytes", "train_seconds", "n_training_examples")
Generations = Literal["none", "first-seed", "all"]


def run_record(run: SweepRun, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> JSONDict:
    """Collect what is recorded of a finished run.

    Without a tokenizer it has no ``positions``.

    Raises:
        RunDirectoryError: the directory is not a run, or is damaged.
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

    >>> from cs336_sft.records import Generation, Problem
    >>> class Bytes:
    ...     def decode(self, ids, **settings):
    ...         return bytes(ids).decode(errors="replace")
    >>> texts = [b"9*2 = 18\\n#### 18\\n", b"It is 18."]
    >>> made = [Generation("?", tuple(text), text.decode(), "stop") for text in texts]
    >>> answer_positions(Bytes(), [Graded(Problem("?", "#### 18", "18"), item, 0, 0, 0, 0) for item in made])
    [[17, 16], [9, None]]
    """
    found = []
    for item in graded:
        ids = item.generation.token_ids
        span = find_first_answer(tokenizer, ids)
        found.append([len(ids), span.end if span else None] if ids else [])
    return found


def thin(metrics: Sequence[Mapping[str, Any]], points: int = LOSS_POINTS) -> dict[str, list[Any]]:
    """Thin a training curve to means over the steps up to each ``step``.

    >>> thin([{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}], points=2)
    {'step': [2, 3], 'loss': [3.0, 1.0]}
    """
    total = len(metrics)
    points = min(points, total)
    ends = [round(total * (k + 1) / points) for k in range(points)]
    columns: dict[str, list[Any]] = {"step": [metrics[end - 1]["step"] for end in ends]}
    for name in _LOSS_FIELDS:
        if any(record.get(name) is not None for record in metrics):
            column = []
            for start, end in zip([0, *ends], ends, strict=False):
                values = [record[name] for record in metrics[start:end] if record.get(name) is not None]
                column.append(float(f"{fmean(values):.6g}") if values else None)
            columns[name] = column
    return columns


def write_record(
    path: str | Path,
    grid: Grid,
    folder: str | Path,
    *,
    result: SweepResult | None = None,
    jobs: int = 1,
    generations: Generations = "none",
) -> JSONDict:
    """Write the record of a sweep's finished runs, and return its content.

    Args:
        folder: the folder of the sweep.
        result: the outcome of the sweep, for the errors of runs that failed.
        jobs: runs at the same time; with more than one, times and speeds are those of a shared machine.
        generations: the runs whose last evaluation and test go into ``….generations.jsonl.gz``.

    Raises:
        DataError: no run of the grid is finished.
    """
    path, runs = Path(path), grid.runs()
    done, load = _finished(folder, grid), lru_cache(_tokenizer)
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
        "runs_planned": len(runs),
        "failed": [{"name": status.name, "error": status.error} for status in failed],
        "runs": [run_record(run, folder, load(run.config.profile, run.config.model)) for run in done],
    }
    write_json_compact(path, content)
    if generations != "none":
        kept = [run for run in done if generations == "all" or run.config.seed == done[0].config.seed]
        write_generation_record(generations_path(path), kept, folder)
    return content


def write_json_compact(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with one line a run rather than a line a number."""
    runs = ",\n".join("  " + json.dumps(run, ensure_ascii=False, allow_nan=False) for run in content["runs"])
    head = json.dumps({**content, "runs": []}, indent=1, ensure_ascii=False, allow_nan=False)
    opening, closing = head.rsplit("[]", 1)
    with atomic_write(path) as file:
        file.write(f"{opening}[\n{runs}\n ]{closing}\n")


def read_sweep_record(path: str | Path) -> JSONDict:
    """Read a file that ``write_record`` wrote.

    Raises:
        DataError: no such file, or another kind of file.
    """
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

    Raises:
        DataError: see ``read_sweep_record``.
    """
    content = read_sweep_record(path)
    frame = _frame(content["runs"])
    frame.attrs["record"] = {name: value for name, value in content.items() if name != "runs"}
    return frame


def recorded_losses(path: str | Path) -> pandas.DataFrame:
    """Read the training curves of a recorded sweep, one row a point (``thin``)."""
    return _losses(read_sweep_record(path)["runs"])


def sweep_frame(folder: str | Path, grid: Grid) -> pandas.DataFrame:
    """Make the table of ``read_recorded`` from the run directories of a sweep."""
    return _frame([run_record(run, folder) for run in _finished(folder, grid)])


def sweep_losses(folder: str | Path, grid: Grid) -> pandas.DataFrame:
    """Make the table of ``recorded_losses`` from the run directories of a sweep."""
    return _losses([run_record(run, folder) for run in _finished(folder, grid)])


def generations_path(path: str | Path) -> Path:
    """Return the path of a record's generations."""
    return Path(path).with_suffix(".generations.jsonl.gz")


def write_generation_record(path: Path, runs: Iterable[SweepRun], folder: str | Path) -> None:
    """Write the generations of each run's last evaluation, and once of step 0.

    With ``token_ends`` any lower limit can be tried without the tokenizer. The id names the question.
    """
    load = lru_cache(_tokenizer)
    with atomic_write(path, binary=True) as raw, gzip.open(raw, "wt", encoding="utf-8", compresslevel=9) as file:
        for number, run in enumerate(runs):
            tokenizer = load(run.config.profile, run.config.model)
            generations = RunDirectory(Path(folder) / run.name).generations
            steps = sorted(generations.glob("step-*.jsonl"))
            # Step 0 is the same model in every run of a sweep over one model: the first run's is enough.
            wanted = [*steps[-1:], *generations.glob("test.jsonl"), *(steps[:1] if number == 0 else ())]
            for kept in dict.fromkeys(wanted):
                for item in read_generations(kept):
                    ids = item.generation.token_ids
                    line = {
                        "run": run.name,
                        "evaluation": kept.stem,
                        "id": item.problem.id,
                        "final": item.problem.final,
                        "text": item.generation.text,
                        "tokens": len(ids),
                        "token_ends": token_ends(tokenizer, ids, item.generation.text),
                        "finish_reason": item.generation.finish_reason,
                        "reward": item.reward,
                        "format_reward": item.format_reward,
                        "lenient": item.lenient,
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _tokenizer(profile: str, model: str | None) -> PreTrainedTokenizerBase:
    from cs336_sft.model.loading import load_tokenizer

    return load_tokenizer(with_model(get_profile(profile), model).model_source())


def token_ends(tokenizer: Any, ids: Sequence[int], text: str) -> list[int]:
    """Count the characters of ``text`` that each token adds.

    Special tokens add none, and of the tokens that make up one character the last one adds it.

    >>> class Bytes:
    ...     def decode(self, ids, **settings):
    ...         return bytes(ids).decode(errors="replace")
    >>> token_ends(Bytes(), "3 €".encode(), "3 €")
    [1, 1, 0, 0, 1]
    """
    reached = [0]
    for count in range(1, len(ids) + 1):
        begun = decode_response(tokenizer, ids[:count])
        reached.append(max(reached[-1], len(os.path.commonprefix([begun, text]))))
    return [end - start for start, end in itertools.pairwise(reached)]


def recorded_generations(path: str | Path) -> list[JSONDict]:
    """Read a record's generations, as ``write_generation_record`` wrote them.

    Raises:
        DataError: there are none.
    """
    source = generations_path(path)
    if not source.exists():
        raise DataError(f"{source} does not exist", "record the sweep with --generations first-seed or all")
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
    import pandas

    rows = []
    for run in runs:
        about = _settings_columns(run) | {name: run[name] for name in (*_RUN_COLUMNS, "trained_parameters")}
        about |= {f"test_{name}": value for name, value in (run["test"] or {}).items() if name != "problems"}
        last = run["evaluations"][-1]["step"]
        for evaluation in run["evaluations"]:
            step = evaluation["step"]
            letters = run["outcomes"].get(str(step))
            rows.append({**about, **evaluation, "outcomes": letters, "last": step == last})
    return pandas.DataFrame.from_records(rows)


def _losses(runs: Sequence[JSONDict]) -> pandas.DataFrame:
    import pandas

    frames = []
    for run in runs:
        frame = pandas.DataFrame(run["losses"])
        for name, value in _settings_columns(run).items():
            if name not in frame:
                frame.insert(0, name, [value] * len(frame))
        frames.append(frame)
    return pandas.concat(frames, ignore_index=True)
