"""The stored notebooks are what their code gives: `make notebooks` makes them so."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest
from nbformat import v4
from notebook_guard import complaints, must_print

from cs336_sft.exercises.registry import EXERCISES

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = (
    "00_start_here",
    "01_token_lengths",
    "02_masked_loss",
    "03_grader",
    "04_first_sft_run",
    "05_learning_rate_and_batch",
    "06_truncation",
    "07_data_size",
    "08_full_vs_lora_qlora",
    "09_expert_iteration",
    "10_out_of_memory",
)
PNG = "iVBORw0KGgo="
ASKED = r'(?m)^predict\("([\w-]+)", None, None\)  # .+: from, to$'  # with its unit


def read(name: str):
    path = FOLDER / f"{name}.ipynb"
    assert path.is_file(), f"{path.name} is missing"
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_notebooks_are_there_and_valid(name) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


STORED = [
    path.relative_to(FOLDER).with_suffix("") for folder in ("", "appendix/") for path in FOLDER.glob(f"{folder}*.ipynb")
]


@pytest.mark.parametrize("name", sorted({path.as_posix() for path in STORED} | set(NAMES)))
def test_every_notebook_is_stored_as_it_ran(name) -> None:
    notebook = read(name)
    assert list(complaints(notebook)) == []
    # A notebook may be started from the repository's root or from its own folder.
    assert not [cell.source for cell in notebook.cells if cell.cell_type == "code" and '("../' in cell.source]


@pytest.fixture
def good():
    """A small notebook in order, so that each test below can spoil one thing."""

    def code(source, count, *outputs):
        return v4.new_code_cell(source, execution_count=count, outputs=list(outputs))

    picture = v4.new_output("display_data", data={"image/png": PNG, "text/plain": "<Figure>"})
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell("# Title"),
            code("import matplotlib.pyplot as plt\nx = 1", 1),
            code("print(x)", 2, v4.new_output("stream", name="stdout", text="1\n")),
            code("plt.plot([x])\nplt.show()", 3, picture),
            code("x + 1", 4, v4.new_output("execute_result", data={"text/plain": "2"}, execution_count=4)),
        ]
    )


def spoiled(notebook, change) -> str:
    notebook = copy.deepcopy(notebook)
    change(notebook.cells)
    return "\n".join(complaints(notebook))


def test_guard_accepts_a_notebook_in_order(good) -> None:
    assert list(complaints(good)) == []


def test_guard_rejects_stripped_outputs(good) -> None:
    def strip(cells):
        for cell in cells[1:]:
            cell.outputs, cell.execution_count = [], None

    found = spoiled(good, strip)
    assert "execution count None" in found and "no output is stored" in found and "no picture is stored" in found


def test_guard_rejects_one_output_that_is_missing(good) -> None:
    for index in (2, 4):
        assert "no output is stored" in spoiled(good, lambda cells, index=index: cells[index].outputs.clear())


def test_guard_rejects_cells_out_of_order(good) -> None:
    def swap(cells):
        cells[2], cells[3] = cells[3], cells[2]

    assert "execution count 3, expected 2" in spoiled(good, swap)
    assert "expected 1" in spoiled(good, lambda cells: setattr(cells[1], "execution_count", 7))
    assert "expected 4" in spoiled(good, lambda cells: setattr(cells[4], "execution_count", 5))


def test_guard_rejects_a_cell_that_never_ran(good) -> None:
    added = v4.new_code_cell("y = 2")
    assert "execution count None, expected 5" in spoiled(good, lambda cells: cells.append(added))


def test_guard_rejects_errors(good) -> None:
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    assert "error ValueError" in spoiled(good, lambda cells: cells[1].outputs.append(error))


def test_guard_rejects_missing_figures(good) -> None:
    def text_only(cells):
        del cells[3].outputs[0].data["image/png"]

    assert "no picture is stored" in spoiled(good, text_only)


@pytest.mark.parametrize("path", ["/home/ann/runs", "/root/x.json", "/tmp/abc", "/Users/ann/x", r"C:\\Users\\ann"])
def test_guard_rejects_paths_of_a_machine(good, path) -> None:
    assert "path of a machine" in spoiled(good, lambda cells: setattr(cells[2].outputs[0], "text", f"in {path}\n"))


def test_guard_rejects_an_empty_notebook() -> None:
    assert list(complaints(v4.new_notebook())) == ["no code cell"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("frame", True),
        ("frame['x']", True),
        ("a == b", True),
        ("f(x)", False),
        ("frame;", False),
        ("None", False),
        ("%matplotlib inline", False),
        ("!ls", False),
        ("%%time\nprint(1)", False),
        ("for i in x:\n    print(i)", False),
        ("display(frame)\nx = 1", True),
        ("def f():\n    print(1)", False),
    ],
)
def test_what_has_to_print(source, expected) -> None:
    assert must_print(source) is expected


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.number)
def test_the_lesson_of_an_exercise_names_it(exercise) -> None:
    prose = "".join(cell.source for cell in read(exercise.notebook).cells)
    assert exercise.number in prose and all(name in prose for name in exercise.functions)


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_is_short(name) -> None:
    cells = read(name).cells
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    code = [len([row for row in cell.source.splitlines() if row.strip()]) for cell in cells if cell.cell_type == "code"]
    figures = sum("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", []))
    assert words <= 1600 and figures <= 8, (words, figures)
    assert sum(code) <= 280 and median(code) <= 8 and max(code) <= 30, code


def setup_lines(cells) -> int:
    """Count the lines of code in front of the lesson's first section, in however many cells."""
    second = [index for index, cell in enumerate(cells) if cell.cell_type == "markdown"][1]
    code = [cell.source for cell in cells[:second] if cell.cell_type == "code"]
    return sum(bool(row.strip()) for source in code for row in source.splitlines())


def test_a_setup_in_two_cells_counts_as_one() -> None:
    def section(*sources):
        cells = map(v4.new_code_cell, sources)
        return [v4.new_markdown_cell("# Title"), *cells, v4.new_markdown_cell("## 1"), v4.new_code_cell("x = 1\ny = 2")]

    assert setup_lines(section("import a\n\nimport b")) == 2
    assert setup_lines(section("import a\nimport b", "c = 1\n\nd = 2\ne = 3")) == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_setup_of_a_lesson_is_short(name) -> None:
    cells = read(name).cells
    assert 0 < setup_lines(cells) <= 10


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_few_asked_in_words_and_answered_later(name) -> None:
    cells = read(name).cells
    asked, answered, questions = {}, {}, 0
    for place, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            questions += len(re.findall(r"\*\*Predict", cell.source))
            continue
        asked |= dict.fromkeys(
            re.findall(r'^predict\("([\w-]+)", None, None\)  # .+: from, to$', cell.source, re.M), place
        )
        for found in re.findall(r'\breveal\("([\w-]+)"', cell.source):
            assert found not in answered, f"{found} is revealed twice"
            answered[found] = place
        if "predict(" in cell.source:
            assert cells[place - 1].cell_type == "markdown" and "**Predict" in cells[place - 1].source
    assert 2 <= len(asked) <= 4 and set(asked) == set(answered)
    assert all(asked[key] < answered[key] and key.startswith(name[:3].replace("_", "-")) for key in asked)
    assert 0 < questions <= len(asked), "a question that says Predict has a cell"
    source = "".join(cell.source for cell in cells)
    assert source.count("predict(") == len(asked) + 1 and "my_prediction" not in source, "and the title explains it"


def test_the_last_lesson_draws_how_well_the_learner_predicted() -> None:
    assert any("prediction_states()" in cell.source and _pictures(cell) for cell in read(NAMES[-1]).cells)


def _pictures(cell) -> list:
    return [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_its_text_and_one_is_to_be_remembered(name) -> None:
    cells = read(name).cells
    texts = [output.metadata.get("image/png", {}).get("alt", "") for cell in cells for output in _pictures(cell)]
    assert texts and all(text.startswith("Figure") and len(text) > 30 for text in texts), texts
    assert len(set(texts)) == len(texts)
    named = re.findall(r"figure to remember", "".join(c.source for c in cells if c.cell_type == "markdown"), re.I)
    assert 1 <= len(named) <= 2, "in a heading or a line above it, or in its caption"
