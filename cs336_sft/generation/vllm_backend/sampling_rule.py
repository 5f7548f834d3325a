"""Sampling inside vLLM by the rule of the Hugging Face sampler: the same seed gives the same samples in both.

vLLM calls a logits processor (`logits_processor` in this folder) before it chooses a token. It adds the keyed Gumbel
noise of `cs336_sft.generation.seeded_noise` to ``logits / T`` and lets vLLM take the largest (the requests are greedy
for vLLM). So a sample depends on seed, prompt and sample number, and on nothing else.
vLLM's own seeded sampling draws row by row from one
generator a request, in numbers of its own. Log-probabilities and entropies are recorded here too, exactly and without
moving a row of the vocabulary's size out of the device; vLLM could only give the top few.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import TopPLogitsWarper

from cs336_sft.generation.seeded_noise import gumbel
from cs336_sft.logprobs import compute_entropy

PROCESSOR = "cs336_sft.generation.vllm_backend.logits_processor:KeyedSampling"
EXTRA_ARGUMENT = "cs336_sft"


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
