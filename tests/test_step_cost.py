"""The cost of a step, and the loss on reference answers, on the embedded model."""

from __future__ import annotations

import pytest
import torch
from cs336_sft.lessons.step_cost import measure_cost

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.response_scores import validation_loss
from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
from cs336_sft.records import Example

EXAMPLES = [Example((5, 6, 7), tuple(range(8, 8 + n))) for n in (30, 50, 90, 120)]


@pytest.fixture(scope="module")
def model():
    return load_model_and_tokenizer(embedded_model_path())[0]


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_cut_changes_memory_but_neither_loss_nor_gradient(model) -> None:
    whole = measure_cost(model, EXAMPLES, 0, repeats=1)
    expected = gradient(model)
    for micro in (1, 3):
        cost = measure_cost(model, EXAMPLES, 0, micro_batch_size=micro, repeats=1)
        assert cost.microbatches == -(-4 // micro)
        assert cost.loss == pytest.approx(whole.loss, rel=1e-5)
        torch.testing.assert_close(gradient(model), expected, rtol=1e-3, atol=1e-5)
        assert cost.peak_bytes < whole.peak_bytes
    assert whole.tokens == sum(map(len, EXAMPLES)) == cost.tokens


def test_the_loss_of_a_step_is_the_loss_on_its_references(model) -> None:
    cost = measure_cost(model, EXAMPLES, 0, repeats=1)
    assert validation_loss(model, EXAMPLES) == pytest.approx(cost.loss, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [60, 10_000])
def test_the_validation_loss_is_one_of_tokens_not_of_examples(model, batch_tokens) -> None:
    alone = [validation_loss(model, [example]) for example in EXAMPLES]
    targets = [len(example.response_ids) for example in EXAMPLES]
    expected = sum(a * n for a, n in zip(alone, targets, strict=True)) / sum(targets)
    model.train()
    assert validation_loss(model, EXAMPLES, batch_tokens=batch_tokens) == pytest.approx(expected, rel=1e-5)
    assert model.training
    model.eval()


def test_what_can_not_be_measured_is_an_error(model) -> None:
    with pytest.raises(ConfigError):
        measure_cost(model, [], 0)
    with pytest.raises(ConfigError):
        measure_cost(model, EXAMPLES, 0, micro_batch_size=0)
    with pytest.raises(DataError):
        validation_loss(model, [])
