"""Checkpoints: trained weights and optimizer state, safe to read and whole or not there at all.

Tensors are stored as safetensors and the rest as JSON, so that nothing in a checkpoint can run code. A checkpoint is
written under a temporary name, with a manifest of SHA-256 sums last, and then renamed: one that has its final name and
agrees with its manifest is complete. Random states are not needed, because the loop derives them from the step.

Only the parameters that are trained are stored; the frozen ones of a LoRA run are those it began with.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cs336_sft.errors import RunDirectoryError
from cs336_sft.utils.files import read_json, unwritten, write_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its folder.
        step: the last finished optimizer step.
        weights: ``fingerprint_weights`` of the model at that step.
    """

    path: Path
    step: int
    weights: str


def save_checkpoint(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, keep: int | None = None
) -> Checkpoint:
    """Write ``folder/step-00000012`` and drop all but the newest ``keep`` checkpoints.

    >>> import tempfile
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> folder = Path(tempfile.mkdtemp())
    >>> for step in (4, 8, 12):
    ...     saved = save_checkpoint(folder, step, model, optimizer, keep=2)
    >>> [checkpoint.step for checkpoint in list_checkpoints(folder)]
    [12, 8]
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    weights = fingerprint_weights(model)

    def write(temporary: Path) -> None:
        save_trained(model, temporary / "model.safetensors")
        save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": step, "weights": weights})
        write_json(temporary / "manifest.json", {path.name: _file_hash(path) for path in sorted(temporary.iterdir())})

    replace_folder(final, write)
    if keep is not None:
        for leftover in folder.glob("*.tmp"):
            shutil.rmtree(leftover)
        for path in sorted(folder.glob("step-*"), reverse=True)[keep:]:
            # Renamed first: a checkpoint whose deletion is cut short must not look like a damaged one.
            shutil.rmtree(path.rename(path.with_suffix(".tmp")))
    return Checkpoint(final, step, weights)


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder, and put that in the place of ``path`` once it is on the disk.

    Raises:
        RunDirectoryError: it could not be written, for want of space for example; ``path`` is as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "final"
    >>> replace_folder(path, lambda folder: write_json(folder / "config.json", {}))
    >>> [item.name for item in path.parent.iterdir()], [item.name for item in path.iterdir()]
    (['final'], ['config.json'])
    """
    temporary, old = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old.tmp")
    for leftover in (temporary, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir()
    try:
        write(temporary)
        for file in temporary.iterdir():
            _sync(file)
    except (OSError, SafetensorError, RunDirectoryError) as error:
        # Half a checkpoint would keep a full disk full.
        shutil.rmtree(temporary, ignore_errors=True)
        told = isinstance(error, RunDirectoryError) and isinstance(error.__cause__, OSError)  # of a file in it
        raise unwritten(path, error.__cause__ if told else error) from error
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    _sync(path.parent)
    if old.exists():
        shutil.rmtree(old)


def list_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """The complete checkpoints, newest first, each verified when its turn comes. Damaged ones are reported and skipped.

    >>> list(list_checkpoints(Path("no-such-folder")))
    []
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if path.suffix == ".tmp":
            continue
        if damage := _damage(path):
            _log.warning("%s: %s; using an older checkpoint", path, damage)
            continue
        state = read_json(path / "state.json")
        yield Checkpoint(path, state["step"], state["weights"])


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None."""
    return next(list_checkpoints(folder), None)


def load_weights(checkpoint: Checkpoint, model: torch.nn.Module) -> None:
    """Put a checkpoint's weights into the model, in place.

    Raises:
        RunDirectoryError: the model's trained parameters have other names or shapes.
    """
    load_trained(checkpoint.path / "model.safetensors", model)


def save_trained(model: torch.nn.Module, path: Path) -> None:
    """Write the parameters that are trained."""
    save_file({name: tensor.contiguous() for name, tensor in _trained(model).items()}, path)


def load_trained(path: Path, model: torch.nn.Module) -> None:
    """Put what ``save_trained`` wrote into the model, in place.

    Raises:
        RunDirectoryError: the model's trained parameters have other names or shapes.
    """
    stored, own = load_file(path), _trained(model)
    if differing := sorted(
        {*stored, *own} - {name for name in stored if name in own and stored[name].shape == own[name].shape}
    ):
        raise RunDirectoryError(
            f"{path.parent}: does not fit the model: {differing[0]} is missing or of another shape in one of them",
            "load the model that the run began with",
        )
    for name, parameter in own.items():
        parameter.copy_(stored[name])


def load_optimizer(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's optimizer state into a fresh optimizer over the same parameters; its settings stay."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(checkpoint.path / "optimizer.safetensors").items():
        name, field = key.rsplit("/", 1)
        states.setdefault(name, {})[field] = tensor
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    # load_state_dict counts parameters through all groups, in order.
    order = [name_of[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    settings = optimizer.state_dict()["param_groups"]
    state = {number: states[name] for number, name in enumerate(order) if name in states}
    optimizer.load_state_dict({"state": state, "param_groups": settings})


def fingerprint_weights(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters, shared ones once.

    >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    >>> same = b.load_state_dict(a.state_dict())
    >>> fingerprint_weights(a) == fingerprint_weights(b)
    True
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        data = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters by name, sharing memory with the model."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{field}": tensor
        for name, parameter in model.named_parameters()
        for field, tensor in optimizer.state.get(parameter, {}).items()
    }


def _damage(path: Path) -> str | None:
    manifest = path / "manifest.json"
    if not manifest.exists():
        return "no manifest.json"
    try:
        sums = read_json(manifest)
    except RunDirectoryError as error:
        return error.problem
    for name, expected in sums.items():
        if not (path / name).is_file() or _file_hash(path / name) != expected:
            return f"{name} is not what was written"
    return None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # folders can't be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
