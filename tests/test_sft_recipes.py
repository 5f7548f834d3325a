"""The recipes for the 1.5B model: the table of costs, and that the commands of the script exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cs336_sft.cli import build_parser
from cs336_sft.experiments.grid import read_grid
from recipes.sft_cost import costs

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "recipes" / "qwen_sft.sh"


def row(**changes) -> dict:
    usual = {
        "method": "full",
        "weights_dtype": "float32",
        "micro_batch_size": 8,
        "gradient_checkpointing": False,
        "peak_bytes": 40_000_000_000,
        "tokens_per_second": 5000.0,
        "tokens_per_step": 3200.0,
    }
    return usual | changes


def test_minutes_are_tokens_over_speed_and_the_card_has_room_to_spare() -> None:
    record = {"batch": 16, "rows": [row(), row(method="qlora", peak_bytes=14_500_000_000), row(peak_bytes=79e9)]}
    full, qlora, too_large = costs(record, problems=1500, epochs=2)
    assert full.minutes == pytest.approx(1500 * 2 * 200 / 5000 / 60)  # 200 tokens an example
    assert (full.card_gb, qlora.card_gb, too_large.card_gb) == (44, 24, None)
    assert full.name == "full, 8 at once" and qlora.name.startswith("QLoRA")


def test_rows_that_failed_or_were_made_without_a_gpu_are_left_out() -> None:
    failed = {name: row()[name] for name in ("method", "weights_dtype", "micro_batch_size", "gradient_checkpointing")}
    assert costs({"batch": 16, "rows": [failed | {"error": "out of memory"}, row(peak_bytes=None)]}) == []


def test_the_script_is_sound_and_its_commands_exist(tmp_path) -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert subprocess.run([SCRIPT, "other", tmp_path], capture_output=True).returncode == 2
    text = SCRIPT.read_text(encoding="utf-8")
    common = re.search(r"sft=\(\n(.*?)\n\)", text, re.DOTALL)[1]
    words = shlex.split(common)[3:]  # after python -m cs336_sft
    rate = ["--learning-rate", "1e-5"]
    for more in (rate, [*rate, "--method", "qlora", "--gradient-checkpointing"]):
        args = build_parser().parse_args([*words, *more, "--out", str(tmp_path)])
        assert args.train_size == "full" and args.profile == "qwen2.5-math-1.5b"
    assert len(read_grid(ROOT / "recipes" / "grids" / "qwen_methods.json").runs(gpu=True)) == 27
