"""The lengths that notebook 01 falls back on have the percentiles of the record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cs336_sft.lessons.gsm8k_lengths import gsm8k_lengths

RECORD = Path(__file__).resolve().parent.parent / "benchmarks" / "gsm8k_lengths.json"


def test_redrawn_lengths_have_the_recorded_percentiles(monkeypatch) -> None:
    monkeypatch.delenv("CS336_GSM8K", raising=False)
    tables, counted = gsm8k_lengths(RECORD)
    facts = json.loads(RECORD.read_text())
    assert not counted and list(tables) == ["train"]
    for part in ("prompt", "answer"):
        lengths = np.array(getattr(tables["train"], part))
        assert np.abs(np.percentile(lengths, facts["percentiles"]) - facts[part]).max() <= 1.0
    assert abs(np.mean(tables["train"].total) - facts["mean_total"]) < 2.0
    assert 0.4 < np.corrcoef(tables["train"].prompt, tables["train"].answer)[0, 1] < 0.65
