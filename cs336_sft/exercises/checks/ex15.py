"""ex15: the clipped policy-gradient loss of each token."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.grpo.losses import compute_grpo_clip_loss


def _case(advantages: Sequence[float], ratios: Sequence[Sequence[float]], clip: float, why: str = "") -> Case:
    """Make a case with these ratios of new to old probabilities, and gradients."""
    old = -torch.arange(1.0, 1 + sum(map(len, ratios))).reshape(len(ratios), -1) / 4
    policy = (old + torch.tensor(ratios).log()).requires_grad_()
    rows = "; ".join(" ".join(f"{ratio:g}" for ratio in row) for row in ratios)
    label = f"advantages {' '.join(f'{a:g}' for a in advantages)}, p / p_old {rows}, cliprange={clip:g}"
    return Case((torch.tensor(advantages).unsqueeze(1), policy, old, clip), label=label, why=why, backward=0)


def _random_case(seed: int) -> Case:
    """Vary rows, tokens, signs (and zeros), ratios near and far, and the range."""
    draw = random.Random(seed)
    rows, columns, spread = draw.choice([1, 2, 3, 4]), draw.choice([1, 2, 4, 7]), draw.choice([0.05, 0.4, 2.0])
    ratios = [[2.0 ** draw.uniform(-spread, spread) for _ in range(columns)] for _ in range(rows)]
    return _case([draw.choice([-2.0, -0.5, 0.0, 0.5, 1.5]) for _ in range(rows)], ratios, draw.choice([0.1, 0.2, 0.5]))


CASES = [_case(**row) for row in read_asset("cases")["ex15"]] + [_random_case(seed) for seed in range(30)]


def _formula(
    rule: Callable[..., torch.Tensor] = lambda r, c, a: torch.minimum(r * a, c * a),
    marks: Callable[..., torch.Tensor] = lambda r, c, a: c * a < r * a,
    ratio: Callable[..., torch.Tensor] = lambda new, old: (new - old).exp(),
    clamp: Callable[[torch.Tensor, float], torch.Tensor] = lambda r, c: r.clamp(1 - c, 1 + c),
) -> Callable[..., Any]:
    def wrong(advantages: Any, policy_log_probs: Any, old_log_probs: Any, cliprange: float) -> Any:
        r = ratio(policy_log_probs, old_log_probs)
        parts = r, clamp(r, cliprange), advantages
        return -rule(*parts), {"is_clipped": marks(*parts)}

    return wrong


SLIPS = slips(
    "ex15",
    {
        "sign": _formula(lambda r, c, a: -torch.minimum(r * a, c * a)),
        "maximum": _formula(lambda r, c, a: torch.maximum(r * a, c * a)),
        "no-minimum": _formula(lambda r, c, a: c * a),
        "never-clipped": _formula(lambda r, c, a: r * a),
        "minimum-of-ratios": _formula(lambda r, c, a: torch.minimum(r, c) * a),
        "not-exponentiated": _formula(ratio=lambda new, old: new - old),
        "quotient-of-logs": _formula(ratio=lambda new, old: new / old),
        "inverted": _formula(ratio=lambda new, old: (old - new).exp()),
        "only-above": _formula(clamp=lambda r, c: r.clamp(max=1 + c)),
        "only-below": _formula(clamp=lambda r, c: r.clamp(min=1 - c)),
        "around-zero": _formula(clamp=lambda r, c: r.clamp(-c, c)),
        "log-ratio-clipped": _formula(clamp=lambda r, c: r.log().clamp(-c, c).exp()),
        "advantage-clipped": _formula(lambda r, c, a: torch.minimum(r * a, c * a.abs())),
        "mean": _formula(lambda r, c, a: torch.minimum(r * a, c * a).mean()),
        "no-graph": _formula(lambda r, c, a: torch.minimum(r * a, c * a).detach()),
        "outside-is-clipped": _formula(marks=lambda r, c, a: r != c),
        "not-clipped": _formula(marks=lambda r, c, a: c * a >= r * a),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[1], dict):
        return Misshapen("returns something else than (loss, metadata) with a dict for metadata")
    marks = value[1].get("is_clipped")
    if not isinstance(marks, torch.Tensor):
        return Misshapen('the metadata has no tensor "is_clipped"')
    gradient = "none: the loss has no graph to go back through" if seen.no_graph else list(seen.grads)
    return {"loss": value[0], "gradient": gradient, "is_clipped": marks.bool()}


CHECKS = (Check("compute_grpo_clip_loss", CASES, compute_grpo_clip_loss, SLIPS, view=_view),)
