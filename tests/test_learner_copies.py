"""`make lab` opens copies without outputs, and never writes over a learner's work."""

from __future__ import annotations

import nbformat

from tools.learner_copies import NOTEBOOKS, copy_notebooks


def test_copies_have_the_cells_and_no_outputs(tmp_path) -> None:
    made = copy_notebooks(tmp_path / "mine")
    sources = sorted(NOTEBOOKS.rglob("*.ipynb"))
    assert len(made) == len(sources) >= 11
    for source, copy in zip(sources, made, strict=True):
        before, after = (nbformat.read(path, as_version=4) for path in (source, copy))
        assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
        assert not any(cell.get("outputs") for cell in after.cells) and "widgets" not in after.metadata
    assert any(cell.get("outputs") for cell in nbformat.read(sources[0], as_version=4).cells)


def test_a_learners_notebook_stays(tmp_path) -> None:
    first, *_ = copy_notebooks(tmp_path)
    first.write_text("mine")
    assert copy_notebooks(tmp_path) == [] and first.read_text() == "mine"
