"""The weights of a run's best evaluation, on disk so that a resumed run knows them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cs336_sft.training import checkpoints
from cs336_sft.utils.files import JSONDict, read_json, write_json


class BestWeights:
    """Keeps the trained weights of the best evaluation so far.

    ``best.json`` names their file: it is replaced when that is complete, and only then is the older one removed.
    """

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        self.folder, self.model = folder, model

    def offer(self, step: int, value: float) -> None:
        """Keep the present weights if they are better, or as good and no later."""
        kept = self.read()
        # After a crash steps are repeated: what was kept for a later step must not win a tie.
        if kept is not None and (value, -step) < (kept["value"], -kept["step"]):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = self.folder / f"step-{step:08d}.safetensors"
        temporary = weights.with_suffix(".tmp")
        checkpoints.save_trained(self.model, temporary)
        os.replace(temporary, weights)
        write_json(self.folder / "best.json", {"step": step, "value": value, "weights": weights.name})
        for other in self.folder.glob("step-*"):
            if other != weights:
                other.unlink()

    def read(self) -> JSONDict | None:
        """Return the step and value of what is kept, or None."""
        path = self.folder / "best.json"
        return read_json(path) if path.exists() else None

    def load(self) -> int:
        """Put the kept weights into the model and return their step."""
        kept = self.read()
        checkpoints.load_trained(self.folder / kept["weights"], self.model)
        return kept["step"]
