"""Evaluation mode for a while, with every module's own mode restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Put a model into evaluation mode, and restore each module's mode on leaving.

    >>> with evaluation_mode(torch.nn.Dropout()) as model:
    ...     model.training
    False
    """
    # `model.train(model.training)` would switch parts that were frozen in evaluation mode to training.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model
    finally:
        for module in training:
            module.training = True
