"""The figures in the model card and in docs/real-models.md are those that were recorded."""

from __future__ import annotations

import json

from recipes.tiny_base_card import CARD, RECORDED, section, updated
from tools import recorded_tables


def test_figures_are_current():
    text = CARD.read_text()
    assert text == updated(text, section()), "run `python recipes/tiny_base_card.py`"


def test_figures_of_the_benchmarks_are_current():
    text = recorded_tables.PAGE.read_text()
    assert text.count("| student fp32 |") >= 1 and "| micro-batch |" in text
    assert text == recorded_tables.updated(text), "run `python tools/recorded_tables.py`"


def test_log_probs_on_a_cpu_need_a_twentieth_of_the_memory():
    entries = json.loads((recorded_tables.RECORDED / "cpu.json").read_text())["entries"]
    student, ours = entries["student fp32"], entries["ours: one pass, 128 rows"]
    assert ours["gb_above_gradients"] <= 0.05 * student["gb_above_gradients"]
    assert ours["ms"] <= student["ms"]


def test_the_base_model_is_what_the_lessons_need():
    """As measured on the test split: half solved leniently, no format, unreliable stopping; SFT mends both."""
    rows = json.loads((RECORDED / "measurements.json").read_text())["rows"]
    base = next(row for row in rows if row["name"] == "base, limit 160" and row["split"] == "test")
    assert 0.5 <= base["accuracy_lenient"] <= 0.7
    assert base["format_accuracy"] < 0.05
    assert 0.3 <= base["trunc_rate"] <= 0.8
    with_eos = [r for r in rows if r["name"] == "SFT 512" and r["split"] == "test" and r["step"] == 192]
    without = [r for r in rows if r["name"] == "SFT 512, no eos" and r["step"] == 192]
    assert len(with_eos) == len(without) == 3
    assert max(r["trunc_rate"] for r in with_eos) < 0.01 < 0.5 < min(r["trunc_rate"] for r in without)
    assert all(0.5 < r["accuracy"] < 0.95 for r in with_eos)  # better than the base, with room above
