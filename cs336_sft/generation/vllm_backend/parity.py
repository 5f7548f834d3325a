"""Does an engine compute what the model computes? Its greedy tokens and log-probabilities against Hugging Face's.

The engine continues a few prompts greedily; the model then reads prompt and continuation once. The engine's tokens
equal the model's own greedy ones exactly if each is the model's most probable token at its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from cs336_sft.errors import EngineMismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Prompt ids and a number of tokens -> for each prompt the engine's greedy ids and their log-probabilities.
Greedy = Callable[[Sequence[Sequence[int]], int], list[tuple[Sequence[int], Sequence[float]]]]

# Largest and mean difference of a token's log-probability, in nats, that is taken for rounding. Measured on a CPU on
# SmolLM2-135M, engine against a float32 model: in float32 at most 3e-5; in bfloat16 at most 0.15 and 0.02 in the mean.
# The tolerances leave room for larger models and other kernels.
_TOLERANCE = {torch.float32: (1e-2, 1e-3)}
_TOLERANCE_HALF = (1.0, 0.1)


@dataclass(frozen=True)
class Parity:
    """The comparison, over all compared tokens.

    Attributes:
        prompts, identical_prompts: how many, and for how many all tokens are the model's own greedy ones.
        tokens, identical_tokens: likewise for tokens.
        largest_gap: by how many nats the model prefers another token to the engine's, at most. A difference with a
            tiny gap is a near-tie that rounding decided.
        largest_error, mean_error: difference of the log-probability that engine and model give to the same token.
    """

    prompts: int
    identical_prompts: int
    tokens: int
    identical_tokens: int
    largest_gap: float
    largest_error: float
    mean_error: float


def compare(greedy: Greedy, model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Parity:
    """Let the engine continue each prompt (ids) by ``max_new_tokens`` tokens and have the model check them."""
    gaps: list[list[float]] = []
    errors: list[float] = []
    for ids, (new, logprobs) in zip(prompts, greedy(prompts, max_new_tokens), strict=True):
        # [1, prompt + new - 1] -> the distributions of the new tokens, [new, V]
        log_probs = _log_probs(model, [*ids, *new][:-1])[len(ids) - 1 :]
        own = log_probs.gather(-1, torch.tensor([new], device=log_probs.device).T).squeeze(-1)
        gaps.append((log_probs.max(-1).values - own).tolist())
        errors += [abs(a - b) for a, b in zip(own.tolist(), logprobs, strict=True)]
    flat = [gap for row in gaps for gap in row]
    return Parity(
        prompts=len(gaps),
        identical_prompts=sum(max(row) == 0 for row in gaps),
        tokens=len(flat),
        identical_tokens=sum(gap == 0 for gap in flat),
        largest_gap=max(flat),
        largest_error=max(errors),
        mean_error=fmean(errors),
    )


def check(parity: Parity, dtype: torch.dtype) -> None:
    """What rounding in ``dtype`` (the engine's) can't explain is an error.

    Raises:
        EngineMismatchError: the engine computes with other weights, or wrongly.

    >>> check(Parity(1, 1, 8, 8, 0.0, 1e-5, 1e-6), torch.float32)
    """
    largest, mean = _TOLERANCE.get(dtype, _TOLERANCE_HALF)
    if parity.largest_gap > largest or parity.largest_error > largest or parity.mean_error > mean:
        raise EngineMismatchError(
            f"the engine's outputs are not the model's: {parity.identical_tokens} of {parity.tokens} greedy tokens "
            f"agree, log-probabilities differ by {parity.mean_error:.2g} nats in the mean and "
            f"{parity.largest_error:.2g} at most ({mean:g} and {largest:g} may be rounding in "
            f"{str(dtype).removeprefix('torch.')})",
            "push the model's weights again; if it stays, this version of vLLM can't be synced: use --sampler hf",
        )


@torch.inference_mode()
def _log_probs(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """float32 ``[T, V]``: next-token log-probabilities at each position."""
    device = next(model.parameters()).device
    modes = [module for module in model.modules() if module.training]
    model.eval()
    try:
        logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0]
    finally:
        for module in modes:
            module.training = True
    return logits.float().log_softmax(-1)
