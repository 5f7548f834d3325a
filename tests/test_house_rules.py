"""What must hold for every file of the repository."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cs336_sft.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
# Folders that exist on somebody's machine and nowhere else; system folders such as /proc and /usr are fine.
MACHINE_PATH = re.compile(
    r"(?<![\w.~$)}/-])(?:/home/|/root/|/work/|/tmp/|/Users/|/mnt/|/scratch/|/opt/|/content/|/kaggle/)"
    r"|[A-Z]:\\\\?Users\\"
)
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|conda\.anaconda\.org|deb\.debian\.org|index-url[= ]+http"
)
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy"}
# These have to spell what they look for.
EXEMPT = {"tests/test_house_rules.py", "tests/notebook_guard.py", "tests/test_notebooks_executed.py"}


def tracked_files() -> list[Path]:
    """What git tracks, and what it would track: new files count before they are committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(ROOT / name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


def text_of(path: Path) -> str | None:
    """The text, or None for a binary file."""
    content = path.read_bytes()
    if b"\0" in content[:8192]:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def findings(pattern: re.Pattern) -> list[str]:
    found = []
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        text = None if name in EXEMPT else text_of(path)
        for number, line in enumerate((text or "").splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{name}, line {number}: {match.group()}")
    return found


@pytest.mark.parametrize("line", ['open("/home/ann/x")', "see /tmp/run", "cd /work/main", r"C:\\Users\\ann"])
def test_the_rule_sees_a_path_of_a_machine(line) -> None:
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["/sys/fs/cgroup", "tests/data/x", "$(CURDIR)/work/", "runs/home/x", "a/tmp/b"])
def test_the_rule_leaves_other_text_alone(line) -> None:
    assert not MACHINE_PATH.search(line)


def test_no_path_of_a_machine_in_any_file() -> None:
    assert findings(MACHINE_PATH) == []


def test_no_registry_address_in_any_file() -> None:
    assert findings(REGISTRY) == []


def test_files_and_repository_stay_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in sizes.items() if size >= 12 * MIB} == {}
    assert sum(sizes.values()) < 60 * MIB


def test_no_pickles() -> None:
    """Loading a pickle can run code; weights are safetensors, figures are in notebooks."""
    assert [p.relative_to(ROOT).as_posix() for p in tracked_files() if p.suffix.lower() in PICKLES] == []


def test_shipped_model_stays_under_its_limit() -> None:
    weights = [path for path in tracked_files() if path.suffix == ".safetensors"]
    assert all(path.stat().st_size < 8 * MIB for path in weights)


def test_gsm8k_is_not_copied_into_the_repository() -> None:
    # The first question of its train part.
    opening = "Natalia sold clips to 48 of her friends in " + "April"
    holders = [
        p.relative_to(ROOT).as_posix()
        for p in tracked_files()
        if p.suffix == ".jsonl" and opening in (text_of(p) or "")
    ]
    assert holders == []


def test_no_eval_or_exec_in_the_package() -> None:
    """Model output is text from a stranger: nothing of it may be run."""
    call = re.compile(r"(?<![\w.])(?:eval|exec)\(|\bpickle\.|trust_remote_code=True")
    assert [hit for hit in findings(call) if hit.startswith("cs336_sft/")] == []


# Plain words: docstrings and help texts

# Archaic or home-made words; the field's terms are in CONTRIBUTING.
STOP_WORDS = re.compile(
    r"\b(mend(s|ed|ing)?|told|beside|anew|whence|thereof|verdicts?|goes off|is to be had|becomes of)\b",
    re.IGNORECASE,
)
# A summary begins with a verb (imperative), so not with one of these.
NO_VERB = re.compile(
    r"(What|Which|Whether|How|Where|When|Why|Of|That|Those|The|A|An|One|Every|All|Each|It|This|Its|No|Only)\b"
)
SUMMARY_LENGTH = 80
CONTRACT_LINES = 8  # of a function; examples are not counted
CLASS_LINES = 30  # a class may list its attributes


def docstring_findings(source: str) -> list[str]:
    """Return a line for each docstring that breaks a rule."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        text = ast.get_docstring(node)
        if text:
            name, line = getattr(node, "name", "the module"), getattr(node, "lineno", 1)
            found += [f"line {line}, {name}: {finding}" for finding in _findings(node, text)]
    return found


def _findings(node: ast.AST, text: str) -> Iterator[str]:
    summary, _, rest = text.partition("\n")
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if len(summary) > SUMMARY_LENGTH or rest.partition("\n")[0].strip():
            yield f"the summary is not one line of at most {SUMMARY_LENGTH} characters"
        if NO_VERB.match(summary):
            yield f"the summary does not begin with a verb: {summary!r}"
        if ";" in summary:
            yield "the summary has a semicolon"
    if not isinstance(node, ast.Module):
        lines = contract_lines(text)
        if lines > (CLASS_LINES if isinstance(node, ast.ClassDef) else CONTRACT_LINES):
            yield f"{lines} lines of contract"
    if word := STOP_WORDS.search(text):
        yield f"the word {word[0]!r}"


def contract_lines(docstring: str) -> int:
    """Count the lines that are neither blank nor part of an example (from `>>>` to the next blank line)."""
    count, example = 0, False
    for line in docstring.splitlines():
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        count += bool(line.strip()) and not example
    return count


@pytest.mark.parametrize(
    ("docstring", "finding"),
    [
        ("Compute the loss.", None),
        ("Compute the loss.\n\n    Shapes [B, T].\n\n    Raises:\n        DataError: none.\n\n    >>> 1\n    1", None),
        ("What the loss is.", "begin with a verb"),
        ("Whether it is done.", "begin with a verb"),
        ("The loss.", "begin with a verb"),
        ("Compute the loss; log it.", "semicolon"),
        ("Compute the loss\n    of a batch.", "not one line"),
        ("Compute " + "x" * 80, "not one line"),
        ("Compute the loss.\n\n" + "    More.\n" * 8, "9 lines of contract"),
        ("Compute the loss.\n\n" + "    More.\n" * 7, None),
        ("Mend the loss.", "the word 'Mend'"),
        ("Compute the loss.\n\n    It is told in nats.", "the word 'told'"),
    ],
)
def test_the_rule_sees_a_docstring(docstring, finding) -> None:
    found = docstring_findings(f'def f():\n    """{docstring}\n    """\n')
    assert (not found) if finding is None else (len(found) == 1 and finding in found[0]), found


def test_docstrings_begin_with_a_verb_and_are_short() -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()}, {finding}"
        for path in sorted((ROOT / "cs336_sft").rglob("*.py"))
        for finding in docstring_findings(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def help_texts(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield (where, text) for every description and help text of a parser and its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield f"{command} {choice.dest}", choice.help
            for name, subparser in action.choices.items():
                yield from help_texts(subparser, f"{command} {name}".strip())
        elif action.help is not argparse.SUPPRESS:
            yield f"{command} {'/'.join(action.option_strings) or action.dest}", action.help
    if parser.description is not None:
        yield f"{command} (description)", parser.description


NO_PHRASE = re.compile(r"(what|which|whether|of|how|where|that|those)\b", re.IGNORECASE)


def help_finding(text: str | None) -> str | None:
    """Return what is wrong with a help text, or None."""
    if not text:
        return "no help text"
    if NO_PHRASE.match(text):
        return "begins with a word that leans on the option's name"
    # The default in parentheses is no part of the phrase.
    if len(re.sub(r"\([^)]*\)", "", text).split()) < 2:
        return "is no phrase"
    if word := STOP_WORDS.search(text):
        return f"the word {word[0]!r}"
    return None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("random seed for problem choice and sampling (default 0)", False),
        ("of the choice of problems (0)", True),
        ("What is drawn", True),
        ("seed (default 0)", True),
        ("rewards told apart", True),
        (None, True),
    ],
)
def test_the_rule_sees_a_help_text(text, wrong) -> None:
    assert (help_finding(text) is not None) == wrong


def test_help_texts_are_complete_phrases() -> None:
    found = [
        f"{where}: {text!r}: {help_finding(text)}" for where, text in help_texts(build_parser()) if help_finding(text)
    ]
    assert found == []
