"""Faults that befall a run, each tried on a small one. Data of ``test_faults.py``.

A scenario breaks a run, checks what is said, lets the same call go on, and checks that nothing is missing: the records
and final weights are those of a run that was not disturbed. It returns what was said.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from cs336_sft.errors import CourseError, RunDirectoryError
from cs336_sft.records import Example
from cs336_sft.training import checkpoints
from cs336_sft.training import loop as training
from cs336_sft.training.checkpoints import fingerprint_weights
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.loop import train_sft
from cs336_sft.training.result import TrainingResult, load_result, without_wall_clock
from cs336_sft.training.step import NonFiniteLossError
from cs336_sft.utils.files import JsonLines, read_json

CONFIG = SFTConfig(learning_rate=1e-3, max_steps=7, batch_size=4, checkpoint_every=3, eval_every=2, progress=False)
ROOT = Path(training.__file__).parents[2]


@dataclass
class Setup:
    """A model, its tokenizer, examples, and a run of them that nothing disturbed."""

    model: object
    tokenizer: object
    examples: list[Example]
    folder: Path
    said: str = ""

    def __post_init__(self) -> None:
        self.undisturbed, self.weights = self._train(self.folder / "undisturbed", CONFIG)

    def train(self, name: str, **changes) -> TrainingResult:
        """A run, or its continuation. What it says on stderr and by warnings is kept in ``said``."""
        return self._train(self.folder / name, replace(CONFIG, **changes))[0]

    def _train(self, run_dir: Path, config: SFTConfig) -> tuple[TrainingResult, str]:
        model = copy.deepcopy(self.model)
        with listening() as stream:
            try:
                result = train_sft(
                    model,
                    self.tokenizer,
                    self.examples,
                    config,
                    run_dir,
                    evaluator=lambda step: {"sum": sum(p.detach().double().sum().item() for p in model.parameters())},
                )
            finally:
                self.said = stream.getvalue()
        return result, fingerprint_weights(model)

    def check_nothing_is_lost(self, name: str) -> None:
        """Go on, and end where the undisturbed run ended."""
        result, weights = self._train(self.folder / name, CONFIG)
        assert not result.interrupted and weights == self.weights
        assert without_wall_clock(result.metrics) == without_wall_clock(self.undisturbed.metrics)
        assert without_wall_clock(result.evaluations) == without_wall_clock(self.undisturbed.evaluations)
        names = {path.relative_to(self.folder / name) for path in (self.folder / name).rglob("*.tmp")}
        assert not names, names


@contextlib.contextmanager
def listening() -> Iterator[io.StringIO]:
    """What is written to stderr and logged as a warning."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("cs336_sft")
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stderr(stream):
            yield stream
    finally:
        logger.removeHandler(handler)


def failing(call: Callable[[], object], kind: type[BaseException]) -> str:
    """The message of the exception that a call has to raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full_at_a_checkpoint(setup: Setup) -> str:
    real = checkpoints.save_file

    def half_a_file(tensors, path):
        real(tensors, path)
        if "step-00000006" in str(path):
            path.write_bytes(path.read_bytes()[:1000])
            no_space()

    with mock.patch.object(checkpoints, "save_file", half_a_file):
        message = failing(lambda: setup.train("run"), RunDirectoryError)
    assert "step-00000006: could not be written (No space left on device)" in message and "Remedy: free" in message
    assert not list((setup.folder / "run").rglob("*.tmp")), "half a checkpoint keeps the disk full"
    assert checkpoints.newest_checkpoint(setup.folder / "run" / "checkpoints").step == 3
    setup.check_nothing_is_lost("run")
    assert "from step 3" in setup.said
    return message


# A child process may write no file above a size: the kernel's own refusal, in the middle of a real write.
LIMITED = """
    import json, resource, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from cs336_sft.records import Example
    from cs336_sft.training.config import SFTConfig
    from cs336_sft.training.loop import train_sft
    from cs336_sft.errors import CourseError
    folder = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    examples = [Example(*map(tuple, pair)) for pair in json.loads((folder / "examples.json").read_text())]
    config = SFTConfig.from_dict(json.loads((folder / "config.json").read_text()))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        summed = lambda step: {"sum": sum(p.detach().double().sum().item() for p in model.parameters())}
        train_sft(model, tokenizer, examples, config, folder / "run", evaluator=summed)
    except CourseError as error:
        print(error)
"""


def file_too_large_for_the_quota(setup: Setup) -> str:
    setup.model.save_pretrained(setup.folder / "model")
    setup.tokenizer.save_pretrained(setup.folder / "model")
    (setup.folder / "examples.json").write_text(json.dumps([[e.prompt_ids, e.response_ids] for e in setup.examples]))
    (setup.folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(setup.folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    message = done.stdout.strip()
    assert "step-00000003: could not be written" in message and "Remedy: free some space" in message, done.stderr
    assert not list((setup.folder / "run").rglob("*.tmp"))
    assert [record["step"] for record in JsonLines(setup.folder / "run" / "metrics.jsonl").read()] == [1, 2, 3]
    setup.check_nothing_is_lost("run")
    return message


class FullAtStep5:
    """A log on a disk that is full in the middle of the line of step 5."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if json.loads(text)["step"] == 5:
            self.file.write(text[:20])
            self.file.flush()
            no_space()
        self.file.write(text)

    def __enter__(self) -> FullAtStep5:
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


def disk_full_at_the_metrics(setup: Setup) -> str:
    real = Path.open

    def opened(self, mode="r", *args, **kwargs):
        file = real(self, mode, *args, **kwargs)
        return FullAtStep5(file) if self.name == "metrics.jsonl" and mode == "a" else file

    with mock.patch.object(Path, "open", opened):
        message = failing(lambda: setup.train("run"), RunDirectoryError)
    assert "metrics.jsonl: could not be written (No space left on device)" in message and "Remedy: free" in message
    setup.check_nothing_is_lost("run")
    assert "from step 3" in setup.said
    return message


def last_line_of_the_metrics_cut(setup: Setup) -> str:
    path = stopped_at(setup, 5)
    path.write_bytes(path.read_bytes()[:-30])
    setup.check_nothing_is_lost("run")
    return setup.said


def lines_lost_that_a_checkpoint_counts_on(setup: Setup) -> str:
    path = stopped_at(setup, 5)  # with checkpoints of steps 3 and 5
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    setup.check_nothing_is_lost("run")
    assert "ends before step 5; using an older checkpoint" in setup.said and "from step 3" in setup.said
    return setup.said


def newest_checkpoint_damaged(setup: Setup) -> str:
    stopped_at(setup, 5)
    file = setup.folder / "run" / "checkpoints" / "step-00000005" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    setup.check_nothing_is_lost("run")
    assert "model.safetensors is not what was written; using an older checkpoint" in setup.said
    assert "from step 3" in setup.said
    return setup.said


def every_checkpoint_damaged(setup: Setup) -> str:
    stopped_at(setup, 5)
    for file in (setup.folder / "run" / "checkpoints").rglob("optimizer.safetensors"):
        file.unlink()
    setup.check_nothing_is_lost("run")
    assert setup.said.count("optimizer.safetensors is not what was written") == 2 and "Resuming" not in setup.said
    return setup.said


def pickle_planted_in_a_checkpoint(setup: Setup) -> str:
    """A file that would run code when unpickled lies beside the tensors: nobody reads it."""
    stopped_at(setup, 5)
    mark = setup.folder / "was-run"
    code = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    for folder in (setup.folder / "run" / "checkpoints").iterdir():
        for name in ("optimizer.pt", "model.bin", "training_args.bin", "scheduler.pkl"):
            (folder / name).write_bytes(code)
    setup.check_nothing_is_lost("run")
    assert not mark.exists()
    return setup.said


def loss_not_a_number(setup: Setup) -> str:
    message = failing(lambda: setup.train("run", learning_rate=1e36), NonFiniteLossError)
    facts = read_json(setup.folder / "run" / "nonfinite.json")
    assert facts["step"] == 2 and len(facts["examples"]) == CONFIG.batch_size
    for shown in facts["examples"]:
        example = setup.examples[shown["index"]]
        assert (tuple(shown["prompt_ids"]), tuple(shown["response_ids"])) == (example.prompt_ids, example.response_ids)
        assert "pencils" in shown["text"]
    assert load_result(setup.folder / "run").steps == 1
    return f"{message} nonfinite.json: step, problem, and the batch as ids and text."


def signals_after_step_5(*signals: signal.Signals) -> contextlib.AbstractContextManager:
    """This process gets the signals, one straight after the other, when step 5 has been logged."""
    append = JsonLines.append

    def interrupted(self, record):
        append(self, record)
        if record["step"] == 5 and "loss" in record:
            for number in signals:
                os.kill(os.getpid(), number)

    return mock.patch.object(JsonLines, "append", interrupted)


def ctrl_c_twice(setup: Setup) -> str:
    with signals_after_step_5(signal.SIGINT, signal.SIGINT):
        failing(lambda: setup.train("run"), KeyboardInterrupt)
    assert checkpoints.newest_checkpoint(setup.folder / "run" / "checkpoints").step == 3
    setup.check_nothing_is_lost("run")
    assert "from step 3" in setup.said
    return setup.said


def both_signals_of_a_launcher(setup: Setup) -> str:
    """One Ctrl-C reaches a process of torchrun as SIGINT and as SIGTERM: one request, honoured in peace."""
    with signals_after_step_5(signal.SIGINT, signal.SIGTERM):
        assert setup.train("run").interrupted
    said = setup.said
    assert checkpoints.newest_checkpoint(setup.folder / "run" / "checkpoints").step == 5
    setup.check_nothing_is_lost("run")
    return said


def second_run_in_the_directory(setup: Setup) -> str:
    append, messages = JsonLines.append, []

    def intruding(self, record):
        append(self, record)
        if record["step"] == 2 and "loss" in record:
            messages.append(failing(lambda: setup._train(setup.folder / "run", CONFIG), RunDirectoryError))

    with mock.patch.object(JsonLines, "append", intruding):
        setup.train("run")
    (message,) = messages
    assert f"in use by process {os.getpid()}" in message and "wait for that run" in message
    setup.check_nothing_is_lost("run")
    return message


def other_run_in_the_directory(setup: Setup) -> str:
    stopped_at(setup, 5)
    message = failing(lambda: setup.train("run", learning_rate=3e-4), CourseError)
    assert "learning_rate was 0.001, now 0.0003" in message
    setup.check_nothing_is_lost("run")
    return message


def stopped_at(setup: Setup, step: int) -> Path:
    """A run that Ctrl-C ended after a step. Returns its metrics file."""
    append = JsonLines.append

    def interrupted(self, record):
        append(self, record)
        if record["step"] == step and "loss" in record:
            os.kill(os.getpid(), signal.SIGINT)

    with mock.patch.object(JsonLines, "append", interrupted):
        assert setup.train("run").interrupted
    return setup.folder / "run" / "metrics.jsonl"


# Name -> (scenario, what was lost).
SCENARIOS: dict[str, tuple[Callable[[Setup], str], str]] = {
    "disk full while a checkpoint is written": (disk_full_at_a_checkpoint, "nothing; steps 4 to 6 are made again"),
    "file above the quota (the kernel's own limit)": (
        file_too_large_for_the_quota,
        "nothing; steps 1 to 3 are made again",
    ),
    "disk full while the metrics are written": (disk_full_at_the_metrics, "nothing; steps 4 and 5 are made again"),
    "last line of the metrics cut off": (last_line_of_the_metrics_cut, "nothing; steps 4 and 5 are made again"),
    "metrics lost lines that the newest checkpoint counts on": (
        lines_lost_that_a_checkpoint_counts_on,
        "nothing; the older checkpoint is used",
    ),
    "one bit of the newest checkpoint turned": (newest_checkpoint_damaged, "nothing; the older checkpoint is used"),
    "every checkpoint damaged": (every_checkpoint_damaged, "nothing but time: the run starts from the beginning"),
    "pickles planted beside the tensors": (pickle_planted_in_a_checkpoint, "nothing; nobody reads them"),
    "loss not a number": (loss_not_a_number, "nothing; the weights are those before the step"),
    "Ctrl-C twice": (ctrl_c_twice, "nothing; steps since the last checkpoint are made again"),
    "Ctrl-C under torchrun (SIGINT and SIGTERM)": (both_signals_of_a_launcher, "nothing; stopped after the step"),
    "two runs on one directory": (second_run_in_the_directory, "nothing; the second refuses"),
    "another configuration on the directory": (other_run_in_the_directory, "nothing; it refuses"),
}
