"""Nothing of a stranger's is run: no pickles, no code of a model's folder, no markup of a model's answer."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cs336_sft.errors import CourseError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [path for folder in ("cs336_sft", "recipes", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> \\[x\\] $y$ & "q"'


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(where, dotted name, call) of every call in the package and its scripts."""
    for path in SHIPPED:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def test_nothing_is_unpickled() -> None:
    """Nor read by what falls back to pickle. (numpy's load refuses pickles unless told otherwise.)"""
    unpickling = re.compile(r"^(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\.|^torch\.load$|\.read_pickle$")
    assert [where for where, name, _ in calls() if unpickling.search(name)] == []
    allowed = [where for where, _, call in calls() for k in call.keywords if k.arg == "allow_pickle"]
    assert allowed == []
    imports = re.compile(r"^\s*(?:import|from)\s+(pickle|dill|cloudpickle|joblib|shelve|marshal)\b", re.M)
    assert [str(path) for path in SHIPPED if imports.search(path.read_text(encoding="utf-8"))] == []


def test_every_model_is_loaded_without_code_and_without_pickles() -> None:
    seen = 0
    for where, name, call in calls():
        if not name.endswith(".from_pretrained") or not name.startswith("Auto"):
            continue
        given = {k.arg: k.value for k in call.keywords}
        remote = given.get("trust_remote_code")
        assert isinstance(remote, ast.Constant) and remote.value is False, where
        if name.startswith("AutoModel") and "gguf_file" not in ast.unparse(call) and "where" not in ast.unparse(call):
            assert ast.unparse(given["use_safetensors"]) == "True", where
        seen += 1
    assert seen >= 5


def test_no_shell_and_no_code_from_text() -> None:
    assert [where for where, _, call in calls() for k in call.keywords if k.arg == "shell"] == []
    assert [where for where, name, _ in calls() if name in ("eval", "exec", "os.system", "os.popen")] == []


def test_a_pickled_adapter_is_refused(tmp_path) -> None:
    pytest.importorskip("peft", reason="needs the extra `lora`")
    from cs336_sft.model.loading import load_adapted

    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CourseError, match="no adapter_model.safetensors"):
        load_adapted(tmp_path)


def unescaped(text: str) -> bool:
    return "<script" in text or "<img" in text


def test_reports_of_exercises_escape() -> None:
    from cs336_sft.exercises.report import Failure, Report, line

    shown = Report(HOSTILE, HOSTILE, Failure("wrong", HOSTILE, (line(HOSTILE, "bad"),), slip=HOSTILE), printed=HOSTILE)
    assert not unescaped(shown._repr_html_()) and "&lt;script&gt;" in shown._repr_html_()


def test_pandas_escapes_what_a_table_shows() -> None:
    """The notebooks show texts of models in plain tables; a Styler, which does not escape, is for numbers alone."""
    import pandas

    assert not unescaped(pandas.DataFrame({HOSTILE: [HOSTILE]})._repr_html_())


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_stored_output_holds_markup_that_runs(path: Path) -> None:
    """Whatever a model wrote when the notebook ran, no script, handler or frame got into its outputs."""
    active = re.compile(r"<(?:script|iframe|object|embed|form|link|meta)\b|\son\w+\s*=\s*[\"']|javascript:", re.I)
    found = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", []):
            for kind, content in output.get("data", {}).items():
                if kind in ("text/html", "text/markdown", "image/svg+xml"):
                    found += [f"cell {number}: {m.group()}" for m in active.finditer("".join(content))]
    assert found == []


def test_the_audit_is_among_the_developers_checks() -> None:
    assert re.search(r"^check:.* audit ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


@pytest.fixture
def audit(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("audit")


def package(name: str, **values) -> dict:
    return {"name": name, "version": "1.0", "vulns": []} | values


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([package("a"), package("b")], 0, ["2 packages checked, no known vulnerability"]),
        (
            [package("a", vulns=[{"id": "PYSEC-1", "fix_versions": ["1.1"]}]), {"name": "b", "skip_reason": "local b"}],
            1,
            ["a 1.0: PYSEC-1, mended in 1.1", "not checked: local b", "1 packages checked, see above"],
        ),
        ([{"name": "b", "skip_reason": "not found"}], 2, ["knows none of the 1 installed packages", "Remedy: "]),
        (None, 2, ["gave no answer (no route)", "Remedy: "]),
    ],
)
def test_an_audit_that_saw_nothing_is_no_clean_audit(audit, packages, status, said) -> None:
    lines, found = audit.verdict(packages, "no route")
    assert found == status and all(part in line for part, line in zip(said, lines, strict=True))


def test_without_the_database_the_pinned_versions_are_listed(audit, monkeypatch, capsys) -> None:
    monkeypatch.setattr(audit, "ask", lambda: (None, "no route"))
    assert audit.main() == 2
    said = capsys.readouterr().out
    assert "NOT AUDITED" in said
    for name, version in audit.pinned_versions(ROOT / "constraints.txt").items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(version)}", said, re.M)
