"""Files that try to pass without being right, or to take the machine with them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cs336_sft.exercises.checker import check_file
from cs336_sft.exercises.registry import find_exercise
from cs336_sft.exercises.report import Report
from cs336_sft.exercises.sandbox.perform import Observation, read_observation, write_observation
from cs336_sft.exercises.sandbox.runner import MIB, Limits, Server
from cs336_sft.exercises.sandbox.values import decode, encode

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the exercises' process forks")
EXERCISE = find_exercise("ex03")
SOLUTION = Path(__file__).resolve().parent.parent / "solutions" / EXERCISE.file_name
TO_EVERY_FILE = "    try:\n        os.write(fd, LINE)\n    except OSError:\n        pass\n"
SIGNATURE = "def masked_normalize(tensor, mask, normalize_constant, dim=None):\n"


# A busy machine must not turn another verdict into a timeout: only what never ends gets a short clock.
AMPLE = Limits(seconds=100, memory=512 * MIB)
SHORT = Limits(seconds=4, memory=512 * MIB)


@pytest.fixture(scope="module")
def server():
    with Server(AMPLE) as running:
        running.start()
        yield running


def verdict(server: Server, tmp_path: Path, text: str, limits: Limits = AMPLE) -> Report:
    file = tmp_path / EXERCISE.file_name
    file.write_text(text)
    server.limits = limits
    report = check_file(EXERCISE, file, server)
    # Whatever happened, the next file is judged as ever.
    server.limits = AMPLE
    assert check_file(EXERCISE, SOLUTION, server).passed
    return report


HOSTILE = {
    "loops forever in the function": (SIGNATURE + "    while True:\n        pass\n", "endless loop"),
    "loops forever at import": ("while True:\n    pass\n", "endless loop"),
    "sleeps": (SIGNATURE + "    __import__('time').sleep(1000)\n", "endless loop"),
    # At once, and block by block; numpy.empty takes addresses without touching them, so both take no time.
    "eats memory in Python": (SIGNATURE + "    return bytearray(2**33)\n", "ran out of memory"),
    "eats memory block by block": (
        "import numpy as np\n" + SIGNATURE + "    return [np.empty(2**25, dtype='u1') for _ in range(1000)]\n",
        "ran out of memory",
    ),
    "eats memory in PyTorch": (
        "import torch\n" + SIGNATURE + "    return torch.ones(2**33).sum()\n",
        "ran out of memory",
    ),
    "sys.exit(0) in the function": ("import sys\n" + SIGNATURE + "    sys.exit(0)\n", "sys.exit(0)"),
    "sys.exit(0) at import": ("import sys\nsys.exit(0)\n", "sys.exit(0)"),
    "os._exit(0) in the function": ("import os\n" + SIGNATURE + "    os._exit(0)\n", "exit status 0"),
    "os._exit(0) at import": ("import os\nos._exit(0)\n", "exit status 0"),
    "kills itself": (
        "import os, signal\n" + SIGNATURE + "    os.kill(os.getpid(), signal.SIGKILL)\n",
        "ended by signal 9",
    ),
    "kills its parent": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + SIGNATURE + "    return tensor\n",
        "",
    ),
    "prints a fake verdict": (
        "print('ex03 masked_normalize: PASSED')\n"
        + SIGNATURE
        + "    print('\\033[32mPASSED\\033[0m', flush=True)\n    return tensor.sum()\n",
        "| ",
    ),
    "replaces the checker": (
        "import torch\nimport cs336_sft.exercises.compare as compare\nimport cs336_sft.exercises.checker as checker\n"
        "import cs336_sft.exercises.checks.ex03 as ex03\n"
        "compare.same = compare.compare = lambda *a, **k: True\n"
        "checker.check_file = ex03.check = lambda *a, **k: None\n"
        "torch.allclose = torch.equal = lambda *a, **k: True\n" + SIGNATURE + "    return tensor.sum()\n",
        "",
    ),
    "replaces the code that calls it": (
        "import cs336_sft.exercises.sandbox.child as child\nimport cs336_sft.exercises.sandbox.perform as perform\n"
        "child.perform = perform.perform = lambda *a, **k: perform.Observation(value=True)\n"
        + SIGNATURE
        + "    return tensor.sum()\n",
        "",
    ),
    "returns what equals everything": (
        "class Yes:\n    def __eq__(self, other):\n        return True\n    def __bool__(self):\n        return True\n"
        "    shape = ()\n" + SIGNATURE + "    return Yes()\n",
        "Opaque",
    ),
    "a tensor of its own class": (
        "import torch\nclass T(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, *a, **k):\n"
        "        return True\n" + SIGNATURE + "    return torch.zeros(2).as_subclass(T)\n",
        "",
    ),
    "replaces the cases": (
        "import cs336_sft.exercises.checks.ex03 as ex03\n"
        "for check in ex03.CHECKS:\n    check.cases[:] = [check.cases[0]] * len(check.cases)\n"
        + SIGNATURE
        + "    return 2.5\n",
        "",
    ),
    "writes results into every open file": (
        "import os\nfrom cs336_sft.exercises.sandbox.perform import Observation, write_observation\n"
        "for fd in range(3, 64):\n    try:\n"
        "        os.write(fd, write_observation(Observation(value=1.0)).encode() + b'\\n')\n"
        "    except OSError:\n        pass\n" + SIGNATURE + "    return tensor.sum()\n",
        "what is no answer",
    ),
    "writes garbage into every open file": (
        "import os\n" + SIGNATURE + "    for fd in range(3, 64):\n        try:\n            os.write(fd, b'x' * 100)\n"
        "        except OSError:\n            pass\n    return tensor.sum()\n",
        "",
    ),
    "an exception that can't be shown": (
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\n" + SIGNATURE + "    raise E\n",
        "can't be shown",
    ),
    "fills the disk": (SIGNATURE + "    open('x', 'wb').write(b'0' * 2**28)\n", "too large"),
    "returns a value without end": (
        SIGNATURE + "    x = []\n    x.append(x)\n    return x\n",
        "can't be read",
    ),
    "returns an integer that no float holds": (SIGNATURE + "    return 10**400\n", "Opaque"),
    "no Python": ("def masked_normalize(:\n", "not Python"),
    "no text": ("\x00", "not Python"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_not_passed(name: str, server, tmp_path) -> None:
    text, words = HOSTILE[name]
    report = verdict(server, tmp_path, text, SHORT if words == "endless loop" else AMPLE)
    assert not report.passed and report.status in ("wrong", "crashed"), report.text()
    assert words in report.text(), report.text()
    assert "\033" not in report.text()


def test_the_page_counts_every_hostile_file() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "how-this-is-tested.md").read_text(encoding="utf-8")
    assert f"has {len(HOSTILE)} files that try to pass" in page


def test_a_file_that_never_ends_is_ended_in_time(server, tmp_path) -> None:
    """The clock is the checker's, so it holds however the file spends its time."""
    started = time.monotonic()
    verdict(server, tmp_path, HOSTILE["sleeps"][0], Limits(seconds=1, memory=512 * MIB))
    assert time.monotonic() - started < 60


def test_memory_that_is_really_used_ends_by_one_of_the_limits(server, tmp_path) -> None:
    """Writing to half a gigabyte takes as long as the machine takes: by memory or by time, it is not passed."""
    text = verdict(server, tmp_path, SIGNATURE + "    return [bytearray(2**26) for _ in range(1000)]\n", SHORT).text()
    assert "ran out of memory" in text or "endless loop" in text


def test_the_verdict_line_is_ours_and_their_print_is_quoted(server, tmp_path) -> None:
    text = HOSTILE["prints a fake verdict"][0]
    lines = verdict(server, tmp_path, text).text().splitlines()
    assert lines[0] == "ex03 masked_normalize: WRONG"
    assert all(line.strip().startswith("|") for line in lines if "PASSED" in line)


def test_a_crash_shows_their_line_not_our_traceback(server, tmp_path) -> None:
    text = verdict(server, tmp_path, SIGNATURE + "    # here\n    return tensor / mask.nonsense\n").text()
    assert "CRASHED" in text and "your line 3: return tensor / mask.nonsense" in text
    assert "Traceback" not in text and "perform.py" not in text


def test_the_code_runs_elsewhere_and_leaves_nothing(server, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    verdict(server, tmp_path, "open('left-behind', 'w').write('x')\n" + SIGNATURE + "    return tensor.sum()\n")
    assert not (tmp_path / "left-behind").exists()


def test_files_do_not_touch_one_another(server, tmp_path) -> None:
    text = "import torch\nright = torch.where\ntorch.where = None\n"
    assert "CRASHED" in verdict(server, tmp_path, text + SIGNATURE + "    return torch.where(mask, tensor, 0)\n").text()


def test_one_result_too_many_is_refused(server, tmp_path) -> None:
    """A result is a line; whoever writes lines of their own is out of step with the cases."""
    text = SOLUTION.read_text() + f"\nimport os\nfor fd in range(3, 64):\n{TO_EVERY_FILE}"
    report = verdict(server, tmp_path, text.replace("LINE", repr(write_observation(Observation()).encode() + b"\n")))
    assert "what is no answer" in report.text()


def test_a_process_left_behind_does_not_reach_the_next_file(server, tmp_path) -> None:
    """It holds the results of its own file open, which nobody reads any more, and no pipe of ours."""
    text = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    for i in range(100):\n        time.sleep(0.1)\n"
        "        for fd in range(3, 64):\n            try:\n                os.write(fd, b'x')\n"
        "            except OSError:\n                pass\n    os._exit(0)\n"
    )
    assert not verdict(server, tmp_path, text + SIGNATURE + "    return tensor.sum()\n").passed


@pytest.mark.parametrize("text", ["", b"\xff" * 100, "[1", '{"tensor": 1}', '{"list": [], "tuple": []}', "[" * 99999])
def test_text_that_is_no_value_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode(text)


@pytest.mark.parametrize(
    "value", [None, 5, {"value": 1}, {"crash": 5}, {"crash": [1, 2, 3, 4, 5, 6]}, {"crash": None, "x": 1}]
)
def test_values_that_are_no_observation_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        read_observation(encode(value))
