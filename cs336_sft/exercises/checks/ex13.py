"""ex13: a training run with planted faults.

A tiny random model is trained for a few steps by the learner's ``train`` and by ours with every subset of the
faults; equal weights say which faults are still in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch._dynamo  # the first optimizer needs it: imported here, not in every worker

from cs336_sft.exercises.checks.objects import TinyLM
from cs336_sft.exercises.compare import Check, Misshapen, same, shown
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.report import Failure, line
from cs336_sft.exercises.sandbox.perform import Case, Observation, observe_here
from cs336_sft.records import Example

EOS = 0
# Fault -> its symptom, which says where to look without saying what to write.
FAULTS, EXTRA = (read_asset("slips")[table] for table in ("ex13-planted", "ex13-made"))


def reference(
    model: Any,
    examples: Sequence[Example],
    pad_id: int,
    *,
    epochs: int,
    batch_size: int,
    microbatch_size: int,
    learning_rate: float,
    faults: frozenset[str] = frozenset(),
) -> list[float]:
    """Plain SGD, token-weighted, with the given faults."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9 * ("momentum" in faults))
    parameters = list(model.parameters())
    losses = []
    end = len(examples) - (batch_size if "last-batch-lost" in faults else 0)
    for _ in range(epochs):
        for start in range(0, end, batch_size):
            batch = examples[start : start + batch_size]
            parts = [
                _batch(batch[i : i + microbatch_size], pad_id, faults) for i in range(0, len(batch), microbatch_size)
            ]
            total = sum(mask.sum() for _, _, mask in parts)
            step_loss = 0.0
            if "no-zero-grad" not in faults and (start == 0 or "zero-grad-per-epoch" not in faults):
                optimizer.zero_grad()
            for input_ids, labels, mask in parts:
                log_p = torch.log_softmax(model(input_ids).logits, dim=-1)
                log_p = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
                loss = -(log_p * mask).sum() / (mask.sum() if "mean-of-means" in faults else total)
                if "example-mean" in faults:
                    loss = -((log_p * mask).sum(-1) / mask.sum(-1)).sum() / len(batch)
                if "zero-grad-per-microbatch" in faults:
                    optimizer.zero_grad()
                loss.backward()
                step_loss += loss.item()
                if faults & {"step-per-microbatch", "clip-per-microbatch"}:
                    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                if "step-per-microbatch" in faults:
                    optimizer.step()
            if not faults & {"step-per-microbatch", "clip-per-microbatch", "no-clipping"}:
                for group in [[p] for p in parameters] if "clip-each" in faults else [parameters]:
                    norm = torch.nn.utils.clip_grad_norm_(group, 1.0)
                if "always-scaled" in faults and norm < 1:
                    for parameter in parameters:
                        parameter.grad /= norm
            if "step-per-microbatch" not in faults:
                optimizer.step()
            losses.append(step_loss)
    return losses


def _batch(examples: Sequence[Example], pad_id: int, faults: frozenset[str]) -> tuple[torch.Tensor, ...]:
    width = max(map(len, examples))
    rows, masks = [], []
    for example in examples:
        fill = width - len(example)
        rows.append([*example.prompt_ids, *example.response_ids, *[pad_id] * fill])
        prompt = ["prompt-learned" in faults] * len(example.prompt_ids)
        masks.append([*prompt, *[True] * len(example.response_ids), *["padding-learned" in faults] * fill])
    ids, mask = torch.tensor(rows), torch.tensor(masks)
    labels = ids[:, 1:]
    mask = mask[:, :-1] if "mask-unshifted" in faults else mask[:, 1:]
    if "eos-masked" in faults:
        mask = mask & (labels != pad_id)
    return ids[:, :-1], labels, mask


def _case(n: int = 7, scale: float = 3.0, microbatch: int = 2, inside: int = 1) -> Case:
    """Make a run, clipped or not by ``scale``, with end-of-text inside for 0."""
    generator = torch.Generator().manual_seed(13)
    examples = []
    for i in range(n):  # 7 examples in batches of 4: the last batch is smaller
        prompt = torch.randint(inside, 8, (2 + i % 3,), generator=generator).tolist()
        response = torch.randint(inside, 8, (2 + (5 * i) % 7,), generator=generator).tolist()
        examples.append(Example(tuple(prompt), (*response, EOS)))
    return Case(
        (TinyLM(8, seed=13, scale=scale), examples, EOS),
        {"epochs": 2, "batch_size": 4, "microbatch_size": microbatch, "learning_rate": 0.2},
        label=f"{n} examples, batches of 4 in microbatches of {microbatch}, 2 epochs; padding and end-of-text are both id 0"
        + ", and stand in prompts and responses too" * (inside == 0),
    )


def _trained(case: Case, seen: Observation) -> Any:
    if not isinstance(seen.value, (list, tuple)):
        return Misshapen("train returns something else than the list of its steps' losses")
    return {"losses": [float(x) for x in seen.value if isinstance(x, (int, float))], "weights": list(seen.weights)}


def _faults_of(yours: Any, case: Case) -> frozenset[str] | None:
    """Find the smallest set of faults that trains to the learner's weights."""
    planted = [frozenset(names) for n in range(1, len(FAULTS) + 1) for names in combinations(FAULTS, n)]
    extra = [frozenset({name}) for name in EXTRA]
    both = [one | other for one in extra for other in planted[: len(FAULTS)]]  # the first of `planted` are single
    # The usual place of zero_grad, before backward, is where most learners put it first, with other faults left.
    usual = [other | {"zero-grad-per-microbatch"} for other in planted if "no-zero-grad" not in other]
    for faults in dict.fromkeys([*extra, *planted, *both, *usual]):  # each once
        if same(_trained(case, observe_here(partial(reference, faults=faults), case))["weights"], yours["weights"]):
            return faults
    return None


def _explain(case: Case, right: Any, yours: Any) -> Failure:
    detail = (
        line(f"the case: {case.label}"),
        line(f"losses of the right run  {shown([round(x, 4) for x in right['losses']])}", "good"),
        line(f"losses of your run       {shown([round(x, 4) for x in yours['losses']])}", "bad"),
    )
    if same(right["weights"], yours["weights"]):
        message = "the weights come out right, the returned losses do not: one a step, the step's mean negative\n"
        message += "log-likelihood of a target token"
        return Failure("wrong", message, detail, slip="losses-reported")
    faults = _faults_of(yours, case)
    if faults is None:
        message = "the run ends with other weights than the contract's, and no planted fault explains it alone"
        return Failure("wrong", message, detail)
    head = "one fault is left" if len(faults) == 1 else f"{len(faults)} faults are left"
    symptoms = [f"- {symptom}" for name, symptom in (FAULTS | EXTRA).items() if name in faults]
    message = "\n".join([f"{head}:", *symptoms])
    # The names say what to write; with several left they stay hidden.
    return Failure("wrong", message, detail, slip=next(iter(faults)) if len(faults) == 1 else "")


_CASES = (_case(), _case(9, 0.5, 3, 0), _case(4, 1.0, 9, 0))
CHECKS = (Check("train", _CASES, reference, view=_trained, explain=_explain),)
