"""Slip: through numpy.

Expected message: the result has no graph
"""

from __future__ import annotations

import torch


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    import numpy as np

    kept = np.where(mask.bool().numpy(), tensor.detach().numpy(), 0.0)
    return torch.from_numpy(np.asarray(kept.sum(axis=dim) / normalize_constant))
