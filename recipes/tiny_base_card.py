"""Write the measured figures of the embedded model into its model card.

    python recipes/tiny_base_card.py

Reads ``recorded/tiny_base/*.json`` and replaces what stands between ``<!-- measured -->`` and ``<!-- end -->``. A test
demands that they are current.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "recorded" / "tiny_base"
CARD = ROOT / "cs336_sft" / "assets" / "tiny-base" / "README.md"
START, END = "<!-- measured -->\n", "<!-- end -->\n"
RATES = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")


def _cells(row: dict) -> str:
    rates = [f"{row[r]:.1%} ({row[f'{r}_low']:.1%}-{row[f'{r}_high']:.1%})" for r in RATES]
    return " | ".join([*rates, f"{row['avg_gen_len']:.0f}"])


def _last_of_each_run(rows: list[dict]) -> list[dict]:
    last: dict[tuple, dict] = {}
    for row in rows:
        key = (row["name"], row["seed"], row["split"])
        if key not in last or row.get("step", 0) >= last[key].get("step", 0):
            last[key] = row
    return list(last.values())


def table(record: dict) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| model | accuracy | accuracy, lenient | `####` format | stopped by the limit | mean tokens |",
        "|---|---|---|---|---|---|",
    ]
    for row in _last_of_each_run(record["rows"]):
        details = []
        if row["seed"] is not None and row["name"].startswith("SFT"):
            details.append(f"seed {row['seed']}")
        if row["split"] != record["split"]:
            details.append("unseen templates")
        name = ", ".join([row["name"], *details])
        lines.append(f"| {name} | {_cells(row)} |")
    return "\n".join(lines) + "\n"


def section() -> str:
    """What goes between the markers: what was measured and how, then the table."""
    record = json.loads((RECORDED / "measurements.json").read_text())
    best = max((r for r in record["rows"] if r["name"] == "SFT 512" and "step" in r), key=lambda r: r["accuracy"])
    last = max(r["step"] for r in record["rows"] if r["name"] == "SFT 512")
    sft = best["sft"]
    return (
        f"Measured on {record['problems']} problems of the {record['split']} split (95 % intervals in brackets), "
        "greedy, at most 160 new tokens unless the row says otherwise; SFT: AdamW, "
        f"learning rate {sft['learning_rate']:g}, "
        f"batch {sft['batch_size']}, {sft['epochs']} epochs. By `{record['command']}` on {record['device']}, "
        f"{record['date']}; raw figures in `recorded/tiny_base/`.\n\n"
        f"{table(record)}\n"
        f"Accuracy of SFT on 512 examples (seed {best['seed']}) is highest at step {best['step']} of {last}: "
        f"{best['accuracy']:.1%} ({best['accuracy_low']:.1%}-{best['accuracy_high']:.1%}). "
        "That peak is read off the same problems: a description of the curve, not the choice of a checkpoint.\n"
    )


def updated(text: str, new: str) -> str:
    """``text`` with ``new`` between the markers."""
    head, rest = text.split(START)
    _, tail = rest.split(END)
    return head + START + new + END + tail


def main() -> None:
    CARD.write_text(updated(CARD.read_text(), section()))
    print(CARD.relative_to(ROOT))


if __name__ == "__main__":
    main()
