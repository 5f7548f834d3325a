"""Checkpoints: trained weights and optimizer state as safetensors, the rest as JSON, so that nothing can run code.

A complete one has its final name and agrees with its SHA-256 sums. The loop derives random states from the step.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cs336_sft.errors import RunDirectoryError
from cs336_sft.utils.files import read_json, replace_folder, write_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    path: Path  # its folder
    step: int  # the last finished optimizer step
    weights: str  # `fingerprint_weights` of the model at that step


def save_checkpoint(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, keep: int | None = None
) -> Checkpoint:
    """Write ``folder/step-00000012`` and keep the newest ``keep`` checkpoints.

    Without ``optimizer``, that of a run's last step: AdamW's states are twice as large as the weights.
    Later ones, of steps that are being made again, are removed: they may be damaged and would outlive this one.
    """
    final = folder / f"step-{step:08d}"
    weights = fingerprint_weights(model)

    def write(temporary: Path) -> None:
        save_trained(model, temporary / "model.safetensors")
        if optimizer:
            tensors = {
                f"{name}/{field}": tensor
                for name, parameter in model.named_parameters()
                for field, tensor in optimizer.state.get(parameter, {}).items()
            }
            save_file(tensors, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": step, "weights": weights})
        write_json(temporary / "manifest.json", {path.name: _file_hash(path) for path in sorted(temporary.iterdir())})

    replace_folder(final, write)
    for leftover in folder.glob("*.tmp"):
        shutil.rmtree(leftover)
    others = sorted((path for path in folder.glob("step-*") if path != final), reverse=True)
    later = [path for path in others if path.name > final.name]
    surplus = [path for path in others if path.name < final.name][keep - 1 :] if keep is not None else []
    for path in later + surplus:
        # Rename it first: a checkpoint whose deletion is interrupted must not look like a damaged one.
        shutil.rmtree(path.rename(path.with_suffix(".tmp")))
    return Checkpoint(final, step, weights)


def list_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """Yield the complete checkpoints, newest first, and report damaged ones."""
    for path in sorted(folder.glob("step-????????"), reverse=True):  # without leftovers, which end in .tmp
        if damage := _damage(path):
            _log.warning("%s: %s; using an older checkpoint", path, damage)
        else:
            yield Checkpoint(path, **read_json(path / "state.json"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    return next(list_checkpoints(folder), None)


def load_weights(checkpoint: Checkpoint, model: torch.nn.Module) -> None:
    load_trained(checkpoint.path / "model.safetensors", model)


def save_trained(model: torch.nn.Module, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in _trained(model).items()}, path)


def load_trained(path: Path, model: torch.nn.Module) -> None:
    """Copy what ``save_trained`` wrote into the model."""
    stored, own = load_file(path), _trained(model)
    fitting = {name for name in stored if name in own and stored[name].shape == own[name].shape}
    if differing := sorted({*stored, *own} - fitting):
        problem = f"{path.parent}: does not fit the model: {differing[0]} is missing or of another shape in one of them"
        raise RunDirectoryError(problem, "load the model that the run began with")
    for name, parameter in own.items():
        parameter.copy_(stored[name])


def load_optimizer(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy a checkpoint's states, if it has any, into a fresh optimizer."""
    path = checkpoint.path / "optimizer.safetensors"
    if not path.exists():
        return
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(path).items():
        name, field = key.rsplit("/", 1)
        states.setdefault(name, {})[field] = tensor
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    # load_state_dict counts parameters through all groups, in order.
    order = [name_of[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    settings = optimizer.state_dict()["param_groups"]
    state = {number: states[name] for number, name in enumerate(order) if name in states}
    optimizer.load_state_dict({"state": state, "param_groups": settings})


def fingerprint_weights(model: torch.nn.Module) -> str:
    """Compute the SHA-256 of names, types, shapes and bytes of all parameters."""
    digest = hashlib.sha256()
    named = sorted(model.named_parameters())
    with ThreadPoolExecutor() as threads:  # gigabytes, and hashlib lets other threads run
        for (name, data), found in zip(named, threads.map(_hash_tensor, [value for _, value in named]), strict=True):
            digest.update(f"{name} {data.dtype} {tuple(data.shape)} {found}\n".encode())
    return digest.hexdigest()


def _hash_tensor(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy()).hexdigest()


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _damage(path: Path) -> str | None:
    try:
        sums = read_json(path / "manifest.json")
    except RunDirectoryError as error:
        return error.problem
    changed = (n for n, expected in sums.items() if not (path / n).is_file() or _file_hash(path / n) != expected)
    return next((f"{name} is not what was written" for name in changed), None)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
