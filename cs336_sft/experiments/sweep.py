"""Many fine-tuning runs from one grid: finished runs are skipped, and a run that fails does not stop the others.

With ``jobs`` above 1, processes (this module as a script) make the runs: a line of stdin is a job, a line of stdout
its answer. Each makes many, since loading PyTorch or vLLM can take longer than a run, and has its own GPU if it can.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.experiments.config import RunConfig
from cs336_sft.experiments.doctor import usable_cores
from cs336_sft.experiments.grid import Grid, SweepRun
from cs336_sft.utils.validation import fields_from_dict

if TYPE_CHECKING:
    from cs336_sft.generation.vllm_backend.sampler import VLLMSampler

_GRACE_SECONDS = 60.0  # for a process to write a checkpoint when the time is up
Answer = dict[str, str]


@dataclass(frozen=True)
class RunStatus:
    name: str
    status: str  # finished, skipped (was done before), failed, interrupted (goes on later) or left (not begun)
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class SweepResult:
    """The outcome of ``run_sweep``: the runs of the grid, in its order."""

    folder: Path
    statuses: tuple[RunStatus, ...]

    @property
    def complete(self) -> bool:
        return len(self.with_status("finished", "skipped")) == len(self.statuses)

    def with_status(self, *wanted: str) -> tuple[RunStatus, ...]:
        """Return the runs with one of these statuses."""
        return tuple(status for status in self.statuses if status.status in wanted)


Report = Callable[[RunStatus, int, int], None]
Note = Callable[[RunStatus], None]


def run_sweep(
    grid: Grid | Sequence[SweepRun],
    folder: str | Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    time_budget: float | None = None,
    keep_weights: bool = True,
    report: Report | None = None,
) -> SweepResult:
    """Make the runs of a grid that are not done yet.

    After Ctrl-C or when the time is up the next call goes on from the last step.

    Args:
        folder: run directories; sweeps may share it, since equal settings are the same run in each.
        jobs: runs at the same time: 1 in this process, more in processes that share the GPUs.
        threads: CPU threads of each worker process; None: the cores divided among them.
        time_budget: seconds after which the sweep stops; needs at least 2 jobs.
        keep_weights: False keeps no model and no checkpoint of finished runs.
    """
    from cs336_sft.experiments.run import drop_weights, is_complete

    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}", "give at least 1")
    if time_budget is not None and (jobs < 2 or time_budget <= 0):
        remedy = "give a positive number of seconds, and at least 2 jobs"
        raise ConfigError(f"time_budget is {time_budget} with jobs={jobs}", remedy)
    runs = grid.runs() if isinstance(grid, Grid) else tuple(grid)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    statuses: dict[str, RunStatus] = {}
    lock = threading.Lock()

    def note(status: RunStatus) -> None:
        if status.status == "finished" and not keep_weights:
            drop_weights(folder / status.name)
        with lock:
            statuses[status.name] = status
            if report:
                report(status, len(statuses), len(runs))

    waiting = [run for run in runs if not is_complete(folder / run.name, run.config)]
    for run in runs:
        if run not in waiting:
            note(RunStatus(run.name, "skipped"))
    if jobs == 1:
        _run_here(waiting, folder, note, keep_weights)
    elif waiting:
        count = min(jobs, len(waiting))
        threads, cards = threads or max(1, usable_cores() // count), visible_cards() or [None]
        workers = [_Worker(k, folder, threads, keep_weights, cards[k % len(cards)]) for k in range(count)]
        _run_in_processes(waiting, workers, note, time_budget)
    for run in waiting:
        if run.name not in statuses:
            note(RunStatus(run.name, "left"))
    return SweepResult(folder, tuple(statuses[run.name] for run in runs))


def visible_cards() -> list[str]:
    """Return the GPUs of this process as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card.strip() for card in named.split(",") if card.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


class RunMaker:
    """Makes runs one after another, with one vLLM engine for all runs of a model."""

    def __init__(self) -> None:
        self._source: str | Path | None = None
        self._sampler: VLLMSampler | None = None

    def make(self, config: RunConfig, folder: Path, name: str, keep_weights: bool) -> Answer:
        """Make one run of a sweep, and turn an error into an answer."""
        from cs336_sft.experiments.run import free_memory, run_sft

        try:
            options = {"base_cache": folder / ".base", "sampler": self._engine(config), "keep_weights": keep_weights}
            outcome = run_sft(config, folder / name, **options)
            return {"status": "interrupted" if outcome.result.interrupted else "finished"}
        except Exception as error:  # a run may fail in any library; the sweep reports it and goes on
            self.close()  # the next run gets a new engine, in case this one died
            if isinstance(error, CourseError):
                return {"status": "failed", "error": str(error)}
            traceback.print_exc()
            return {"status": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        finally:
            free_memory()

    def _engine(self, config: RunConfig) -> VLLMSampler | None:
        if config.sampler != "vllm":
            return None
        from cs336_sft.generation.make_sampler import make_sampler
        from cs336_sft.generation.vllm_backend.config import VLLMConfig
        from cs336_sft.model.loading import load_tokenizer

        source = config.model_source()
        if self._sampler is None or source != self._source:
            self.close()  # a process holds one engine at a time
            vllm = VLLMConfig(gpu_memory_utilization=0.3)
            self._sampler = make_sampler("vllm", None, load_tokenizer(source), source=source, vllm=vllm)
            self._source = source
        return self._sampler

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None


def _run_here(runs: Sequence[SweepRun], folder: Path, note: Note, keep_weights: bool) -> None:
    with closing(RunMaker()) as maker:
        for run in runs:
            began = time.perf_counter()
            answer = maker.make(run.config, folder, run.name, keep_weights)
            note(RunStatus(run.name, seconds=time.perf_counter() - began, **answer))
            if answer["status"] == "interrupted":
                return


def _run_in_processes(
    runs: Sequence[SweepRun], workers: Sequence[_Worker], note: Note, time_budget: float | None
) -> None:
    """Start a thread for each worker, which hands out runs and waits for answers."""
    waiting, stop = iter(runs), threading.Event()

    def work(worker: _Worker) -> None:
        while not stop.is_set() and (run := next(waiting, None)):
            began = time.perf_counter()
            answer = worker.make(run)
            if answer["status"] == "failed" and stop.is_set():  # it was stopped before it could answer
                answer = {"status": "interrupted"}
            note(RunStatus(run.name, seconds=time.perf_counter() - began, **answer))
        worker.close()

    handlers = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    deadline = math.inf if time_budget is None else time.monotonic() + time_budget
    try:
        for handler in handlers:
            handler.start()
        while any(handler.is_alive() for handler in handlers) and time.monotonic() <= deadline:
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass  # the processes are interrupted below
    stop.set()
    for worker in workers:
        worker.interrupt()
    for handler in handlers:
        handler.join(_GRACE_SECONDS)
    for worker in workers:
        worker.kill()


class _Worker:
    """A process that makes runs; started with the first, and again after it died."""

    def __init__(self, number: int, folder: Path, threads: int, keep_weights: bool, card: str | None) -> None:
        self.folder, self.threads, self.keep_weights, self.card = folder, threads, keep_weights, card
        self.log = folder / f".worker-{number}.log"
        self.process: subprocess.Popen[str] | None = None

    def make(self, run: SweepRun) -> Answer:
        folder = {"folder": str(self.folder), "keep_weights": self.keep_weights}
        job = json.dumps({"config": run.config.to_dict(), "name": run.name} | folder)
        if self.process is None or self.process.poll() is not None:
            self._start()
        process = self.process
        try:
            print(job, file=process.stdin, flush=True)
            line = process.stdout.readline()
        except OSError:
            line = ""
        if line:
            return json.loads(line)
        status = process.wait()
        self.process = None
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return {"status": "failed", "error": f"its process ended with {how}; see {self.log}"}

    def _start(self) -> None:
        libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(libraries, str(self.threads))
        if self.card is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.card
        # The package may be used from a checkout, without being installed.
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cs336_sft.experiments.sweep"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # Ctrl-C in the terminal is for the parent, which passes it on once.
                start_new_session=True,
            )

    def close(self) -> None:
        """Let the process end by itself, without a further run."""
        if self.process is not None:
            with suppress(OSError):  # it has ended already
                self.process.stdin.close()
            self.process.wait()

    def interrupt(self) -> None:
        """Stop the process after the current step, with a checkpoint."""
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()


def _serve() -> None:
    """Make the runs that lines of stdin name, and answer each with a line."""
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from cs336_sft.model.loading import quiet_libraries

    quiet_libraries()
    with closing(RunMaker()) as maker:
        for line in sys.stdin:
            job = json.loads(line)
            config = fields_from_dict(RunConfig, job["config"])
            answer = maker.make(config, Path(job["folder"]), job["name"], job["keep_weights"])
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
