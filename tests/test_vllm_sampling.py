"""Sampling inside vLLM, without vLLM: the same choice as the Hugging Face sampler's, row by row of a changing batch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cs336_sft.generation.hf_hooks import ChooseToken
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.seeded_noise import gumbel, keyed_bits
from cs336_sft.generation.vllm_backend.logits_processor import KeyedSampling
from cs336_sft.generation.vllm_backend.sampling_rule import EXTRA_ARGUMENT, SampleRule, choose_scores

EOS = 2
VOCABULARY = 50


def rule(sampling: SamplingConfig, number: int, key: int) -> SampleRule:
    return SampleRule(
        number, key, sampling.temperature, sampling.top_p, sampling.min_new_tokens, EOS, sampling.record_entropy
    )


SETTINGS = [
    SamplingConfig(record_entropy=True),
    SamplingConfig(temperature=0.7, record_entropy=True),
    SamplingConfig(temperature=1.3, top_p=0.5, record_entropy=True),
    SamplingConfig(temperature=1.0, min_new_tokens=3, record_entropy=True),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=["greedy", "sampled", "top_p", "min_new_tokens"])
def test_the_choice_is_the_hugging_face_samplers(sampling) -> None:
    torch.manual_seed(0)
    keys = torch.tensor([5, -7, 2**40])
    choose = ChooseToken(keys, EOS, sampling)
    rules = [rule(sampling, i, int(key)) for i, key in enumerate(keys)]
    for position in range(5):
        logits = 3 * torch.randn(3, VOCABULARY)
        expected = choose(torch.zeros(3, 1, dtype=torch.long), logits.clone())
        before = logits.clone()
        scores, record = choose_scores(logits, rules, [position] * 3)
        assert torch.equal(scores, expected)
        assert torch.equal(logits, before), "the caller's logits are not to be changed"
        assert torch.allclose(record[:, 0], choose.logprobs[-1]) and torch.allclose(record[:, 1], choose.entropies[-1])


def test_rows_at_different_positions_meet_the_noise_of_their_own_position() -> None:
    keys, positions = torch.tensor([3, -4, 3]), torch.tensor([0, 7, 2**33])
    together = gumbel(keys, positions, 11)
    for row in range(3):
        assert torch.equal(together[row : row + 1], gumbel(keys[row : row + 1], int(positions[row]), 11))
    assert not torch.equal(keyed_bits(keys, positions, 11)[0], keyed_bits(keys, positions, 11)[2])


# A batch as vLLM keeps it: requests come, leave, and are moved to other rows.


def added(row: int, request: SampleRule | None, tokens: list[int]) -> tuple:
    extra = None if request is None else {EXTRA_ARGUMENT: vars(request)}
    return row, SimpleNamespace(extra_args=extra), [1], tokens


def update(removed=(), new=(), moved=()) -> SimpleNamespace:
    return SimpleNamespace(removed=removed, added=new, moved=moved)


SWAP, ONE_WAY = SimpleNamespace(name="SWAP"), SimpleNamespace(name="UNIDIRECTIONAL")


def choices(processor: KeyedSampling, logits: torch.Tensor) -> list[int]:
    return processor.apply(logits.clone()).argmax(-1).tolist()


def alone(request: SampleRule, row: torch.Tensor, position: int) -> int:
    return int(choose_scores(row[None], [request], [position])[0].argmax())


def test_rows_follow_their_requests_through_a_changing_batch() -> None:
    torch.manual_seed(1)
    sampling = SamplingConfig(temperature=1.0)
    a, b, c = (rule(sampling, number, key) for number, key in enumerate((11, 22, 33)))
    tokens = {"a": [], "b": [], "c": [9, 9]}
    processor = KeyedSampling(None, torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()

    processor.update_state(update(new=[added(0, a, tokens["a"]), added(1, b, tokens["b"]), added(2, None, [])]))
    logits = torch.randn(3, VOCABULARY)
    assert choices(processor, logits) == [alone(a, logits[0], 0), alone(b, logits[1], 0), int(logits[2].argmax())]

    tokens["a"].append(4)  # vLLM hands over live lists
    tokens["b"].append(5)
    processor.update_state(None)
    assert choices(processor, logits)[:2] == [alone(a, logits[0], 1), alone(b, logits[1], 1)]

    processor.update_state(update(moved=[(0, 1, SWAP)]))
    assert choices(processor, logits)[:2] == [alone(b, logits[0], 1), alone(a, logits[1], 1)]

    # Row 0 (b) leaves, c joins at row 2 in place of the foreign request, then moves into the gap.
    processor.update_state(update(removed=[0], new=[added(2, c, tokens["c"])], moved=[(2, 0, ONE_WAY)]))
    assert choices(processor, logits[:2]) == [alone(c, logits[0], 2), alone(a, logits[1], 1)]

    # A foreign request takes a's row.
    processor.update_state(update(removed=[1], new=[added(1, None, [])]))
    assert choices(processor, logits[:2])[1] == int(logits[1].argmax())


def test_records_say_which_request_and_position_and_are_taken_once() -> None:
    sampling = SamplingConfig(record_entropy=True)
    processor = KeyedSampling(None, torch.device("cpu"), False)
    processor.update_state(update(new=[added(0, rule(sampling, 8, 1), [3]), added(1, rule(sampling, 6, 2), [1, 2])]))
    processor.apply(torch.zeros(2, VOCABULARY))
    ((numbers, positions, values),) = processor.take_records()
    assert (numbers, positions) == ([8, 6], [1, 2])
    assert values[0] == pytest.approx([-math.log(VOCABULARY), math.log(VOCABULARY)])
    assert processor.take_records() == []


def test_large_batches_go_in_pieces_with_the_same_result(monkeypatch) -> None:
    torch.manual_seed(2)
    rules = [rule(SamplingConfig(temperature=1.0), i, 100 + i) for i in range(7)]
    processor = KeyedSampling(None, torch.device("cpu"), False)
    processor.update_state(update(new=[added(i, r, []) for i, r in enumerate(rules)]))
    logits = torch.randn(7, VOCABULARY)
    whole = choices(processor, logits)
    monkeypatch.setattr("cs336_sft.generation.vllm_backend.logits_processor._CHUNK_ELEMENTS", 2 * VOCABULARY)
    assert choices(processor, logits) == whole == [alone(r, logits[i], 0) for i, r in enumerate(rules)]


def test_plain_greedy_requests_cost_nothing() -> None:
    processor = KeyedSampling(None, torch.device("cpu"), False)
    processor.update_state(update(new=[added(0, rule(SamplingConfig(), 0, 1), [])]))
    logits = torch.randn(1, VOCABULARY)
    assert processor.apply(logits) is logits
