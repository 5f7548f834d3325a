"""MATH-style answers: judged in a process that is killed at its limits. Needs the optional extra ``math``."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cs336_sft.errors import ConfigError
from cs336_sft.grading import MathVerifier, grade_response, question_only_reward_fn

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="install the optional extra: pip install 'cs336-sft[math]'"
)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(time_limit=20) as math:
        yield math


@needs_math_verify
@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("2\\sqrt{3}", "\\sqrt{12}", 1.0),
        ("x^2+2x+1", "(x+1)^2", 1.0),
        ("x^2+1", "(x+1)^2", 0.0),
        ("[0,1)", "[0, 1)", 1.0),
        ("(0,1)", "[0, 1)", 0.0),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", 1.0),
        ("\\frac{\\pi}{2}", "\\boxed{\\frac{\\pi}{2}}", 1.0),
        # Numbers are graded by the numeric path as ever.
        ("\\$18.00", "18", 1.0),
        ("4 \\text{ feet } 5 \\text{ inches}", "45", 0.0),
        ("18 or 19", "18", 0.0),
    ],
)
def test_expressions(verifier: MathVerifier, answer: str, truth: str, right: float) -> None:
    assert question_only_reward_fn(f"So \\boxed{{{answer}}}.", truth, math=verifier)["reward"] == right


@needs_math_verify
def test_any_of_several_truths(verifier: MathVerifier) -> None:
    assert grade_response("\\boxed{\\sqrt{12}}", ["7", "2\\sqrt{3}"], "question_only", math=verifier)["reward"] == 1.0
    assert grade_response("no box", "2\\sqrt{3}", "question_only", math=verifier)["format_reward"] == 0.0


@needs_math_verify
def test_a_tower_of_powers_is_killed_and_the_next_answer_judged() -> None:
    with MathVerifier(time_limit=1.0) as math:
        math.compare("x", "x")  # started, so that the time below is the comparison's
        first = math._process
        start = time.monotonic()
        verdict = math.compare("9^{9^{9^{9}}} + x", "9^{9^{9^{8}}} + x")
        assert time.monotonic() - start < 10
        assert not verdict.equal
        assert math.compare("2x", "x+x").equal
        assert first is not None
    assert first.poll() is not None  # nothing is left running


def test_a_process_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = "import sys; print('{\"ready\": true}', flush=True); [None for line in sys.stdin]"
    _replace_worker(monkeypatch, silent)
    with MathVerifier(time_limit=0.2) as math:
        verdict = math.compare("x", "x")
        assert (verdict.equal, verdict.reason) == (False, "killed after 0.2 s")
        assert math._process is None


def test_a_process_that_dies_makes_the_answer_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_worker(monkeypatch, "import sys; print('{\"ready\": true}', flush=True); sys.stdin.readline()")
    with MathVerifier(time_limit=10) as math:
        assert "died" in math.compare("x", "x").reason
        assert "died" in math.compare("x", "x").reason  # started anew


_GREEDY = """
import runpy, sys, types
stub = types.ModuleType("math_verify")
stub.parse = lambda text, **options: bytearray(10**10) if "big" in text else text
stub.verify = lambda truth, answer, **options: truth == answer
sys.modules["math_verify"] = stub
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_greedy_comparison_meets_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:
        assert command[1] == "-P"
        return real([sys.executable, "-c", _GREEDY, *command[2:]], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with MathVerifier(time_limit=20, memory_limit_mb=512) as math:
        verdict = math.compare("big", "x")
        assert not verdict.equal and ("memory" in verdict.reason)
        assert math.compare("x", "x").equal


def test_a_missing_math_verify_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_worker(monkeypatch, "raise SystemExit(1)")
    with pytest.raises(ConfigError, match=r"cs336-sft\[math\]"):
        question_only_reward_fn("\\boxed{x}", "x", math=MathVerifier())


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError):
        MathVerifier(time_limit=0)
    with pytest.raises(ConfigError):
        MathVerifier(memory_limit_mb=-1)


def test_a_long_answer_is_not_handed_over() -> None:
    assert not MathVerifier().compare("x" * 2_000, "x").equal  # and no process is started


def _replace_worker(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
