"""The package's arrangement: imports go one way, few files at the top, a core that is read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cs336_sft"
GROUND = ("errors", "records", "prompts", "tokenization", "utils")
# A file imports only rooms at or before its own; the ground level's rooms may import each other.
ORDER = [
    GROUND, ("data",), ("model",), ("logprobs",), ("losses",), ("grading",), ("generation",), ("evaluation",),
    ("training",), ("expert_iteration",), ("experiments",), ("grpo",), ("lessons",), ("exercises",), ("cli",),
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
CORE = [
    "prompts.py", "tokenization.py", "logprobs.py", "losses.py", "grading/rewards.py", "training/step.py",
    "training/loop.py", "expert_iteration/loop.py",
]  # fmt: skip
# The package's own two files stand outside: `__init__` imports on demand, `__main__` starts the command.
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.stem.startswith("__")]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Yield imported modules of the package (without its name), their lines, and whether only for types."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["cs336_sft", *module.split(".")]
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "cs336_sft":
                yield name.removeprefix("cs336_sft").lstrip("."), node.lineno, id(node) in for_types


def target(name: str) -> str:
    """Return the module that a dotted name is, or is a name in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def upward(tree: ast.AST, module: str) -> list[str]:
    room = module.split(".")[0]
    found = []
    for name, line, _ in imports(tree, module, is_package=module in MODULES and MODULES[module].stem == "__init__"):
        other = name.split(".")[0]
        if other != "__version__" and LEVEL.get(other, len(ORDER)) > LEVEL[room]:
            found.append(f"{module}, line {line}: imports {name or 'the package'}")
    return found


def test_every_file_is_in_a_room_that_has_a_place_in_the_order() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(LEVEL)


def test_imports_go_one_way() -> None:
    found = [line for module, path in MODULES.items() for line in upward(ast.parse(path.read_text("utf-8")), module)]
    assert found == []


@pytest.mark.parametrize(
    ("module", "code", "wrong"),
    [
        ("data.gsm8k", "from cs336_sft.records import Problem", False),
        ("data.gsm8k", "from cs336_sft.model.loading import load_tokenizer", True),
        ("data.gsm8k", "def f():\n    from cs336_sft.model import loading", True),
        ("data.gsm8k", "from cs336_sft import cli", True),
        ("data.gsm8k", "from cs336_sft import Metrics", True),  # a public name may come from any room
        ("data.gsm8k", "import cs336_sft.model.loading", True),
        ("data.gsm8k", "from ..model import loading", True),
        ("data.gsm8k", "from .batching import collate", False),
        ("data.gsm8k", "if TYPE_CHECKING:\n    from cs336_sft.training.config import SFTConfig", True),
        ("errors", "from cs336_sft.utils.files import read_json", False),
    ],
)
def test_the_rule_sees_an_import_the_wrong_way(module, code, wrong) -> None:
    assert bool(upward(ast.parse(code), module)) == wrong


def test_no_circles_between_modules() -> None:
    """An import for types alone makes no circle; one in a function does."""
    graph = {
        module: {
            target(name)
            for name, _, types_only in imports(
                ast.parse(path.read_text("utf-8")), module, is_package=path.stem == "__init__"
            )
            if not types_only and target(name)
        }
        - {module}
        for module, path in MODULES.items()
    }
    # A room's front door imports its files, and files of a room may not import their own front door.
    assert circles(graph) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the circles that a depth-first walk closes."""
    found, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                walk(other, [*path, module])
            done.add(module)

    for module in graph:
        walk(module, [])
    return found


def test_the_walk_finds_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_at_most_ten_files_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_every_room_says_what_is_in_it() -> None:
    rooms = {path for path in PACKAGE.rglob("*") if path.is_dir() and list(path.glob("*.py"))}
    assert rooms, "no rooms found"
    for room in rooms:
        text = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
        assert len(text.split()) >= 3, f"{room.relative_to(PACKAGE)}/__init__.py does not say what is in the room"
    for room in (PACKAGE / name for name in LEVEL):
        if room.is_dir():
            text = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8")))
            assert len(text.splitlines()) >= 3, f"{room.name}: say which file to read first"


def lines(*paths: Path) -> int:
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def test_the_package_stays_small() -> None:
    checks = [PACKAGE / "exercises" / "checks" / f"{name}.py" for name in ("ex14", "ex15")]
    policy_gradients = lines(*(PACKAGE / "grpo").rglob("*.py"), *checks)
    assert lines(*PACKAGE.rglob("*.py")) - policy_gradients <= 18_500
    assert policy_gradients <= 900
    assert lines(*(PACKAGE / "exercises").rglob("*.py")) - lines(*checks) <= 3_100


def test_the_core_is_read_in_one_sitting() -> None:
    sizes = {name: lines(PACKAGE / name) for name in CORE}
    assert {name: size for name, size in sizes.items() if size > 220} == {}
    assert sum(sizes.values()) <= 1_500
