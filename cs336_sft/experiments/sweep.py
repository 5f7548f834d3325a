"""Many fine-tuning runs from one grid: those that are done are skipped, one that fails does not stop the others.

    grid = Grid({"train_size": 64, "max_steps": 32}, {"lr": [1e-4, 3e-4]}, seeds=(0, 1, 2))
    sweep = run_sweep(grid, "runs/lr")
    sweep_frame("runs/lr", grid)                         # one row an evaluation, as pandas has it

Each run is an ordinary run directory in the sweep's folder, named by its settings.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.grid import Grid, SweepRun
from cs336_sft.experiments.settings import RunSettings

_GRACE_SECONDS = 60.0  # what a process gets to write a checkpoint when the time is up


@dataclass(frozen=True)
class RunStatus:
    """What became of a run.

    Attributes:
        status: ``finished``, ``skipped`` (was done before), ``failed``, ``interrupted`` (goes on at the next call) or
            ``left`` (the time was up before it began).
        seconds: that it took; 0 for a run that was not started.
        error: why it failed.
    """

    name: str
    status: str
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class SweepResult:
    """The outcome of ``run_sweep``: the runs of the grid, in its order."""

    folder: Path
    statuses: tuple[RunStatus, ...]

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return all(status.status in ("finished", "skipped") for status in self.statuses)

    def with_status(self, *wanted: str) -> tuple[RunStatus, ...]:
        """The runs of which one of these came true."""
        return tuple(status for status in self.statuses if status.status in wanted)


Report = Callable[[RunStatus, int, int], None]


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

    Ctrl-C stops after the current step; called again, everything goes on where it was.

    Args:
        folder: for the run directories. Sweeps may share one: equal settings are the same run in each.
        jobs: runs at the same time. With 1 they are made in this process, one after another; with more, in processes
            of their own, which share the GPU where there is one.
        threads: CPU threads of each process; None: the cores divided among them (this process keeps what it has).
        time_budget: seconds after which no further run is begun and those that are under way are stopped; they go on
            at the next call. Needs ``jobs`` of at least 2.
        keep_weights: False removes checkpoints and models of runs as they finish.
        report: called as ``report(status, done, total)`` whenever a run ends.

    Raises:
        ConfigError: ``jobs`` or ``time_budget`` out of range.
    """
    from cs336_sft.experiments.run import drop_weights, is_complete

    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}", "give at least 1")
    if time_budget is not None and (jobs < 2 or time_budget <= 0):
        raise ConfigError(
            f"time_budget is {time_budget} with jobs={jobs}", "give a positive number of seconds, and at least 2 jobs"
        )
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

    waiting = []
    for run in runs:
        if is_complete(folder / run.name, run.settings):
            note(RunStatus(run.name, "skipped"))
        else:
            waiting.append(run)
    base_cache = folder / ".base"
    if jobs == 1:
        _run_here(waiting, folder, base_cache, note)
    elif waiting:
        count = min(jobs, len(waiting))
        threads = threads or max(1, _cores() // count)
        _run_in_processes(waiting, folder, base_cache, note, count, threads, time_budget)
    for run in waiting:
        if run.name not in statuses:
            note(RunStatus(run.name, "left"))
    return SweepResult(folder, tuple(statuses[run.name] for run in runs))


def _run_here(runs: Sequence[SweepRun], folder: Path, base_cache: Path, note: Callable[[RunStatus], None]) -> None:
    from cs336_sft.experiments.sweep_worker import make_run

    for run in runs:
        began = time.perf_counter()
        answer = make_run(run.settings, folder / run.name, base_cache)
        note(RunStatus(run.name, answer["status"], time.perf_counter() - began, answer.get("error", "")))
        if answer["status"] == "interrupted":
            return


def _run_in_processes(
    runs: Sequence[SweepRun],
    folder: Path,
    base_cache: Path,
    note: Callable[[RunStatus], None],
    count: int,
    threads: int,
    time_budget: float | None,
) -> None:
    """One thread a process: it hands out the next run, and waits for the answer."""
    waiting: queue.SimpleQueue[SweepRun] = queue.SimpleQueue()
    for run in runs:
        waiting.put(run)
    stop = threading.Event()
    workers = [_Worker(number, folder, threads) for number in range(count)]

    def work(worker: _Worker) -> None:
        while not stop.is_set():
            try:
                run = waiting.get_nowait()
            except queue.Empty:
                break
            began = time.perf_counter()
            answer = worker.make(run.settings, folder / run.name, base_cache)
            if answer["status"] == "failed" and stop.is_set():  # it was told to go before it could say more
                answer = {"status": "interrupted"}
            note(RunStatus(run.name, answer["status"], time.perf_counter() - began, answer.get("error", "")))
        worker.close()

    handlers = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    deadline = None if time_budget is None else time.monotonic() + time_budget
    try:
        for handler in handlers:
            handler.start()
        while any(handler.is_alive() for handler in handlers):
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass  # the processes are told below
    stop.set()
    for worker in workers:
        worker.interrupt()
    for handler in handlers:
        handler.join(_GRACE_SECONDS)
    for worker in workers:
        worker.kill()


class _Worker:
    """A process that makes runs; started with the first, and again after it died."""

    def __init__(self, number: int, folder: Path, threads: int) -> None:
        self.log = folder / f".worker-{number}.log"
        self.threads = threads
        self.process: subprocess.Popen[str] | None = None

    def make(self, settings: RunSettings, run_dir: Path, base_cache: Path) -> dict[str, Any]:
        job = {"settings": settings.to_flat(), "run_dir": str(run_dir), "base_cache": str(base_cache)}
        if self.process is None or self.process.poll() is not None:
            self._start()
        process = self.process
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
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
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self.threads)
        # The package may be used from a checkout, without being installed.
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cs336_sft.experiments.sweep_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # Ctrl-C in the terminal is for the parent, which passes it on once.
                start_new_session=True,
            )

    def close(self) -> None:
        """No further run: the process ends by itself."""
        if self.process is not None and self.process.stdin:
            try:
                self.process.stdin.close()
            except OSError:
                pass  # it has ended already
            self.process.wait()

    def interrupt(self) -> None:
        """Let it stop after the current step, with a checkpoint."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


def _cores() -> int:
    from cs336_sft.experiments.machine import usable_cores

    return usable_cores()
