"""What the stubs' contracts leave open, and that each check's cases vary it: most misses are a value that never came.

A dimension is a function of a call's arguments. Among the cases of its check it takes at least the values that stand
beside it (none given: at least two), so two of its values are never equal by coincidence.
"""

from __future__ import annotations

import math
import re
from importlib import import_module

import pytest

from cs336_sft.exercises.registry import EXERCISES

torch = pytest.importorskip("torch")
BOTH = {True, False}


def grows(values) -> bool:
    return list(values) == sorted(values)


def lengths(texts, tokenizer) -> list[int]:
    return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def repeats(values) -> bool:
    return len(set(values)) < len(values)


def rooms(prompts, outputs, tokenizer, **settings) -> list[int]:
    return [a + b for a, b in zip(lengths(prompts, tokenizer), lengths(outputs, tokenizer), strict=True)]


def merges(graded, key) -> bool:
    """Whether a key takes two different right samples for one."""
    right = {(x.problem.id, x.generation.text.strip()) for x in graded if x.reward}
    return len({key(*pair) for pair in right}) < len(right)


def holds(texts, *marks: str) -> bool:
    return any(mark in text for text in texts for mark in marks)


PAIRS = {
    "rows": (lambda p, o, t, **_: len(p), {1, 2, 3, 4, 5}),
    "rows of equal and unequal length": (lambda *a, **k: len(set(rooms(*a, **k))) < len(a[0]), BOTH),
    "prompt longer than its output": (lambda p, o, t, **_: lengths(p, t)[0] > lengths(o, t)[0], BOTH),
    "an empty output": (lambda p, o, t, **_: 0 in lengths(o, t), BOTH),
    "the longest row is not the first": (lambda *a, **k: rooms(*a, **k)[0] < max(rooms(*a, **k)), BOTH),
    "the same text twice": (lambda p, o, t, **_: repeats(p), BOTH),
    "blanks are tokens": (lambda p, o, t, **_: lengths([" 5"], t) != lengths(["5"], t), BOTH),
    "blanks at the ends": (lambda p, o, t, **_: any(x != x.strip() for x in (*p, *o)), BOTH),
    "pad is end-of-text": (lambda p, o, t, **_: t.pad_token_id == t.eos_token_id, BOTH),
    "end-of-text or pad in a prompt": (lambda p, o, t, **_: holds(p, "<eos>", "<pad>"), BOTH),
    "end-of-text or pad in an output": (lambda p, o, t, **_: holds(o, "<eos>", "<pad>"), BOTH),
    "special tokens by default": (lambda p, o, t, **_: len(t("5")["input_ids"]) > 1, BOTH),
    "longer than the model reads": (lambda *a, **k: max(rooms(*a, **k)) > a[2].model_max_length, BOTH),
    "the id of a word": (lambda p, o, t, **_: t.convert_tokens_to_ids("5"), None),
    "token 0 is end-of-text": (lambda p, o, t, **_: t.eos_token_id == 0, BOTH),
    "token 0 is a word": (lambda p, o, t, **_: t.convert_ids_to_tokens(0) == "?", BOTH),
    "token 0 is padding": (lambda p, o, t, **_: t.pad_token_id == 0, BOTH),
    "an empty prompt": (lambda p, o, t, **_: 0 in lengths(p, t), BOTH),
}
# Function -> dimension -> (value of a call, values that have to be there).
DIMENSIONS = {
    "token_lengths": {
        "problems": (lambda p, t, k: len(p), {0, 1, 4, 8}),
        "the same question twice": (lambda p, t, k: repeats([x.question for x in p]), BOTH),
        "blanks are tokens": (lambda p, t, k: lengths([" 5"], k) != lengths(["5"], k), BOTH),
        "special tokens by default": (lambda p, t, k: len(k("5")["input_ids"]) > 1, BOTH),
        "longer than the model reads": (lambda p, t, k: k.model_max_length < 5, BOTH),
        "template": (lambda p, t, k: t.name, {"question_only", "gsm8k", "around"}),
        "from short to long": (lambda p, t, k: grows([len(x.question) for x in p]), BOTH),
    },
    "length_percentiles": {
        "problems": (lambda t: len(t.prompt), {1, 2, 4, 40, 101}),
        "length 0": (lambda t: 0 in (*t.prompt, *t.answer), BOTH),
        "more than 16 bits": (lambda t: max(t.total) > 2**15, BOTH),
        "ties": (lambda t: repeats(t.prompt), BOTH),
        "sorted alike": (lambda t: grows(t.prompt) and grows(t.answer), BOTH),
    },
    "tokenize_prompt_and_output": PAIRS,
    "masked_normalize": {
        "shape": (lambda t, m, c, dim=None: t.dim(), {1, 2, 3, 4}),
        "a dimension of size 1": (lambda t, m, c, dim=None: 1 in t.shape, BOTH),
        "dim": (lambda t, m, c, dim=None: dim, {None, 0, 1, 2, -1, -2, -3}),
        "mask": (lambda t, m, c, dim=None: m.dtype, {torch.bool, torch.int64, torch.float32}),
        "negative marks": (lambda t, m, c, dim=None: m.double().min().item() < 0, BOTH),
        "marks of a half": (lambda t, m, c, dim=None: bool((m == 0.5).any()), BOTH),
        "marks that are 0 in the tensor's precision": (
            lambda t, m, c, dim=None: bool(((m != 0) & (m.to(t.dtype) == 0)).any()),
            BOTH,
        ),
        "everything masked": (lambda t, m, c, dim=None: not m.any(), BOTH),
        "constant below 1": (lambda t, m, c, dim=None: c < 1, BOTH),
        "constant a fraction": (lambda t, m, c, dim=None: c % 1 != 0, BOTH),
        "precision": (lambda t, m, c, dim=None: t.dtype, {torch.float32, torch.float64}),
        "signs": (lambda t, m, c, dim=None: bool((t < 0).any()), BOTH),
        "a masked nan": (lambda t, m, c, dim=None: bool((t.isnan() & (m == 0)).any()), BOTH),
        "a nan that counts": (lambda t, m, c, dim=None: bool((t.isnan() & (m != 0)).any()), BOTH),
        "infinity": (lambda t, m, c, dim=None: bool(t.isinf().any()), BOTH),
        "size": (lambda t, m, c, dim=None: t.nan_to_num(0, 0, 0).abs().max().item() > 1e6, BOTH),
        "gradient": (lambda t, m, c, dim=None: (t.requires_grad, dim is None), {(a, b) for a in BOTH for b in BOTH}),
    },
    "sft_microbatch_train_step": {
        "rows": (lambda x, m, n, **_: len(x), {1, 2, 3, 4}),
        "columns": (lambda x, m, n, **_: x.shape[1], {1, 4, 5, 9}),
        "mask": (lambda x, m, n, **_: m.dtype, {torch.bool, torch.int64, torch.float32}),
        "steps": (lambda x, m, n, **_: n, {1, 2, 3, 8}),
        "constant": (lambda x, m, n, normalize_constant=None: normalize_constant, {None, 0.1, 0.5, 1.0, 2.5, 40}),
        "a row without targets": (lambda x, m, n, **_: bool((m.bool().sum(-1) == 0).any()), BOTH),
        "no target": (lambda x, m, n, **_: not m.any(), BOTH),
        "equal counts": (lambda x, m, n, **_: len(set(m.bool().sum(-1).tolist())) == 1, BOTH),
        "strongly negative": (lambda x, m, n, **_: x.min().item() < -50, BOTH),
        "a gradient stands there": (lambda x, m, n, **_: x.grad is not None, BOTH),
    },
    "compute_entropy": {
        "shape": (lambda x: x.dim(), {1, 2, 3, 4}),
        "a dimension of size 1": (lambda x: 1 in x.shape[:-1], BOTH),
        "vocabulary": (lambda x: x.shape[-1], {1, 2, 3, 4, 5, 60, 3000, 5001}),
        "a forbidden token": (lambda x: bool(x.isinf().any()), BOTH),
        "a forbidden token among logits below -1e30": (
            lambda x: bool((x.isinf() & (x.nan_to_num(neginf=-1e38).amax(-1, keepdim=True) < -1e30)).any()),
            BOTH,
        ),
        "ties": (lambda x: repeats(x.flatten().tolist()), BOTH),
        "size": (lambda x: int(math.log10(x.nan_to_num(0, 0, 0).abs().max().item() + 1e-3)), {0, 1, 2, 4, 38}),
        "precision": (lambda x: x.dtype, {torch.float32, torch.float64}),
        "gradient, with a forbidden token": (
            lambda x: (x.requires_grad, bool(x.isinf().any())),
            {(a, b) for a in BOTH for b in BOTH},
        ),
    },
    "get_response_log_probs": {
        "B": (lambda m, x, y, e=False: x.shape[0], {1, 2, 3, 4}),
        "T": (lambda m, x, y, e=False: x.shape[1], {1, 2, 4, 5, 6}),
        "V": (lambda m, x, y, e=False: m.config.vocab_size, {2, 3, 4, 5, 7, 9}),
        "labels are the next inputs": (lambda m, x, y, e=False: torch.equal(x[:, 1:], y[:, :-1]), BOTH),
        "label 0": (lambda m, x, y, e=False: bool((y == 0).any()), BOTH),
        "entropy asked for": (lambda m, x, y, e=False: e, BOTH),
        "underflow": (lambda m, x, y, e=False: m(x).logits.abs().max().item() > 200, BOTH),
        "input 0": (lambda m, x, y, e=False: bool((x == 0).any()), BOTH),
        "the same model and ids, other weights": (
            lambda m, x, y, e=False: type(m).__name__ == "TrainedLM" and m.head[0, 0].item(),
            None,
        ),
        "the same ids, another model": (lambda m, x, y, e=False: x.shape == (1, 4) and m.head[0, 0].item(), None),
    },
    "compute_group_normalized_rewards": {
        "group": (lambda f, r, t, size, e=1e-6, std=True: size, {2, 3, 4, 8}),
        "groups": (lambda f, r, t, size, e=1e-6, std=True: len(r) // size, {1, 2, 3, 5}),
        "groups as many as answers": (lambda f, r, t, size, e=1e-6, std=True: len(r) == size**2, BOTH),
        "epsilon": (lambda f, r, t, size, e=1e-6, std=True: e, {1e-6, 0.1, 0.5, 1.0}),
        "divided by the deviation": (lambda f, r, t, size, e=1e-6, std=True: std, BOTH),
        "defaults": (lambda f, r, t, size, *given: given == (), BOTH),
        "truth": (lambda f, r, t, size, e=1e-6, std=True: t[0], {"0", "3", "8"}),
        "a negative reward": (lambda f, r, t, size, e=1e-6, std=True: min(map(float, r)) < 0, BOTH),
        "a reward that is no whole number": (
            lambda f, r, t, size, e=1e-6, std=True: any(float(x) % 1 for x in r),
            BOTH,
        ),
        "equal in a group, divided": (
            lambda f, r, t, size, e=1e-6, std=True: (
                any(len(set(r[i : i + size])) == 1 for i in range(0, len(r), size)),
                std,
            ),
            {(a, b) for a in BOTH for b in BOTH},
        ),
    },
    "compute_grpo_clip_loss": {
        "B": (lambda a, new, old, c: len(a), {1, 2, 3, 4}),
        "T": (lambda a, new, old, c: new.shape[1], {1, 2, 3, 4, 7}),
        "B = T": (lambda a, new, old, c: len(a) == new.shape[1] > 1, BOTH),
        "range": (lambda a, new, old, c: c, {0.1, 0.2, 0.35, 0.5}),
        "advantage": (lambda a, new, old, c: a[0].item(), {-2.0, -0.5, 0.0, 0.5, 1.5}),
        "signs of one batch": (lambda a, new, old, c: bool((a > 0).any() and (a < 0).any()), BOTH),
        "beyond the range": (
            lambda a, new, old, c: (bool(((new - old).exp() > 1 + c).any()), bool(((new - old).exp() < 1 - c).any())),
            {(a, b) for a in BOTH for b in BOTH},
        ),
        "nothing has changed": (lambda a, new, old, c: bool(torch.isclose(new, old).any()), BOTH),
    },
    "gsm8k_reward_fn": {
        "markers": (lambda r, t: min(r.count("####"), 2), {0, 1, 2}),
        "begins with Question:": (lambda r, t: r.startswith("Question:"), BOTH),
        "Question: within a line": (lambda r, t: " Question:" in r, BOTH),
        "numbers behind the marker": (lambda r, t: len(r.split("####")[-1].split("\n")[0].split()), {0, 1, 2, 3}),
        "truth with a separator": (lambda r, t: "," in t, BOTH),
        "truth with decimals": (lambda r, t: "." in t, BOTH),
        "truth below 0": (lambda r, t: t.startswith("-"), BOTH),
        "digits": (lambda r, t: len(r) > 5000, BOTH),
        "more digits than a Decimal's context": (lambda r, t: len(t) > 28, BOTH),
        "words before the number": (lambda r, t: bool(re.search(r"####[ a-zA-Z]+[a-z] \d", r)), BOTH),
        "digits before the first comma": (
            lambda r, t: len(m[1]) if (m := re.search(r"#### \D?(\d*),", r)) else 0,
            {0, 1, 2, 4},
        ),
        "empty": (lambda r, t: r == "", BOTH),
    },
    "compute_metrics": {
        "sequence": (lambda g: type(g), {list, tuple}),
        "records": (lambda g: len(g), {1, 2, 3, 6}),
        "several of one question": (lambda g: repeats([x.problem.id for x in g]), BOTH),
        "equal records": (lambda g: repeats(list(map(repr, g))), BOTH),
        "none right": (lambda g: not any(x.reward for x in g), BOTH),
        "without tokens": (lambda g: any(not x.generation.token_ids for x in g), BOTH),
        "without text": (lambda g: any(not x.generation.text for x in g), BOTH),
        "cut off": (lambda g: {x.generation.finish_reason for x in g} == {"stop", "length"}, BOTH),
        "answer without format": (lambda g: any(x.answer_reward > x.format_reward for x in g), BOTH),
    },
    "token_mean_loss": {
        "columns": (lambda x, m, n: x.shape[1], {1, 2, 4, 5, 9}),
        "no target": (lambda x, m, n: not m.any(), BOTH),
        "a sure target": (lambda x, m, n: bool((x[m] == 0).any()), BOTH),
        "its own targets are the step's": (lambda x, m, n: int(m.sum()) == n, BOTH),
        "strongly negative": (lambda x, m, n: x.min().item() < -50, BOTH),
        "gradient": (lambda x, m, n: x.requires_grad, BOTH),
    },
    "accumulate_gradients": {
        "microbatches": (lambda b: len(b), {1, 2, 3, 4, 5}),
        "the same one twice": (lambda b: repeats([id(x) for x, _ in b]), BOTH),
        "one without targets": (lambda b: any(not m.any() for _, m in b), BOTH),
        "a sure target": (lambda b: any(bool((x[m] == 0).any()) for x, m in b), BOTH),
        "more targets than half precision counts": (lambda b: max(int(m.sum()) for _, m in b) > 2048, BOTH),
        "counts": (lambda b: len({int(m.sum()) for _, m in b}) == 1, BOTH),
        "shapes": (lambda b: len({m.shape for _, m in b}) == 1, BOTH),
        "a gradient stands there": (lambda b: any(x.grad is not None for x, _ in b), BOTH),
    },
    "chunked_log_probs": {
        "tokens": (lambda h, w, y, c: len(h), {1, 2, 3, 4, 5, 6, 7, 9, 16, 64}),
        "vocabulary": (lambda h, w, y, c: len(w), {2, 3, 4, 5, 40, 200}),
        "chunk divides tokens": (lambda h, w, y, c: len(h) % c == 0, BOTH),
        "chunk larger": (lambda h, w, y, c: c > len(h), BOTH),
        "chunks as many as tokens in one": (lambda h, w, y, c: math.ceil(len(h) / c) == c, BOTH),
        "precision": (lambda h, w, y, c: h.dtype, {torch.float32, torch.bfloat16}),
        "underflow": (lambda h, w, y, c: (h.float() @ w.float().T).abs().max().item() > 150, BOTH),
        "gradient": (lambda h, w, y, c: (h.requires_grad, w.requires_grad), {(a, b) for a in BOTH for b in BOTH}),
    },
    "select_samples": {
        "samples": (lambda g, cap=None: len(g), {0, 1, 2, 3, 12, 30}),
        "cap": (lambda g, cap=None: cap, {None, 0, 1, 2}),
        "sequence": (lambda g, cap=None: type(g), {list, tuple}),
        "texts that differ in case only": (lambda g, cap=None: merges(g, lambda i, text: (i, text.lower())), BOTH),
        "texts that differ in blanks only": (lambda g, cap=None: merges(g, lambda i, text: (i, *text.split())), BOTH),
        "id and text that join to the same": (lambda g, cap=None: merges(g, lambda i, text: i + text), BOTH),
        "none right": (lambda g, cap=None: not any(x.reward for x in g), BOTH),
        "a wrong one first": (lambda g, cap=None: bool(g) and g[0].reward == 0, BOTH),
        "one question text, two ids": (
            lambda g, cap=None: len({x.problem.id for x in g}) > len({x.problem.question for x in g}),
            BOTH,
        ),
        "cut off": (lambda g, cap=None: any(x.generation.finish_reason == "length" for x in g), BOTH),
        "alike for 40 characters": (
            lambda g, cap=None: len({x.generation.text for x in g if len(x.generation.text) > 40}) > 1,
            BOTH,
        ),
        "same text, right and wrong": (
            lambda g, cap=None: (
                len({(x.problem.id, x.generation.text) for x in g})
                < len({(x.problem.id, x.generation.text, x.reward) for x in g})
            ),
            BOTH,
        ),
    },
    "train": {
        "the last batch is smaller": (lambda m, e, p, batch_size, **_: len(e) % batch_size > 0, BOTH),
        "microbatch": (lambda m, e, p, microbatch_size, **_: microbatch_size, {2, 3, 9}),
        "weights, so norms below 1 and above": (lambda m, e, p, **_: m.head.std().item() > 1, BOTH),
        "end-of-text in a prompt": (lambda m, e, p, **_: any(p in x.prompt_ids for x in e), BOTH),
        "end-of-text within a response": (lambda m, e, p, **_: any(p in x.response_ids[:-1] for x in e), BOTH),
    },
}
CHECKS = [
    pytest.param(check, id=f"{exercise.number}-{check.function}")
    for exercise in EXERCISES
    for check in import_module(f"cs336_sft.exercises.checks.{exercise.number}").CHECKS
]


@pytest.mark.parametrize("check", CHECKS)
def test_every_dimension_of_the_contract_is_varied(check) -> None:
    for name, (value, wanted) in DIMENSIONS[check.function].items():
        seen = {value(*case.args, **case.kwargs) for case in check.cases}
        assert seen >= wanted if wanted else len(seen) > 1, f"{name}: {seen}, wanted {wanted}"


@pytest.mark.parametrize("check", CHECKS)
def test_the_first_case_is_made_by_hand_and_comes_again_at_the_end(check) -> None:
    first, last = check.cases[0], check.cases[-1]
    assert first.args is last.args and first.kwargs is last.kwargs and "random" not in first.label
