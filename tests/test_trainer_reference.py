"""The whole trainer against a loop written by hand: AdamW, schedules, clipping, accumulation, without the library.

The reference goes through the examples one by one, without padding, and updates the weights with AdamW's formulas. In
float64 the two agree to 1e-9, after seven steps and for every setting.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import make_random_model
from safetensors.torch import load_file
from test_several_processes import launch

from cs336_sft.data.gsm8k import write_problems
from cs336_sft.records import Example
from cs336_sft.training.checkpoints import newest_checkpoint
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.loop import train_sft
from cs336_sft.training.result import load_result

# The batches of three epochs, for the lengths below, batches of 3 and seed 0. Seven steps use the first of the third.
BATCHES = [(6, 1, 3), (4, 0, 5), (2,), (0, 5, 6), (1, 3, 2), (4,), (1, 3, 2)]
LR = 3e-3
CONFIG = SFTConfig(learning_rate=LR, max_steps=7, batch_size=3, eval_every=None, checkpoint_every=100, progress=False)


def make_ids(n: int, start: int) -> tuple[int, ...]:
    return tuple((start * 31 + k * 17) % 360 + 1 for k in range(n))


def make_examples(*, eos: bool = True) -> list[Example]:
    """Unequal lengths. Id 0 is padding and end-of-text, which is a target; nothing predicts the first id of (0, 5)."""
    lengths = [(3, 2), (9, 8), (1, 30), (20, 1), (0, 5), (6, 6), (4, 12)]
    examples = []
    for number, (prompt, response) in enumerate(lengths):
        ids = make_ids(prompt + response, number)
        last = (0,) if eos else ids[-1:]
        examples.append(Example(ids[:prompt], (*ids[prompt:-1], *last)))
    return examples


@pytest.fixture
def model(tokenizer):
    """Two layers, biases, norms, and one matrix as embedding and head; float64."""
    return make_random_model(tokenizer, hidden_size=32).double()


def step_loss(model, examples) -> torch.Tensor:
    """Mean negative log-likelihood of all response tokens of a step, token by token."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in examples:
        ids = [*example.prompt_ids, *example.response_ids]
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for position in range(max(1, len(example.prompt_ids)), len(ids)):
            total = total - log_probs[position - 1, ids[position]]
            count += 1
    return total / count


def reference(model, examples, rates, *, betas=(0.9, 0.95), weight_decay=0.0, max_grad_norm=1.0):
    """AdamW as Loshchilov and Hutter write it, on ``BATCHES``. Returns loss and gradient norm of each step."""
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    records = []
    for t, (indices, lr) in enumerate(zip(BATCHES, rates, strict=True), start=1):
        loss = step_loss(model, [examples[index] for index in indices])
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        scale = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / (norm + 1e-6))  # PyTorch adds 1e-6
        with torch.no_grad():
            for name, p in model.named_parameters():
                gradient = p.grad * scale
                first[name] = betas[0] * first[name] + (1 - betas[0]) * gradient
                second[name] = betas[1] * second[name] + (1 - betas[1]) * gradient**2
                mean, variance = first[name] / (1 - betas[0] ** t), second[name] / (1 - betas[1] ** t)
                decay = weight_decay if name.endswith("weight") and "norm" not in name else 0.0
                p -= lr * (mean / (variance.sqrt() + 1e-8) + decay * p)
                p.grad = None
        records.append((loss.item(), norm))
    return records


def check_same_weights(trained, expected, tolerance=1e-9) -> None:
    for (name, a), b in zip(trained.named_parameters(), expected.parameters(), strict=True):
        assert (a - b).abs().max() < tolerance, name


LINEAR = [1 / 3, 2 / 3, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]  # warm-up over 3 of 7 steps; step 8 would have 0
COSINE = [1 / 2, 1, *(0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(1, 6))]  # 0.2 * 7 steps, rounded up: 2
CASES = {
    "constant": ({}, [1] * 7),
    "warm-up in steps, constant": ({"warmup": 4}, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1]),
    "warm-up in steps, linear": ({"warmup": 3, "schedule": "linear"}, LINEAR),
    "warm-up as a fraction, cosine": ({"warmup": 0.2, "schedule": "cosine"}, COSINE),
    "betas": ({"betas": (0.5, 0.7)}, [1] * 7),
    "weight decay": ({"weight_decay": 0.5}, [1] * 7),
    "clipping": ({"max_grad_norm": 0.5}, [1] * 7),
    "no clipping": ({"max_grad_norm": None}, [1] * 7),
    "microbatches of 2 and 1": ({"micro_batch_size": 2}, [1] * 7),
    "microbatches of 1": ({"micro_batch_size": 1}, [1] * 7),
    "gradient checkpointing": ({"gradient_checkpointing": True, "micro_batch_size": 2}, [1] * 7),
    "no end-of-text": ({"eos": False}, [1] * 7),
}


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_a_loop_by_hand(model, tokenizer, tmp_path, case):
    settings, factors = CASES[case]
    settings = dict(settings)
    examples = make_examples(eos=settings.pop("eos", True))
    config, rates = replace(CONFIG, **settings), [LR * factor for factor in factors]
    expected = copy.deepcopy(model)
    adamw = {name: getattr(config, name) for name in ("betas", "weight_decay", "max_grad_norm")}
    records = reference(expected, examples, rates, **adamw)
    result = train_sft(model, tokenizer, examples, config, tmp_path)
    check_same_weights(model, expected)
    logged = result.metrics
    assert [record["lr"] for record in logged] == pytest.approx(rates, rel=1e-12)
    assert [record["loss"] for record in logged] == pytest.approx([loss for loss, _ in records], rel=1e-9)
    assert [record["grad_norm"] for record in logged] == pytest.approx([norm for _, norm in records], rel=1e-9)
    assert [record["tokens"] for record in logged] == [sum(len(examples[i]) for i in batch) for batch in BATCHES]
    limit = math.inf if config.max_grad_norm is None else config.max_grad_norm
    clipped = [int(norm > limit) for _, norm in records]
    assert [record["clipped"] for record in logged] == clipped
    if case == "clipping":
        assert sum(clipped) >= 4, "else the case shows nothing"


def test_the_settings_matter_to_the_reference(model):
    """Each setting moves the weights by far more than the tolerance, so a trainer without it would be seen."""
    base = copy.deepcopy(model)
    reference(base, make_examples(), [LR] * 7)
    for changes in ({"betas": (0.5, 0.7)}, {"weight_decay": 0.5}, {"max_grad_norm": 0.5}, {"max_grad_norm": None}):
        other = copy.deepcopy(model)
        reference(other, make_examples(), [LR] * 7, **changes)
        distance = max((a - b).abs().max() for a, b in zip(base.parameters(), other.parameters(), strict=True))
        assert distance > 1e-5, changes


def test_a_resumed_run_has_the_weights_of_the_loop_by_hand(model, tokenizer, tmp_path):
    """Stopped after step 4, whose AdamW averages, step count and place in the epoch the rest depends on."""
    config = replace(CONFIG, eval_every=(4,), warmup=3, schedule="linear")
    expected, start = copy.deepcopy(model), copy.deepcopy(model)
    reference(expected, make_examples(), [LR * factor for factor in LINEAR])

    def stop(step):
        if step == 4:
            raise RuntimeError("stopped")
        return {}

    with pytest.raises(RuntimeError, match="stopped"):
        train_sft(start, tokenizer, make_examples(), config, tmp_path, evaluator=stop)
    assert newest_checkpoint(tmp_path / "checkpoints").step == 4
    train_sft(model, tokenizer, make_examples(), config, tmp_path, evaluator=lambda step: {})
    check_same_weights(model, expected)


@pytest.mark.parametrize("on", [False, True])
def test_gradient_checkpointing_recomputes_every_layer(model, tokenizer, tmp_path, on):
    """Two forward passes of a layer for each microbatch, not one; all in training mode."""
    modes = []
    handle = model.model.layers[0].mlp.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    config = replace(CONFIG, gradient_checkpointing=on, micro_batch_size=2)
    train_sft(model, tokenizer, make_examples(), config, tmp_path, evaluator=lambda step: {})
    handle.remove()
    microbatches = sum(math.ceil(len(batch) / 2) for batch in BATCHES)
    assert modes == [True] * (2 * microbatches if on else microbatches)
    assert not model.training and not model.is_gradient_checkpointing


def test_the_model_trains_in_training_mode_after_an_evaluation(model, tokenizer, tmp_path):
    modes = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    ids = torch.tensor([[1, 2, 3]])

    def evaluator(step):
        model(ids)
        return {}

    config = replace(CONFIG, eval_every=2)
    train_sft(model, tokenizer, make_examples(), config, tmp_path, evaluator=evaluator)
    train, evaluation = True, False
    assert modes == [evaluation, *[train, train, evaluation] * 3, train, evaluation]


def test_each_step_draws_its_own_dropout_whatever_happened_before(model, tokenizer, tmp_path):
    """The random state is that of (seed, step): others in other steps, the same in a second run."""

    def states(name, evaluator, **settings):
        seen, trained = [], copy.deepcopy(model)
        trained.model.layers[0].mlp.register_forward_pre_hook(
            lambda module, _: seen.append(bytes(torch.get_rng_state())) if module.training else None
        )
        config = replace(CONFIG, eval_every=2, **settings)
        train_sft(trained, tokenizer, make_examples(), config, tmp_path / name, evaluator=evaluator)
        return seen

    first = states("a", lambda step: {})
    assert len(set(first)) == len(first) == 7
    assert states("b", lambda step: {"x": torch.rand(step + 1).sum().item()}) == first
    assert not set(states("c", lambda step: {}, seed=1)) & set(first)


def test_bfloat16_weights_follow_the_reference_and_lose_small_updates(model, tokenizer, tmp_path):
    model = model.float()
    coarse, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    reference(exact, make_examples(), [LR] * 7)
    config = replace(CONFIG, weights_dtype="bfloat16", checkpoint_every=6)
    train_sft(coarse, tokenizer, make_examples(), config, tmp_path / "a")
    assert {p.dtype for p in coarse.parameters()} == {torch.bfloat16}
    states = load_file(tmp_path / "a/checkpoints/step-00000006/optimizer.safetensors")
    assert {t.dtype for name, t in states.items() if not name.endswith("/step")} == {torch.bfloat16}
    flat = [torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (model, coarse, exact)]
    start, coarse_flat, exact_flat = flat
    assert torch.cosine_similarity(coarse_flat - start, exact_flat - start, dim=0) > 0.8

    small = copy.deepcopy(model).bfloat16()
    before = copy.deepcopy(small)
    config = replace(CONFIG, weights_dtype="bfloat16", learning_rate=1e-7)
    train_sft(small, tokenizer, make_examples(), config, tmp_path / "b")
    large = [(p, q) for p, q in zip(small.parameters(), before.parameters(), strict=True) if q.abs().min() > 0.5]
    assert large and all(torch.equal(p, q) for p, q in large)  # the norms, at 1: an update of 1e-7 is lost


def test_two_processes_have_the_weights_of_the_loop_by_hand(model, tokenizer, problems, tmp_path):
    """Also where a step has one example for the two of them."""
    settings = {"max_grad_norm": 0.5, "weight_decay": 0.5, "warmup": 3, "schedule": "linear", "micro_batch_size": 1}
    examples = make_examples()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl", problems[:1])
    (tmp_path / "examples.json").write_text(json.dumps([[e.prompt_ids, e.response_ids] for e in examples]))
    (tmp_path / "config.json").write_text(json.dumps(replace(CONFIG, **settings).to_dict()))
    done = launch(tmp_path, "run", "torchrun", DTYPE="float64")
    assert done.returncode == 0, done.stderr[-3000:]
    rates = [LR * factor for factor in LINEAR]
    records = reference(model, examples, rates, max_grad_norm=0.5, weight_decay=0.5)
    logged = load_result(tmp_path / "run").metrics
    assert [record["loss"] for record in logged] == pytest.approx([loss for loss, _ in records], rel=1e-9)
    assert [record["grad_norm"] for record in logged] == pytest.approx([norm for _, norm in records], rel=1e-9)
    targets = [2, 8, 30, 1, 4, 6, 12]  # nothing predicts the first id of the example without a prompt
    assert [record["target_tokens"] for record in logged] == [sum(targets[i] for i in batch) for batch in BATCHES]
    stored = load_file(tmp_path / "run/final/model.safetensors")
    for name, parameter in model.named_parameters():
        assert (stored[name] - parameter).abs().max() < 1e-9, name
