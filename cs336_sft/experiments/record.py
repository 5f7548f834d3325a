"""A sweep as tables, from its run directories or from one compact file that can be kept in a repository.

    write_record("recorded/lr/tiny.json", grid, "runs/lr")       # what `cs336-sft sweep --record FILE` does
    frame = read_recorded("recorded/lr/tiny.json")               # one row an evaluation; sweep_frame: the same, live
    losses = recorded_losses("recorded/lr/tiny.json")            # one row a (thinned) optimizer step

The file holds the grid, versions, device and date, and for each run its settings, every evaluation in full with the
outcome of each problem (``outcomes``: letters, see that module), the lengths of the last one's answers, the loss curve
in at most 64 points, and memory and speed. Beside it ``….generations.jsonl.gz`` may hold generations.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from cs336_sft.errors import DataError
from cs336_sft.evaluation.evaluate import read_generations
from cs336_sft.evaluation.outcomes import outcome_letters
from cs336_sft.experiments.grid import Grid, SweepRun
from cs336_sft.experiments.sweep import SweepResult
from cs336_sft.generation.response_text import decode_response
from cs336_sft.records import Graded
from cs336_sft.training.result import load_result
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import Record, read_json

if TYPE_CHECKING:
    import pandas

FORMAT = "cs336-sft sweep 1"
LOSS_POINTS = 64
_LOSS_FIELDS = ("loss", "grad_norm", "lr", "target_tokens", "tokens", "seconds", "entropy")
Generations = Literal["none", "first-seed", "all"]


def run_record(run: SweepRun, folder: str | Path) -> Record:
    """What is recorded of a finished run.

    Raises:
        RunDirectoryError: the directory is no run, or is damaged.
    """
    path = Path(folder) / run.name
    result = load_result(path)
    config, made = read_json(path / "config.json"), read_json(path / "settings.json")
    session = read_json(path / "versions.json")["sessions"][-1]
    timed = result.metrics[1:] or result.metrics  # the first step also warms up
    generated = _evaluations(RunDirectory(path))
    test = path / "test.json"
    return {
        "name": run.name,
        "settings": run.settings.to_flat(),
        "date": session["date"],
        "device": session["device"],
        "n_training_examples": config["n_training_examples"],
        "parameters": config["parameters"],
        "trained_parameters": made["trained_parameters"],
        "peak_memory_bytes": made["peak_memory_bytes"],
        "steps": result.steps,
        "train_seconds": sum(step["seconds"] for step in result.metrics),
        "tokens_per_second": median(step["tokens_per_second"] for step in timed) if timed else None,
        "evaluations": list(result.evaluations),
        "losses": thin(result.metrics),
        "outcomes": {str(step): outcome_letters(graded) for step, graded in generated.items()},
        "lengths": [len(item.generation.token_ids) for item in generated[max(generated)]] if generated else [],
        "test": read_json(test) if test.exists() else None,
    }


def _evaluations(run: RunDirectory) -> dict[int, tuple[Graded, ...]]:
    """step -> the generations of that evaluation."""
    files = sorted(run.generations.glob("step-*.jsonl"))
    return {int(path.stem.removeprefix("step-")): read_generations(path) for path in files}


def thin(metrics: Sequence[Mapping[str, Any]], points: int = LOSS_POINTS) -> dict[str, list[Any]]:
    """At most so many points of a training curve, as columns; each is the mean over the steps up to its ``step``.

    >>> thin([{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}], points=2)
    {'step': [2, 3], 'loss': [3.0, 1.0]}
    """
    total = len(metrics)
    ends = sorted({round(total * (k + 1) / points) for k in range(points)} - {0}) if total > points else None
    ends = ends or list(range(1, total + 1))
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
) -> Record:
    """Write what the finished runs of a sweep measured into one JSON file; returns its content.

    Args:
        folder: of the sweep.
        result: its outcome, for the errors of runs that failed.
        jobs: how many ran at the same time: with more than one, times and speeds are those of a shared machine.
        generations: whose last evaluation (and test) to keep, in ``….generations.jsonl.gz``: of the first seed's
            runs, of all, or none.

    Raises:
        DataError: no run of the grid is finished.
    """
    path = Path(path)
    runs = grid.runs()
    done = [run for run in runs if (Path(folder) / run.name / "settings.json").exists()]
    if not done:
        raise DataError(f"{folder} holds no finished run of the grid {grid.name!r}", "run the sweep first")
    records = [run_record(run, folder) for run in done]
    session = read_json(Path(folder) / done[-1].name / "versions.json")["sessions"][-1]
    failed = [] if result is None else result.with_status("failed")
    path.parent.mkdir(parents=True, exist_ok=True)
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
        "runs": records,
    }
    write_json_compact(path, content)
    if generations != "none":
        kept = [run for run in done if generations == "all" or run.settings.sft.seed == done[0].settings.sft.seed]
        write_generation_record(generations_path(path), kept, folder)
    return content


def write_json_compact(path: Path, content: Mapping[str, Any]) -> None:
    """As ``write_json``, with one line a run rather than a line a number."""
    runs = ",\n".join("  " + json.dumps(run, ensure_ascii=False, allow_nan=False) for run in content["runs"])
    head = json.dumps({**content, "runs": []}, indent=1, ensure_ascii=False, allow_nan=False)
    opening, closing = head.rsplit("[]", 1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(f"{opening}[\n{runs}\n ]{closing}\n", encoding="utf-8")
    os.replace(temporary, path)


def read_record(path: str | Path) -> Record:
    """The content of a file that ``write_record`` wrote.

    Raises:
        DataError: no such file, or another kind of file.
    """
    path = Path(path)
    remedy = "give a file that `cs336-sft sweep --record` wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}", remedy) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})", remedy) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no record of a sweep", remedy)
    return content


def read_recorded(path: str | Path) -> pandas.DataFrame:
    """The evaluations of a recorded sweep: one row each.

    Columns: ``run``; every setting under its full name (``learning_rate``, ``train_size``, ``append_eos``, …; a
    setting that the run does not have is missing) and ``seed`` (of the order); ``step``, ``epoch`` and all metrics
    with their intervals; ``outcomes``, a letter a problem; ``last`` (True for a run's last evaluation); and of the run
    ``steps``, ``tokens_per_second``, ``peak_memory_bytes``, ``train_seconds``, ``n_training_examples``,
    ``trained_parameters`` and ``test_…`` where there was a test.
    ``frame.attrs["record"]`` has versions, device, date, jobs and grid.

    Raises:
        DataError: see ``read_record``.
    """
    content = read_record(path)
    frame = _frame(content["runs"])
    frame.attrs["record"] = {name: value for name, value in content.items() if name != "runs"}
    return frame


def recorded_losses(path: str | Path) -> pandas.DataFrame:
    """The training curves of a recorded sweep: one row a point (``thin``), with ``run``, settings and ``seed``."""
    return _losses(read_record(path)["runs"])


def sweep_frame(folder: str | Path, grid: Grid) -> pandas.DataFrame:
    """What ``read_recorded`` gives, from the run directories of a live sweep."""
    return _frame(_finished(folder, grid))


def sweep_losses(folder: str | Path, grid: Grid) -> pandas.DataFrame:
    """What ``recorded_losses`` gives, from the run directories of a live sweep."""
    return _losses(_finished(folder, grid))


def generations_path(path: str | Path) -> Path:
    """Where the generations of a record lie.

    >>> generations_path("recorded/lr/tiny.json").name
    'tiny.generations.jsonl.gz'
    """
    return Path(path).with_suffix(".generations.jsonl.gz")


def write_generation_record(path: Path, runs: Iterable[SweepRun], folder: str | Path) -> None:
    """Write the last evaluation of each run, and the one before training once; one generation a line.

    Kept are the text, its length in tokens, and where in the text each token ends (``token_ends``, in characters, as
    differences), so that any lower limit can be tried without the tokenizer. Questions are not kept: the id names
    them.
    """
    from cs336_sft.experiments.profiles import get_profile, with_model
    from cs336_sft.model.loading import load_tokenizer

    tokenizers: dict[str, Any] = {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with gzip.open(temporary, "wt", encoding="utf-8", compresslevel=9) as file:
        for number, run in enumerate(runs):
            source = str(with_model(get_profile(run.settings.profile), run.settings.model).model_source())
            if source not in tokenizers:
                tokenizers[source] = load_tokenizer(source)
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
                        "token_ends": token_ends(tokenizers[source], ids, item.generation.text),
                        "finish_reason": item.generation.finish_reason,
                        "reward": item.reward,
                        "format_reward": item.format_reward,
                        "lenient": item.lenient,
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def token_ends(tokenizer: Any, ids: Sequence[int], text: str) -> list[int]:
    """How many characters of ``text`` each token adds; special tokens add none, and of the tokens that make up one
    character the last one adds it.

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


def recorded_generations(path: str | Path) -> list[Record]:
    """The generations beside a record: dictionaries, as ``write_generation_record`` describes them.

    Raises:
        DataError: there are none.
    """
    source = generations_path(path)
    if not source.exists():
        raise DataError(f"{source} does not exist", "record the sweep with --generations first-seed or all")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _finished(folder: str | Path, grid: Grid) -> list[Record]:
    runs = [run for run in grid.runs() if (Path(folder) / run.name / "settings.json").exists()]
    if not runs:
        raise DataError(f"{folder} holds no finished run of the grid {grid.name!r}", "run the sweep first")
    return [run_record(run, folder) for run in runs]


def _settings_columns(run: Record) -> Record:
    settings = run["settings"]
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return {"run": run["name"], **flat, "seed": settings["order_seed"]}


def _frame(runs: Sequence[Record]) -> pandas.DataFrame:
    import pandas

    rows = []
    for run in runs:
        about = _settings_columns(run)
        about |= {
            name: run[name]
            for name in (
                "steps",
                "tokens_per_second",
                "peak_memory_bytes",
                "train_seconds",
                "n_training_examples",
                "trained_parameters",
            )
        }
        about |= {f"test_{name}": value for name, value in (run["test"] or {}).items() if name != "problems"}
        last = run["evaluations"][-1]["step"]
        for evaluation in run["evaluations"]:
            step = evaluation["step"]
            letters = run["outcomes"].get(str(step))
            rows.append({**about, **evaluation, "outcomes": letters, "last": step == last})
    return pandas.DataFrame.from_records(rows)


def _losses(runs: Sequence[Record]) -> pandas.DataFrame:
    import pandas

    frames = []
    for run in runs:
        frame = pandas.DataFrame(run["losses"])
        for name, value in _settings_columns(run).items():
            if name not in frame:
                frame.insert(0, name, [value] * len(frame))
        frames.append(frame)
    return pandas.concat(frames, ignore_index=True)
