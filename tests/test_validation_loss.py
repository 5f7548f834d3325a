"""The loss on reference answers, on the embedded model."""

from __future__ import annotations

import pytest

from cs336_sft.errors import DataError
from cs336_sft.evaluation.response_scores import validation_loss
from cs336_sft.losses import sft_loss
from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
from cs336_sft.records import Example
from cs336_sft.tokenization import collate, count_targets

EXAMPLES = [Example((5, 6, 7), tuple(range(8, 8 + n))) for n in (30, 50, 90, 120)]


@pytest.fixture(scope="module")
def model():
    return load_model_and_tokenizer(embedded_model_path())[0]


def test_the_validation_loss_is_what_a_step_would_minimise(model) -> None:
    loss, _ = sft_loss(model, collate(EXAMPLES, 0), count_targets(EXAMPLES))
    assert validation_loss(model, EXAMPLES) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [60, 10_000])
def test_the_validation_loss_is_one_of_tokens_not_of_examples(model, batch_tokens) -> None:
    alone = [validation_loss(model, [example]) for example in EXAMPLES]
    targets = [len(example.response_ids) for example in EXAMPLES]
    expected = sum(a * n for a, n in zip(alone, targets, strict=True)) / sum(targets)
    model.train()
    assert validation_loss(model, EXAMPLES, batch_tokens=batch_tokens) == pytest.approx(expected, rel=1e-5)
    assert model.training
    model.eval()


def test_a_loss_of_nothing_is_an_error(model) -> None:
    with pytest.raises(DataError):
        validation_loss(model, [])
