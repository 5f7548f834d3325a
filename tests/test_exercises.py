"""The exercises: stubs are not attempted, solutions pass, and every known mistake is rejected with its own message."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from cs336_sft.errors import ConfigError
from cs336_sft.exercises.checker import check_file
from cs336_sft.exercises.files import stub_text, untouched
from cs336_sft.exercises.notebook import as_file, check
from cs336_sft.exercises.registry import EXERCISES, Exercise, find_exercise
from cs336_sft.exercises.sandbox.runner import Limits, Server

ROOT = Path(__file__).resolve().parent.parent


def load_file(path: Path):
    """A module from its file."""
    spec = spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MISTAKES = ROOT / "tests" / "mistakes"


@dataclass(frozen=True)
class Row:
    """One known mistake, the message that it must get, and what the check said."""

    exercise: str
    mistake: str
    expected: str
    status: str
    seen: str

    @property
    def caught(self) -> bool:
        return self.status in ("wrong", "crashed") and self.expected in self.seen


def mistakes_of(exercise: Exercise) -> list[Path]:
    return sorted((MISTAKES / exercise.number).glob("*.py"))


def expected_message(file: Path) -> str:
    """What the file's docstring says that the check must say."""
    return re.search(r"Expected message: (.+)", file.read_text(encoding="utf-8")).group(1)


def run_mistake(exercise: Exercise, file: Path, server: Server) -> Row:
    report = check_file(exercise, file, server)
    seen = " ".join(report.failure.message.split()) if report.failure else ""
    return Row(exercise.number, file.stem, expected_message(file), report.status, seen)


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the exercises' process forks")
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.number)


@pytest.fixture(scope="module")
def server():
    with Server(Limits(seconds=100)) as running:  # whatever else the machine does meanwhile
        yield running


@pytest.fixture(scope="module")
def matrix(server):
    return [run_mistake(exercise, file, server) for exercise in EXERCISES for file in mistakes_of(exercise)]


@each_exercise
def test_the_stub_is_not_attempted(exercise: Exercise, server, tmp_path) -> None:
    file = tmp_path / exercise.file_name
    file.write_text(stub_text(exercise))
    report = check_file(exercise, file, server)
    assert report.status == "not attempted" and not report.passed
    assert f"checked: {file}" in report.text()


@each_exercise
def test_a_comment_is_no_attempt_and_a_raise_is_none_either(exercise: Exercise, server, tmp_path) -> None:
    assert untouched(exercise, "# mine\n" + stub_text(exercise))
    if exercise.number == "ex13":
        return  # its stub runs: it is to be corrected
    file = tmp_path / exercise.file_name
    file.write_text(stub_text(exercise) + "\nHELPER = 1\n")
    assert check_file(exercise, file, server).status == "not attempted"


@each_exercise
def test_the_solution_passes(exercise: Exercise, server) -> None:
    report = check_file(exercise, ROOT / "solutions" / exercise.file_name, server)
    assert report.passed, report.text()


@each_exercise
def test_every_mistake_is_rejected_with_its_own_message(exercise: Exercise, matrix) -> None:
    rows = [row for row in matrix if row.exercise == exercise.number]
    assert len(rows) >= 6
    assert [f"{row.mistake}: {row.seen}" for row in rows if not row.caught] == []


@each_exercise
def test_messages_tell_the_mistakes_apart(exercise: Exercise, matrix) -> None:
    expected = [expected_message(file) for file in mistakes_of(exercise)]
    assert len(set(expected)) == len(expected)
    # Nor does one mistake's report hold the message of another (ex13's two_left names two faults on purpose).
    rows = [row for row in matrix if row.exercise == exercise.number]
    confused = [
        (row.mistake, other.mistake)
        for row in rows
        for other in rows
        if row is not other
        and other.expected in row.seen
        and other.expected not in row.expected
        and row.mistake != "two_left"
    ]
    assert confused == []


def test_the_page_counts_every_mistake() -> None:
    page = (ROOT / "docs" / "how-this-is-tested.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (ex\d\d \w+) \| (\d+) \|$", page, re.M)
    counts = {exercise.title: len(mistakes_of(exercise)) for exercise in EXERCISES}
    assert {title: int(count) for title, count in rows} == counts
    assert f"There are {sum(counts.values())}, each a mistake" in page


def test_every_mistake_names_its_slip() -> None:
    for file in MISTAKES.glob("*/*.py"):
        assert re.match(r'"""Slip: .+\.\n\nExpected message: .+\n"""', file.read_text()), file


@each_exercise
def test_stub_solution_and_registry_agree(exercise: Exercise) -> None:
    solution = (ROOT / "solutions" / exercise.file_name).read_text()
    stub = stub_text(exercise)
    for name in exercise.functions:
        signature = re.compile(rf"^def {name}\((.*?)\)(?: ->.*?)?:$", re.M | re.S)
        assert signature.search(stub).group(1) == signature.search(solution).group(1)
    assert f"Difficulty {exercise.difficulty} of 5, about {exercise.minutes} minutes" in stub
    assert exercise.notebook in stub and "By hand" in stub
    assert len(exercise.hints) == 3 and all(exercise.hints)


@each_exercise
def test_the_repository_ships_the_stub(exercise: Exercise) -> None:
    name = f"exercises/{exercise.file_name}"
    try:
        shipped = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        pytest.skip("no git")
    if shipped.returncode:
        pytest.skip("not committed yet, or not a git checkout")
    here = (ROOT / name).read_text()
    if here != shipped.stdout:
        pytest.skip("you are working on it")
    assert here == stub_text(exercise)


def test_only_the_exercises_are_there() -> None:
    for folder in ("exercises", "solutions"):
        names = {path.name for path in (ROOT / folder).glob("ex*.py") if "before-reset" not in path.name}
        assert names == {exercise.file_name for exercise in EXERCISES}
    assert {path.name for path in MISTAKES.iterdir()} == {exercise.number for exercise in EXERCISES}


# --- from a notebook


def test_check_of_a_function_brings_what_it_uses(tmp_path, monkeypatch) -> None:
    """The function's helpers, constants, modules and imported names come along."""
    (tmp_path / "cell.py").write_text(
        "from fractions import Fraction\n\nimport torch\nimport torch as t\nfrom torch import where\nZERO = 0.0\n\n\n"
        "def kept(tensor, mask):\n    return where(mask.bool(), tensor, ZERO)\n\n\n"
        "def masked_normalize(tensor, mask, normalize_constant, dim=None):\n"
        "    return t.sum(kept(tensor, mask), dim=dim) / (normalize_constant * float(Fraction(1)))\n\n\n"
        "def wrong(tensor, mask, normalize_constant, dim=None):\n    return kept(tensor, mask).sum(dim=dim)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import cell

    assert "from fractions import Fraction" in as_file(cell.masked_normalize, find_exercise("ex03"))  # not its source
    report = check(cell.masked_normalize)
    assert report.passed and report, report.text()
    assert "the function masked_normalize of this program" in report.text()
    cell.get_ipython = None
    assert "the function masked_normalize of this notebook" in check(cell.masked_normalize).text()
    with pytest.raises(ConfigError, match="belongs to ex02 and ex09. Remedy: say which: exercise='ex02'"):
        cell.wrong.__name__ = "tokenize_prompt_and_output"
        check(cell.wrong)
    cell.wrong.__name__ = "masked_normalize"
    cell.masked_normalize = cell.wrong
    del sys.modules["cell"]


def test_check_by_name_names_the_file_and_shows_html(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text((MISTAKES / "ex02" / "prompt_supervised.py").read_text())
    report = check("ex02", file=file)
    assert report.status == "wrong" and not report and str(file) in repr(report)
    html = report._repr_html_()
    assert "color:#da3633" in html and "first wrong" in html and "&lt;" not in report.text()
    assert "\033[31m" in report.text(colour=True) and "\033" not in report.text()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_no_mutant_of_a_solution_survives_unexplained() -> None:
    pytest.importorskip("cosmic_ray", reason="needs the extra `mutation`")
    tool = load_file(ROOT / "tools" / "mutate_solutions.py")
    reasons = json.loads(tool.REASONS.read_text())
    mutants = tool.run(EXERCISES)
    assert len(mutants) > 500
    assert [m for m in mutants if m.status == "passed" and m.key not in reasons.get(m.exercise, {})] == []


def test_stanford_s_adapters_are_this_library_s_functions() -> None:
    import torch

    import cs336_sft

    adapters = load_file(ROOT / "compat" / "adapters.py")
    tensor, mask = torch.arange(6.0).reshape(2, 3), torch.tensor([[1, 0, 1], [0, 1, 1]])
    for dim in (0, 1, None):
        found = adapters.run_masked_normalize(tensor=tensor, mask=mask, dim=dim, normalize_constant=4.0)
        assert torch.equal(found, cs336_sft.masked_normalize(tensor, mask, 4.0, dim))
    assert torch.equal(adapters.run_compute_entropy(tensor), cs336_sft.compute_entropy(tensor))
    log_probs = (-tensor).requires_grad_()
    loss, metadata = adapters.run_sft_microbatch_train_step(log_probs, mask, 2, normalize_constant=1.0)
    assert loss.item() == (0 + 2 + 4 + 5) / 2 / 2 and isinstance(metadata, dict)
    with pytest.raises(NotImplementedError):
        adapters.run_grpo_train_step()


def test_the_usual_first_repair_of_ex13_leaves_the_other_faults_named(tmp_path) -> None:
    """`zero_grad` in its usual place, before `backward`, with everything else still broken."""
    stub = stub_text(find_exercise("ex13"))
    file = tmp_path / "mine.py"
    file.write_text(stub.replace("loss.backward()", "optimizer.zero_grad()\n                loss.backward()"))
    message = check("ex13", file=file).failure.message
    assert "5 faults are left" in message and "clear them once a step" in message and "more updates than" in message


@each_exercise
def test_right_answers_in_other_styles_pass(exercise: Exercise, server) -> None:
    """Four an exercise, by somebody who saw the stubs alone: loops, autograd.Function, checkpoint, other libraries."""
    files = sorted((ROOT / "tests" / "right_answers" / exercise.number).glob("*.py"))
    assert len(files) == 4
    reports = [check_file(exercise, file, server) for file in files]
    assert [report.text() for report in reports if not report.passed] == []
