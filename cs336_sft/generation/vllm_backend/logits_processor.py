"""The logits processor that vLLM loads into its worker: who sits in which row of the batch, `choose_scores` for them.

Importing this module imports vLLM; only vLLM itself does so.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.generation.vllm_backend.sampling_rule import EXTRA_ARGUMENT, SampleRule, choose_scores

if TYPE_CHECKING or find_spec("vllm") is None:
    _Base: Any = object  # so that this can be tested where vLLM is not installed
else:
    from vllm.v1.sample.logits_processor import LogitsProcessor as _Base

# Elements of a chunk of rows: noise takes several int64 arrays of this size (128 MiB each).
_CHUNK_ELEMENTS = 2**24


class KeyedSampling(_Base):
    """vLLM's interface around `choose_scores`. Rows of requests that carry no `SampleRule` stay as they are."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, tuple[SampleRule, list[int]]] = {}  # batch row -> its rule, its tokens so far (live)
        self.records: list[tuple[list[int], list[int], torch.Tensor]] = []

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow which request sits in which row: removals, then additions, then moves, as vLLM asks for."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.rows.pop(row, None)
        for row, params, _, token_ids in batch_update.added:
            self.rows.pop(row, None)
            rule = (params.extra_args or {}).get(EXTRA_ARGUMENT)
            if rule is not None:
                self.rows[row] = (SampleRule(**rule), token_ids)
        for start, end, direction in batch_update.moved:
            moving, standing = self.rows.pop(start, None), self.rows.pop(end, None)
            if moving is not None:
                self.rows[end] = moving
            if standing is not None and direction.name == "SWAP":
                self.rows[start] = standing

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` float32 ``[B, V]``, changed in place."""
        active = [row for row, (rule, _) in sorted(self.rows.items()) if _changes_anything(rule)]
        size = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
        for start in range(0, len(active), size):
            rows = active[start : start + size]
            rules = [self.rows[row][0] for row in rows]
            positions = [len(self.rows[row][1]) for row in rows]
            whole = rows == list(range(len(logits)))
            part = logits if whole else logits[torch.tensor(rows, device=logits.device)]
            scores, record = choose_scores(part, rules, positions)
            if record is not None:
                self.records.append(([rule.number for rule in rules], positions, record))
            if whole:
                logits = scores
            else:
                logits[torch.tensor(rows, device=logits.device)] = scores
        return logits

    def take_records(self) -> list[tuple[list[int], list[int], list[list[float]]]]:
        """``(request numbers [K], positions [K], log-probability and entropy [K, 2])`` of each step; then forgotten."""
        records, self.records = self.records, []
        return [(numbers, positions, values.tolist()) for numbers, positions, values in records]


def _changes_anything(rule: SampleRule) -> bool:
    return rule.temperature > 0 or rule.min_new_tokens > 0 or rule.record
