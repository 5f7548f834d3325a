"""Token lengths of GSM8K: counted where its files and Qwen's tokenizer are, else redrawn from their record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from cs336_sft.data.download import fetched_folder, is_fetched
from cs336_sft.data.gsm8k import load_gsm8k
from cs336_sft.data.qwen_tokenizer import load_qwen_tokenizer
from cs336_sft.data.token_lengths import LengthTable, token_lengths
from cs336_sft.prompts import get_template


def gsm8k_lengths(record: Path) -> tuple[dict[str, LengthTable], bool]:
    """Return a table for each split, and whether it was counted.

    Counting takes the folder CS336_GSM8K and Qwen's tokenizer (fetched, or CS336_QWEN_TOKENIZER). Else 7,473 pairs are
    redrawn: prompts and answers by their percentiles in `record`, paired by its rank correlation, so totals differ.
    """
    gsm8k, qwen = os.environ.get("CS336_GSM8K"), os.environ.get("CS336_QWEN_TOKENIZER")
    if not qwen and is_fetched("qwen-tokenizer"):
        qwen = fetched_folder("qwen-tokenizer")
    if gsm8k and qwen:
        template, tokenizer = get_template("gsm8k"), load_qwen_tokenizer(qwen)
        return {s: token_lengths(load_gsm8k(gsm8k, s), template, tokenizer) for s in ("train", "test")}, True
    facts = json.loads(record.read_text(encoding="utf-8"))
    rho = facts["correlation_of_normal_scores"]
    score, noise = np.random.default_rng(0).standard_normal((2, 7473))
    parts = {}
    # 99.5 %: recorded by the author of the notes. Between 99 % and the longest the record has nothing.
    for part, z, tail in (("prompt", score, 162.0), ("answer", rho * score + (1 - rho**2) ** 0.5 * noise, 314.9)):
        percent = z.argsort().argsort() / (len(z) - 1) * 100
        known = [*facts["percentiles"][:-1], 99.5, 100], [*facts[part][:-1], tail, facts[part][-1]]
        parts[part] = tuple(np.interp(percent, *known).round().astype(int).tolist())
    return {"train": LengthTable(**parts)}, False
