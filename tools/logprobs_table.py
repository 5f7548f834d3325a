"""The measured figures of the section on log-probabilities in docs/real-models.md, from what the benchmark recorded.

python tools/logprobs_table.py   # rewrites the tables there from recorded/logprobs/*.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, RECORDED = ROOT / "docs" / "real-models.md", ROOT / "recorded" / "logprobs"
START, END = "<!-- logprobs -->\n", "<!-- end of logprobs -->\n"
STUDENT = "student fp32"


def on_frontier(name: str, entries: dict[str, dict[str, Any]]) -> bool:
    """Whether no other way needs both less memory and less time.

    >>> found = {"a": {"peak_gb": 1, "ms": 5}, "b": {"peak_gb": 2, "ms": 6}, "c": {"peak_gb": 3, "ms": 4}}
    >>> [name for name in found if on_frontier(name, found)]
    ['a', 'c']
    """
    own = entries[name]
    return not any(other["peak_gb"] < own["peak_gb"] and other["ms"] < own["ms"] for other in entries.values())


def table(record: dict[str, Any]) -> str:
    """One run as a caption and a table: the peers, and of ours those on the frontier and their default on a CPU."""
    # A run on part of the positions does less work, and a kernel that recomputed by blocks of the vocabulary ("tokens")
    # is no longer in the package: no rows of this table.
    entries = {
        name: entry
        for name, entry in record["entries"].items()
        if "of the positions" not in name and not name.endswith("tokens")
    }
    shown = [
        name for name in entries if not name.startswith("ours") or on_frontier(name, entries) or "128 rows" in name
    ]
    setting = record["setting"]
    lines = [
        f"{setting['rows']:,} positions, hidden size {setting['hidden']:,}, vocabulary {setting['vocabulary']:,}, "
        f"{setting['dtype']} inputs, {record['device']}"
        + ("" if "ms" in record["limit"] else f", {record['threads']} threads")
        + f", PyTorch {record['versions']['torch']}, {record['date'][:10]}:",
        "",
        "| way | GB above the inputs | GB without the gradients | of the student's | ms | error of log-probs |",
        "|---|---|---|---|---|---|",
    ]
    student = entries.get(STUDENT, {}).get("gb_above_gradients")
    for name in sorted(shown, key=lambda name: entries[name]["peak_gb"]):
        entry = entries[name]
        share = f"{entry['gb_above_gradients'] / student:.1%}" if student else ""
        off = entry["error"]["log_probs"]
        lines.append(
            f"| {name} | {entry['peak_gb']:.2f} | {entry['gb_above_gradients']:.2f} | {share} | {entry['ms']:,.1f} | "
            f"{'no log-probs' if off is None else f'{off:.0e}'} |"
        )
    return "\n".join(lines) + "\n"


def section() -> str:
    """The tables of all recorded runs."""
    records = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"), reverse=True)]
    return "\n".join(table(record) for record in records if "entries" in record)


def updated(text: str, tables: str) -> str:
    """``text`` with what stands between the two marks replaced."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{start}{tables}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(), section()))
