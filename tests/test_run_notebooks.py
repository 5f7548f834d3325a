"""tools/run_notebooks.py: order, kernel, limits, and outputs that do not depend on the machine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

TOOL = Path(__file__).resolve().parent.parent / "tools" / "run_notebooks.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("run_notebooks", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, name: str, *sources: str) -> Path:
    path = folder / name
    cells = [v4.new_markdown_cell("# Title"), *map(v4.new_code_cell, sources)]
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_copies_run_in_order_with_this_python_and_the_sources_stay(tool, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CS336_PROFILE", "tiny")
    write(tmp_path, "01_b.ipynb", "print(open('order').read())")
    write(
        tmp_path,
        "00_a.ipynb",
        "import sys, os; print(sys.executable, os.environ['CS336_PROFILE'])",
        "open('order', 'w').write('a')",
    )
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.ipynb")}
    out = tmp_path / "build" / "notebooks"
    assert tool.main(["--folder", str(tmp_path), "--output", str(out), "--quiet"]) == 0
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.ipynb")}
    first, second = (nbformat.read(out / name, as_version=4).cells for name in ("00_a.ipynb", "01_b.ipynb"))
    assert first[1].outputs[0].text == f"{sys.executable} tiny\n"
    assert second[1].outputs[0].text == "a\n", "each runs in the folder of the notebooks, after the one before it"
    shown = capsys.readouterr().out
    assert "00_a.ipynb" in shown and "total" in shown and "build" in shown


def test_a_failing_notebook_stops_the_rest_and_is_not_stored(tool, tmp_path, capsys) -> None:
    first = write(tmp_path, "00_a.ipynb", "1 / 0")
    write(tmp_path, "01_b.ipynb", "open('ran', 'w')")
    before = first.read_bytes()
    assert tool.main(["--folder", str(tmp_path), "--inplace", "--quiet"]) == 1
    assert "00_a.ipynb stopped with ZeroDivisionError" in capsys.readouterr().err
    assert first.read_bytes() == before and not (tmp_path / "ran").exists()


def test_a_notebook_over_its_limit_is_stopped(tool, tmp_path, capsys) -> None:
    write(tmp_path, "00_a.ipynb", "import time; time.sleep(60)")
    assert tool.main(["--folder", str(tmp_path), "--output", str(tmp_path / "out"), "--timeout", "3", "--quiet"]) == 1
    assert "longer than the limit of 3 s" in capsys.readouterr().err


def test_stored_outputs_are_the_same_each_time(tool, tmp_path) -> None:
    path = write(tmp_path, "00_a.ipynb", "print(1)\nimport sys\nsys.stdout.flush()\nprint(2)", "40 + 2")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": {"name": "mine", "display_name": "My Python 3.13"}, "widgets": {"x": 1}}
    nbformat.write(notebook, path)
    assert tool.main(["--folder", str(tmp_path), "--inplace", "--quiet"]) == 0
    once = path.read_bytes()
    assert tool.main(["--folder", str(tmp_path), "--inplace", "--quiet", "00"]) == 0
    assert path.read_bytes() == once
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert stored.metadata.kernelspec.name == "python3" and "widgets" not in stored.metadata
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2]
    assert [output.text for output in stored.cells[1].outputs] == ["1\n2\n"]


def test_cleaning_drops_progress_bars_and_keeps_results(tool) -> None:
    view = {tool.WIDGET_VIEW: {"model_id": "x"}}
    bar = v4.new_output("display_data", data={**view, "text/plain": "  0%|   | 0/9 [00:00<?, ?it/s]"})
    other = v4.new_output("display_data", data={**view, "text/plain": "IntSlider(value=3)"})
    text = [v4.new_output("stream", name="stderr", text=f"\r{i}0%") for i in (1, 5)]
    cell = v4.new_code_cell("x", outputs=[bar, other, *text], metadata={"tags": ["slow"], "execution": {"t": "now"}})
    tool.clean(v4.new_notebook(cells=[cell]))
    assert [dict(output.get("data", {})) for output in cell.outputs] == [{"text/plain": "IntSlider(value=3)"}, {}]
    assert cell.outputs[1].text == "50%"
    assert cell.metadata == {"tags": ["slow"]}


def test_each_picture_gets_the_caption_below_it(tool) -> None:
    """A screen reader of the HTML reads it; a picture without a caption of its own gets none."""

    def picture(name):
        return v4.new_code_cell(name, outputs=[v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})])

    first, second, third = (picture(name) for name in "abc")
    texts = ("*Figure to remember: two\n`bars`.* More *text*.", "No caption.", "**Bold.** *Figure: a line.*")
    between = [v4.new_markdown_cell(text) for text in texts]
    table = v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", name="stdout", text="1\n")])
    tool.clean(v4.new_notebook(cells=[first, table, between[0], second, between[1], third, between[2]]))
    assert first.outputs[0].metadata == {"image/png": {"alt": "Figure to remember: two bars."}}
    assert third.outputs[0].metadata == {"image/png": {"alt": "Figure: a line."}}
    assert not second.outputs[0].metadata["image/png"]


def test_the_authors_predictions_stay_out_of_the_outputs(tool, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CS336_PREDICT", raising=False)
    path = write(tmp_path, "00_a.ipynb", "import os; print(os.environ['CS336_PREDICT'])")
    assert tool.main(["--folder", str(tmp_path), "--inplace", "--quiet"]) == 0
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == "skip\n"
    monkeypatch.delenv("CS336_PREDICT")


def test_nothing_to_run_is_an_error(tool, tmp_path, capsys) -> None:
    assert tool.main(["--folder", str(tmp_path), "--inplace", "07"]) == 2
    assert "07" in capsys.readouterr().err
