"""Sampling inside vLLM by the rule of the Hugging Face sampler: the same seed gives the same samples in both.

vLLM calls a logits processor before it chooses a token. `KeyedSampling` adds the keyed Gumbel noise of
`cs336_sft.keyed_noise` to ``logits / T`` and lets vLLM take the largest (the requests are greedy for vLLM). So a sample
depends on seed, prompt and sample number, and on nothing else. vLLM's own seeded sampling draws row by row from one
generator a request, in numbers of its own. Log-probabilities and entropies are recorded here too, exactly and without
moving a row of the vocabulary's size out of the device; vLLM could only give the top few.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from transformers import TopPLogitsWarper

from cs336_sft.keyed_noise import gumbel
from cs336_sft.logprobs import compute_entropy

if TYPE_CHECKING or find_spec("vllm") is None:
    _Base: Any = object  # so that the rule can be tested where vLLM is not installed
else:
    from vllm.v1.sample.logits_processor import LogitsProcessor as _Base

PROCESSOR = f"{__name__}:KeyedSampling"
EXTRA_ARGUMENT = "cs336_sft"
# Elements of a chunk of rows: noise takes several int64 arrays of this size (128 MiB each).
_CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class SampleRule:
    """How the tokens of one request are chosen; travels with the request as plain JSON values.

    Attributes:
        number: which request of the call this is.
        key: `row_key` of seed, prompt and sample.
        record: keep log-probability and entropy of every token.
    """

    number: int
    key: int
    temperature: float
    top_p: float
    min_new_tokens: int
    eos_id: int
    record: bool


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


def choose_scores(
    logits: torch.Tensor, rules: list[SampleRule], positions: list[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scores whose largest entry is the token to take, and what there is to record.

    The same steps as the Hugging Face sampler's: forbid end-of-text before ``min_new_tokens``, divide by the
    temperature, top-p, add noise. All rules are of one call and differ in ``number`` and ``key`` only.

    Args:
        logits: float32 ``[B, V]``; not changed.
        positions: how many tokens each row has so far.

    Returns:
        ``(scores [B, V], record [B, 2] or None)``: log-probability of the chosen token and entropy of the whole
        distribution, at temperature 1 and before any token was forbidden, in nats.

    >>> rule = SampleRule(0, key=7, temperature=0.0, top_p=1.0, min_new_tokens=1, eos_id=2, record=True)
    >>> scores, record = choose_scores(torch.tensor([[0.0, 1.0, 2.0]]), [rule], [0])
    >>> scores.tolist(), [round(value, 3) for value in record[0].tolist()]
    ([[0.0, 1.0, -inf]], [-1.408, 0.832])
    """
    rule = rules[0]
    scores = logits
    early = [row for row, position in enumerate(positions) if position < rule.min_new_tokens]
    if early:
        scores = logits.clone()
        scores[early, rule.eos_id] = -torch.inf
    if rule.temperature > 0:
        scores = scores / rule.temperature
        if rule.top_p < 1:
            scores = TopPLogitsWarper(rule.top_p)(None, scores)
        keys = torch.tensor([r.key for r in rules], device=logits.device)
        scores = scores + gumbel(keys, torch.tensor(positions, device=logits.device), logits.shape[-1])
    if not rule.record:
        return scores, None
    chosen = scores.argmax(-1, keepdim=True)
    logprob = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    return scores, torch.stack([logprob, compute_entropy(logits)], dim=-1)
