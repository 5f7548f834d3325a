"""What fine-tuning Qwen2.5-Math-1.5B on GSM8K takes: minutes and memory, as a table, from measured steps.

    python recipes/sft_cost.py recorded/methods/memory_1.5b.json

The steps were measured by ``recipes/measure_methods.py``. A run is all 6,961 training problems that are not held out,
for three epochs; evaluations, loading and checkpoints come on top. ``recipes/qwen_sft.sh`` is the commands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAIN_PROBLEMS = 6961
EPOCHS = 3
CARDS = (16, 24, 44, 80)  # GB
# CUDA context, fragmentation, and what the driver and other programs take.
RESERVE_GB = 2.0


@dataclass(frozen=True)
class Cost:
    """A row of the table.

    Attributes:
        name: method and what it was measured with.
        peak_gb: measured peak of allocated memory, in 10^9 bytes.
        card_gb: the smallest usual card that holds it with ``RESERVE_GB`` to spare; None: none does.
        tokens_per_second: real tokens (without padding), measured.
        minutes: training alone.
    """

    name: str
    peak_gb: float
    card_gb: int | None
    tokens_per_second: float
    minutes: float


def row_name(row: Mapping[str, Any]) -> str:
    """What a measured row is called in tables and figures.

    >>> row_name({"method": "full", "weights_dtype": "bfloat16", "micro_batch_size": 8, "gradient_checkpointing": True})
    'full, bfloat16 weights, 8 at once, checkpointing'
    """
    name = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[row["method"]]
    if row["weights_dtype"] != "float32":
        name += f", {row['weights_dtype']} weights"
    return f"{name}, {row['micro_batch_size']} at once" + (", checkpointing" if row["gradient_checkpointing"] else "")


def costs(record: Mapping[str, Any], problems: int = TRAIN_PROBLEMS, epochs: int = EPOCHS) -> list[Cost]:
    """The rows of a record that were measured on a GPU; those that failed are left out."""
    found = []
    for row in record["rows"]:
        if "error" in row or not row["peak_bytes"]:
            continue
        peak = row["peak_bytes"] / 1e9
        tokens = problems * epochs * row["tokens_per_step"] / record["batch"]
        card = next((size for size in CARDS if peak + RESERVE_GB <= size), None)
        seconds = tokens / row["tokens_per_second"]
        found.append(Cost(row_name(row), peak, card, row["tokens_per_second"], seconds / 60))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    record = json.loads(parser.parse_args().record.read_text(encoding="utf-8"))
    print(f"{record['shape']['name']}, measured on {record['device']}, {record['date'][:10]}\n")
    print("| method | peak memory | card | tokens/s | minutes for 3 epochs of 6,961 problems |")
    print("|---|---|---|---|---|")
    for cost in costs(record):
        card = f"{cost.card_gb} GB" if cost.card_gb else "more than one"
        print(f"| {cost.name} | {cost.peak_gb:.1f} GB | {card} | {cost.tokens_per_second:,.0f} | {cost.minutes:.0f} |")


if __name__ == "__main__":
    main()
