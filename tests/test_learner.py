"""What belongs to the learner: copies of the notebooks, and predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cs336_sft.cli import main
from cs336_sft.errors import ConfigError, DataError
from cs336_sft.lessons import learner
from cs336_sft.lessons.learner import NOTEBOOKS, cells_run, copy_notebooks, predict, prediction_states, reveal


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder in place of the checkout's own `my_notebooks/`."""
    monkeypatch.setattr(learner, "OWN", tmp_path / "mine")
    monkeypatch.delenv("CS336_PREDICT", raising=False)
    return tmp_path / "mine"


def stored(own: Path) -> dict:
    return json.loads((own / "predictions.json").read_text(encoding="utf-8"))


def test_copies_have_the_cells_and_no_outputs(own) -> None:
    made = copy_notebooks()
    sources = sorted(NOTEBOOKS.rglob("*.ipynb"))
    assert len(made) == len(sources) >= 11 and all(path.is_relative_to(own) for path in made)
    for source, copy in zip(sources, made, strict=True):
        before, after = (nbformat.read(path, as_version=4) for path in (source, copy))
        nbformat.validate(after)
        assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
        code = [cell for cell in after.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code) and "widgets" not in after.metadata
    assert any(cell.get("outputs") for cell in nbformat.read(sources[0], as_version=4).cells), "the sources keep theirs"


def test_a_learners_notebook_stays(own) -> None:
    first, *_ = copy_notebooks()
    first.write_text("mine")
    assert copy_notebooks() == [] and first.read_text() == "mine"


def test_a_prediction_is_stored_and_compared(own, capsys) -> None:
    predict("00-lenient", 30, 50.5)
    assert stored(own) == {"00-lenient": {"low": 30, "high": 50.5}}
    reveal("00-lenient", 56.2, "per cent")
    reveal("00-few-shot", 1024)
    assert capsys.readouterr().out.splitlines() == [
        "measured: 56.2 per cent; you said 30 to 50.5: it does not hold",
        "measured: 1,024",  # nothing was predicted
    ]
    assert stored(own) == {"00-lenient": {"low": 30, "high": 50.5, "measured": 56.2}}


def test_a_range_holds_its_ends(own, capsys) -> None:
    for low, high in ((5, 5), (4, 5), (5, 6)):
        predict("10-tensors", low, high)
        reveal("10-tensors", 5)
        assert capsys.readouterr().out.endswith("it holds\n")
        (own / "predictions.json").unlink()


def test_a_prediction_may_be_changed_until_its_number_was_shown(own, capsys) -> None:
    predict("01-tokens", 1, 2)
    predict("01-tokens", 3, 9)
    reveal("01-tokens", 20)
    predict("01-tokens", 3, 9)
    assert "first range" not in capsys.readouterr().out, "the same range again, as in a second run of the notebook"
    predict("01-tokens", 19, 21)
    assert "what counts is your first range" in capsys.readouterr().out
    reveal("01-tokens", 5)  # another run gives another number: the first one counts
    assert stored(own) == {"01-tokens": {"low": 3, "high": 9, "measured": 20.0}}
    assert prediction_states()["01_token_lengths"]["01-tokens"] == "missed"


def test_no_prediction_leaves_no_trace(own) -> None:
    predict("01-tokens", None, None)
    reveal("01-tokens", 20)
    assert not own.exists()


@pytest.mark.parametrize("ends", [(3, None), (None, 3), (5, 3), ("3", 5), (float("nan"), 5)])
def test_what_is_no_range_is_an_error(own, ends) -> None:
    with pytest.raises(ConfigError, match="two numbers, first the smaller"):
        predict("01-tokens", *ends)
    assert not own.exists()


def test_where_predictions_are_skipped_none_is_stored_or_shown(own, monkeypatch, capsys) -> None:
    predict("01-tokens", 1, 2)
    before = stored(own)
    monkeypatch.setenv("CS336_PREDICT", "skip")
    predict("01-tokens", 3, 4)
    predict("01-longest", 3, 4)
    reveal("01-tokens", 20, "tokens")
    assert capsys.readouterr().out == "measured: 20 tokens\n" and stored(own) == before
    assert set(prediction_states()["01_token_lengths"].values()) == {"open"}


def test_a_broken_file_says_what_to_do(own) -> None:
    own.mkdir()
    (own / "predictions.json").write_text("{")
    with pytest.raises(DataError, match="delete it"):
        reveal("01-tokens", 20)


def test_states_are_open_made_held_or_missed(own) -> None:
    predict("01-tokens", 1, 2)
    for name, low in (("01-longest", 1), ("01-padding", 40)):
        predict(name, low, 50)
        reveal(name, 30)
    states = prediction_states()
    assert list(states)[:2] == ["00_start_here", "01_token_lengths"] and len(states) == 11
    expected = {"01-tokens": "made", "01-longest": "held", "01-total-90": "open", "01-padding": "missed"}
    assert states["01_token_lengths"] == expected


def run_cells(copy: Path, number: int) -> None:
    notebook = nbformat.read(copy, as_version=4)
    for cell in [cell for cell in notebook.cells if cell.cell_type == "code"][:number]:
        cell.execution_count = 1
    nbformat.write(notebook, copy)


def test_progress_knows_lessons_and_predictions(own, monkeypatch, capsys) -> None:
    monkeypatch.setattr("cs336_sft.cli.exercises.EXERCISES", ())  # their checks have a test of their own
    assert cells_run("00_start_here") == (0, 0)
    copy_notebooks()
    assert cells_run("00_start_here")[0] == 0 < cells_run("00_start_here")[1]
    run_cells(own / "00_start_here.ipynb", 10_000)
    run_cells(own / "01_token_lengths.ipynb", 3)
    predict("01-tokens", 1, 2)
    reveal("01-tokens", 2)
    assert main(["progress"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line}
    assert "finished" in rows["00_start_here"] and "0 of 4" in rows["00_start_here"]
    assert f"3 of {cells_run('01_token_lengths')[1]} cells" in rows["01_token_lengths"]
    assert rows["01_token_lengths"].split()[-5:] == ["1", "of", "4", "1", "0"]
    assert "not opened" in rows["02_masked_loss"]


def test_lab_opens_the_copies_with_this_python(own, monkeypatch, capsys) -> None:
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda command, env: calls.append((command, env)) or 3)
    assert main(["lab"]) == 3, "the status of JupyterLab"
    assert (own / "00_start_here.ipynb").is_file() and "new: " in capsys.readouterr().out
    [(command, environment)] = calls
    assert command == [sys.executable, "-m", "jupyterlab", str(own)]
    assert environment["JUPYTER_PREFER_ENV_PATH"] == "1"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_lab_says_what_is_missing(own, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("cs336_sft.cli.exercises.find_spec", lambda name: None)
    assert main(["lab"]) == 2 and "pip install -e '.[notebooks]'" in capsys.readouterr().err
    monkeypatch.setattr(learner, "NOTEBOOKS", tmp_path / "none")
    assert main(["lab"]) == 2 and "no such folder" in capsys.readouterr().err
    assert not own.exists()
