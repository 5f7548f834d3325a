from __future__ import annotations

import logging
import pickle

import pytest
import torch

from cs336_sft.errors import RunDirectoryError
from cs336_sft.training import checkpoints
from cs336_sft.training.checkpoints import (
    fingerprint_weights,
    list_checkpoints,
    load_optimizer,
    load_weights,
    newest_checkpoint,
    save_checkpoint,
)


def make(seed=0, frozen=False):
    """A network with a shared weight, as language models have, and one matrix that may be frozen."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(not frozen)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    return model, optimizer


def steps(model, optimizer, n, first=0):
    for step in range(first, first + n):
        torch.manual_seed(100 + step)
        model(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("frozen", [False, True])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(tmp_path, frozen):
    model, optimizer = make(frozen=frozen)
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path, 3, model, optimizer)
    steps(model, optimizer, 4, first=3)

    resumed, fresh = make(frozen=frozen)  # the frozen weights are those the run began with
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint.step == 3
    load_weights(checkpoint, resumed)
    assert fingerprint_weights(resumed) == checkpoint.weights
    load_optimizer(checkpoint, resumed, fresh)
    steps(resumed, fresh, 4, first=3)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_lost_optimizer_state_would_be_noticed(tmp_path):
    """The test above can fail: without the states the fourth step is another one."""
    model, optimizer = make()
    steps(model, optimizer, 3)
    checkpoint = save_checkpoint(tmp_path, 3, model, optimizer)
    steps(model, optimizer, 1, first=3)
    resumed, fresh = make()
    load_weights(checkpoint, resumed)
    steps(resumed, fresh, 1, first=3)
    assert fingerprint_weights(resumed) != fingerprint_weights(model)


def test_frozen_parameters_are_not_stored(tmp_path):
    from safetensors.torch import load_file

    model, optimizer = make(frozen=True)
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer)
    assert "2.weight" not in load_file(checkpoint.path / "model.safetensors")
    assert "2.bias" in load_file(checkpoint.path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, name, damage):
    model, optimizer = make()
    save_checkpoint(tmp_path, 1, model, optimizer)
    steps(model, optimizer, 1)
    path = save_checkpoint(tmp_path, 2, model, optimizer).path / name
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path).step == 1
    assert "step-00000002" in caplog.text and name in caplog.text


@pytest.mark.parametrize("manifest", [None, "", "[1]", "{"])
def test_a_checkpoint_without_a_good_manifest_is_passed_over(tmp_path, manifest):
    path = save_checkpoint(tmp_path, 1, *make()).path / "manifest.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    assert newest_checkpoint(tmp_path) is None


def test_a_write_that_dies_half_way_leaves_the_older_checkpoint_and_no_harm(tmp_path, monkeypatch):
    model, optimizer = make()
    save_checkpoint(tmp_path, 1, model, optimizer)
    real = checkpoints.write_json

    def die(path, value):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        real(path, value)

    monkeypatch.setattr(checkpoints, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, model, optimizer)
    assert [c.step for c in list_checkpoints(tmp_path)] == [1]
    monkeypatch.undo()
    save_checkpoint(tmp_path, 2, model, optimizer, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    model, optimizer = make()
    (save_checkpoint(tmp_path, 2, model, optimizer).path / "manifest.json").unlink()
    save_checkpoint(tmp_path, 2, model, optimizer)
    assert newest_checkpoint(tmp_path).step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_damaged_newer_checkpoint_does_not_displace_the_one_just_written(tmp_path):
    """Step 12 was damaged, so the run goes on from step 8; with keep=1 step 9 is what stays."""
    model, optimizer = make()
    save_checkpoint(tmp_path, 8, model, optimizer)
    (save_checkpoint(tmp_path, 12, model, optimizer).path / "manifest.json").unlink()
    save_checkpoint(tmp_path, 9, model, optimizer, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]
    assert newest_checkpoint(tmp_path).step == 9


def test_another_model_is_refused(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 1, *make())
    with pytest.raises(RunDirectoryError, match=r"2\.bias"):
        load_weights(checkpoint, torch.nn.Sequential(*make()[0][:2], torch.nn.Linear(4, 3)))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    model, optimizer = make()
    steps(model, optimizer, 1)
    checkpoint = save_checkpoint(tmp_path, 1, model, optimizer)

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    load_weights(checkpoint, model)
    load_optimizer(checkpoint, model, optimizer)
    assert {path.suffix for path in checkpoint.path.iterdir()} == {".safetensors", ".json"}


def test_fingerprint_sees_bytes_names_types_and_shapes():
    model = make()[0]
    before = fingerprint_weights(model)
    with torch.no_grad():
        model[2].bias[1] = torch.nextafter(model[2].bias[1], torch.tensor(9.0))
    assert fingerprint_weights(model) != before
    assert fingerprint_weights(make()[0].bfloat16()) != fingerprint_weights(make()[0])
    assert fingerprint_weights(make()[0]) == before
