"""The measured figures of docs/real-models.md, from what the benchmarks recorded.

python tools/recorded_tables.py   # rewrites the tables there from recorded/: logprobs, sft_throughput, the 1.5B grids
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, RECORDED = ROOT / "docs" / "real-models.md", ROOT / "recorded" / "logprobs"
SPEED = ROOT / "recorded" / "sft_throughput"
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


def log_probs() -> str:
    """The tables of all recorded runs."""
    records = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"), reverse=True)]
    return "\n".join(table(record) for record in records if "entries" in record)


def read(name: str) -> dict[str, Any]:
    return json.loads((SPEED / f"{name}.json").read_text())


def speed(entry: dict[str, Any]) -> str:
    parts = entry["tokens_per_second_of_parts"]
    return f"{entry['tokens_per_second']:,.0f} ({min(parts):,.0f} to {max(parts):,.0f})"


def apart(losses: list[float], others: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


def throughput() -> str:
    """Training with and without graphs, and TRL, by micro-batch; the same losses; what a step waits for."""
    records = [read("graphs_h200_8_16"), read("graphs_h200_12_32")]
    sides = {
        "graphs": "ours",
        "without": "ours without graphs",
        "TRL, compiled": "TRL padded, grouped, compiled",
        "TRL": "TRL padded, grouped by length",
    }
    found = {(entry["side"], entry["micro_batch"]): entry for record in records for entry in record["entries"]}
    record, (without, graphs) = records[0], read("profile_h200")["profiles"]
    lines = [
        f"{record['device']}, PyTorch {record['versions']['torch']}, "
        f"TRL {record['versions']['trl']} with batches by length, {record['date'][:10]}; "
        f"tokens a second, median (lowest to highest) of three parts; peak GB, cap {record['cap_gb']:.0f} GB:",
        "",
        f"| micro-batch | {' | '.join(sides)} |",
        "|---" * (len(sides) + 1) + "|",
    ]
    for batch in sorted({batch for _, batch in found}):
        row = [str(batch)]
        for side in sides.values():
            entry = found.get((side, batch), {"failed": "not run"})
            if "failed" in entry:
                row.append("did not fit" if "OutOfMemory" in entry["failed"] else entry["failed"])
            else:
                row.append(f"{speed(entry)}; {entry['peak_gb']:.1f} GB")
        lines.append(f"| {' | '.join(row)} |")
    packed, plain = read("curve_h200")["entries"]
    spent = sorted(graphs["ms_by_kind"].items(), key=lambda item: -item[1])[:5]
    idle = [f"{one['wall_ms'] - one['gpu_busy_ms']:.0f} of {one['wall_ms']:.0f} ms" for one in (graphs, without)]
    lines += [
        "",
        f"{len(packed['losses'])} steps of {packed['micro_batch']}: {speed(packed)} with graphs, {speed(plain)} "
        f"without; the losses differ by at most {apart(packed['losses'], plain['losses']):.4f} nats.",
        "",
        f"Under the profiler a step of {graphs['batch']} makes {graphs['launches_a_step']:,.0f} launches with graphs, "
        f"{without['launches_a_step']:,.0f} without; the GPU is idle for {idle[0]} and for {idle[1]}. "
        f"What remains with graphs: {', '.join(f'{kind} {ms:.0f} ms' for kind, ms in spent)}.",
    ]
    return "\n".join(lines) + "\n"


def several() -> str:
    """One process and several: tokens a second, memory, and how far the losses of a record are apart."""
    records = [json.loads(path.read_text()) for path in (SPEED / "processes_h200").glob("*.json")]
    lines = [
        f"{records[0]['device']}, PyTorch {records[0]['versions']['torch']}, micro-batch {records[0]['micro_batch']} "
        "a card; in the last column the largest difference from the losses of the same run without graphs:",
        "",
        "| cards | way | batch | tokens/s | GB a card | steps | nats apart |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in sorted(records, key=lambda record: (record["processes"], record["batch"])):
        plain = [entry["losses"] for entry in record["entries"] if entry["side"].endswith("without graphs")]
        for entry in record["entries"]:
            peaks = sorted({f"{peak:.1f}" for peak in entry["peak_gb_of_each"]}, key=float)
            off = plain and entry["losses"] != plain[0]
            cells = (
                record["processes"],
                entry["side"],
                record["batch"],
                speed(entry),
                " to ".join(dict.fromkeys([peaks[0], peaks[-1]])),
                record["steps"],
                f"{apart(entry['losses'], plain[0]):.4f}" if off else "",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def span(values: list[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def grids() -> str:
    """The time that the grids of the notes' model took, a run on two cards, and one run made twice."""
    folders = {"qwen_coder_size": "data_size", "qwen_coder_truncation": "truncation"}
    records = {n: json.loads((ROOT / "recorded" / f / f"{n}.json").read_text()) for n, f in folders.items()}
    log = (ROOT / "recorded" / "data_size" / "qwen_coder_sweeps_h200.txt").read_text()
    seconds = {name: int(took) for name, took in re.findall(r"(\S+): finished after (\d+) s", log)}
    lines = [
        "| grid | runs | GPU minutes | seconds of a run of 128 problems | of all | of which training |",
        "|---" * 6 + "|",
    ]
    for name, record in records.items():
        runs = record["runs"]
        parts = [[run for run in runs if run["settings"]["train_size"] == size] for size in (128, "full")]
        few, whole = (span([seconds[run["name"]] for run in part]) for part in parts)
        trained = " and ".join(span([run["train_seconds"] for run in part]) for part in parts)
        minutes = sum(seconds[run["name"]] for run in runs) / 60
        cells = f"{len(runs)} of {record['runs_planned']}", f"{minutes:.0f}", few, whole, trained
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    two = SPEED / "full_set_two_cards_h200"
    steps, looks = ([json.loads(row) for row in (two / f"{n}.jsonl").open()] for n in ("metrics", "evaluations"))
    sizes = {run["name"]: run for run in records["qwen_coder_size"]["runs"]}
    alone = next(run for name, run in sizes.items() if name.startswith("full_nfull_b8_lr1e-5_ep3_eos_s0"))
    own = {look["step"]: look["accuracy"] for look in alone["evaluations"]}
    speeds = median(step["tokens_per_second"] for step in steps[len(steps) // 2 :])
    at = ", ".join(f"{look['step']} ({look['accuracy']:.1%}, {own[look['step']]:.1%})" for look in looks[1:])
    lines += [
        "",
        f"The full set under `accelerate launch` on two cards, 4 sequences each, was stopped after {len(steps):,} of "
        f"{alone['steps']:,} steps at {speeds:,.0f} tokens a second (median of the second half). Strict accuracy there "
        f"and in one process with the same seed, at steps {at}.",
    ]
    kinds = ("train_size", "seed", "learning_rate", "batch_size", "append_eos")
    first, again = ({tuple(r["settings"][k] for k in kinds): r for r in record["runs"]} for record in records.values())
    twins = [(first[key], again[key]) for key in first if key in again and key[0] == 128]
    gaps = [[abs(a - b) for a, b in zip(*(run["losses"]["loss"] for run in pair), strict=True)] for pair in twins]
    parted = [next(step for step, gap in enumerate(row, start=1) if gap) for row in gaps]
    ends = [abs(a["evaluations"][-1]["accuracy"] - b["evaluations"][-1]["accuracy"]) for a, b in twins]
    lines += [
        "",
        f"On a GPU the same seed does not give the same numbers twice: {len(twins)} runs of 128 problems stand in both "
        f"grids, and their losses part at steps {', '.join(map(str, sorted(parted)))}, by at most "
        f"{max(map(max, gaps)):.3f} nats, their accuracies at the end by up to {100 * max(ends):.1f} points.",
    ]
    return "\n".join(lines) + "\n"


def updated(text: str) -> str:
    """``text`` with what stands between the marks of each section replaced."""
    sections = {"logprobs": log_probs, "throughput": throughput, "processes": several, "grids": grids}
    for name, section in sections.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        text = f"{before}{start}{section()}{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
