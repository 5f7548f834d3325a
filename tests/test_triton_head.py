"""The Triton kernel without a GPU: its numbers through the interpreter, and when it is used at all."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cs336_sft.model import chunked_head, triton_head
from cs336_sft.model.triton_head import LARGE, SMALL, tiles_for

H100, H100_MEMORY = (9, 0), 232_448


@pytest.mark.skipif(triton_head.triton is None, reason="needs the package triton (Linux), not an old one")
def test_the_kernels_numbers_on_the_cpu() -> None:
    script = Path(__file__).with_name("triton_interpreter.py")
    paths = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])  # if not installed
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "right\n", done.stderr


def test_with_an_older_triton_everything_is_there_but_the_kernel() -> None:
    """The Triton that comes with torch 2.6 has no tensor descriptors."""
    hidden = "import sys; sys.modules['triton.tools.tensor_descriptor'] = None"
    script = f"{hidden}; from cs336_sft import get_response_log_probs; from cs336_sft.model import triton_head as t"
    done = subprocess.run([sys.executable, "-c", f"{script}; print(t.triton)"], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr


@pytest.mark.parametrize(
    ("capability", "memory", "tiles"),
    [
        ((7, 5), 65_536, None),  # no bfloat16
        ((8, 0), 166_912, SMALL),  # A100
        ((8, 6), 101_376, SMALL),  # A40, RTX 30xx
        ((8, 9), 101_376, SMALL),  # L40S, RTX 40xx
        (H100, H100_MEMORY, LARGE),
        ((10, 0), 232_448, LARGE),  # B200
        ((12, 0), 101_376, SMALL),  # RTX 50xx
    ],
)
def test_tiles_by_what_the_card_has(capability, memory, tiles) -> None:
    assert tiles_for(capability, memory) == tiles
    assert tiles is None or tiles is SMALL or tiles.shared_memory <= memory


@pytest.mark.parametrize(("tiles", "compiled"), [(LARGE, 180_760), (SMALL, 115_224)])
def test_the_bound_of_shared_memory_covers_what_was_compiled(tiles, compiled) -> None:
    assert compiled <= tiles.shared_memory < 1.01 * compiled


@pytest.fixture
def pretended_h100(monkeypatch):
    """Operands and a driver that claim to be on an H100; the trial is replaced by the test."""
    properties = SimpleNamespace(shared_memory_per_block_optin=H100_MEMORY)
    monkeypatch.setattr(triton_head, "triton", object())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: H100)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: __import__("contextlib").nullcontext())
    triton_head._tried_tiles.cache_clear()
    yield SimpleNamespace(
        is_cuda=True,
        dtype=torch.bfloat16,
        shape=(4, 64),
        device=torch.device("cuda", 0),
        is_contiguous=lambda: True,
        __len__=lambda: 4,
    )
    triton_head._tried_tiles.cache_clear()


class Operand(SimpleNamespace):
    def __len__(self) -> int:
        return 4


def test_it_is_tried_once_a_device_and_then_used(pretended_h100, monkeypatch) -> None:
    trials = []
    monkeypatch.setattr(triton_head, "_try_out", lambda *arguments: trials.append(arguments))
    operand = Operand(**vars(pretended_h100))
    assert triton_head.usable_tiles(operand, operand) is LARGE
    assert triton_head.usable_tiles(operand, operand) is LARGE
    assert trials == [(torch.device("cuda", 0), 64, LARGE)]
    monkeypatch.setenv("CS336_TRITON", "0")
    assert triton_head.usable_tiles(operand, operand) is None


def test_a_failed_trial_is_logged_once_and_falls_back(pretended_h100, monkeypatch, caplog) -> None:
    def fail(*arguments):
        raise ValueError("out of resource: shared memory\nand more")

    monkeypatch.setattr(triton_head, "_try_out", fail)
    operand = Operand(**vars(pretended_h100))
    with caplog.at_level(logging.WARNING):
        assert triton_head.usable_tiles(operand, operand) is None
        assert triton_head.usable_tiles(operand, operand) is None
    assert len(caplog.records) == 1
    assert "a card (out of resource: shared memory): the chunked head is used" in caplog.text


def test_a_full_card_during_the_trial_is_no_verdict(pretended_h100, monkeypatch) -> None:
    def full(*arguments):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(triton_head, "_try_out", full)
    operand = Operand(**vars(pretended_h100))
    with pytest.raises(torch.OutOfMemoryError):
        triton_head.usable_tiles(operand, operand)
    monkeypatch.setattr(triton_head, "_try_out", lambda *arguments: None)
    assert triton_head.usable_tiles(operand, operand) is LARGE


@pytest.mark.parametrize("wrong", [{"dtype": torch.float32}, {"shape": (4, 65)}, {"is_contiguous": lambda: False}])
def test_operands_that_the_kernel_does_not_take(pretended_h100, monkeypatch, wrong) -> None:
    monkeypatch.setattr(triton_head, "_try_out", lambda *arguments: None)
    operand = Operand(**vars(pretended_h100))
    assert triton_head.usable_tiles(Operand(**vars(pretended_h100) | wrong), operand) is None


def test_a_trial_that_finds_wrong_numbers_fails(monkeypatch) -> None:
    zeros = torch.zeros(16)
    monkeypatch.setattr(triton_head, "one_pass", lambda *_, **__: (zeros, zeros, None, None))
    with pytest.raises(RuntimeError, match="off by"):
        triton_head._try_out(torch.device("cpu"), 64, SMALL)


def test_operands_on_the_cpu_go_to_the_chunked_head() -> None:
    half = torch.zeros(64, 64, dtype=torch.bfloat16)
    assert triton_head.usable_tiles(half, half) is None


@pytest.mark.parametrize(("bias", "cap"), [(True, None), (False, 2.0)])
def test_a_head_with_bias_or_cap_goes_to_the_chunked_head(monkeypatch, bias, cap) -> None:
    monkeypatch.setattr(triton_head, "usable_tiles", lambda *operands: pytest.fail("the kernel knows neither"))
    head = chunked_head.OutputHead(torch.nn.Linear(4, 9, bias=bias), 1.0, cap)
    chunked_head.head_log_probs(torch.zeros(2, 4), head, torch.tensor([0, 1]))
