"""Values to JSON and back: how results leave the process with the learner's code. Reading them runs no code.

Nothing here imports PyTorch. Most exercises do; where none did, there are no tensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cs336_sft.data.token_lengths import LengthTable
from cs336_sft.evaluation.metrics import Metrics
from cs336_sft.records import Example, Generation, Graded, Problem

MAX_RESULT = 2**19  # bytes of one result
MAX_ELEMENTS = 2**14  # of one tensor


def loaded_torch() -> Any:
    """Return PyTorch, or None if nothing has imported it."""
    return sys.modules.get("torch")


@dataclass(frozen=True)
class Opaque:
    """The place of a value that can't be written: only its kind is known."""

    kind: str


RECORDS = {cls.__name__: cls for cls in (Problem, Generation, Graded, Example, LengthTable, Metrics, Opaque)}


def encode(value: Any) -> str:
    """Write a value as one line of JSON.

    Tensors, containers and the course's records keep their types; anything else becomes an ``Opaque``.

    Raises:
        ValueError: it is too large or too deeply nested.

    >>> import torch
    >>> decode(encode({"loss": torch.tensor(0.5), "n": (1, None), "odd": object()}))
    {'loss': tensor(0.5000), 'n': (1, None), 'odd': Opaque(kind='object')}
    """
    try:
        text = json.dumps(_tree(value))
    except RecursionError as error:
        raise ValueError("the value is too large or too deeply nested") from error
    if len(text) > MAX_RESULT:
        raise ValueError(f"the value takes {len(text)} characters")
    return text


def _tree(item: Any) -> Any:
    if item is None or type(item) in (bool, float, str) or (type(item) is int and abs(item) < 2**63):
        return item
    if isinstance(item, np.generic):
        return _tree(item.item())
    torch = loaded_torch()
    if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
        item = torch.from_numpy(item.copy()) if torch else item.tolist()
    if torch and type(item) in (torch.Tensor, torch.nn.Parameter):  # a learner's own subclass runs the learner's code
        if item.layout is not torch.strided or item.is_complex() or item.numel() > MAX_ELEMENTS:
            return {"record": ["Opaque", {"kind": f"tensor of shape {list(item.shape)}"}]}
        return {"tensor": [str(item.dtype), list(item.shape), item.detach().flatten().tolist()]}
    if isinstance(item, list):
        return [_tree(part) for part in item]
    if isinstance(item, tuple):
        return {"tuple": [_tree(part) for part in item]}
    if isinstance(item, Mapping):
        return {"dict": [[_tree(key), _tree(part)] for key, part in item.items()]}
    if type(item) in RECORDS.values():
        return {"record": [type(item).__name__, {f.name: _tree(getattr(item, f.name)) for f in fields(item)}]}
    return {"record": ["Opaque", {"kind": type(item).__name__}]}


def decode(text: str | bytes) -> Any:
    """Read what ``encode`` wrote.

    Raises:
        ValueError: the text is something else.
    """
    try:
        return _value(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"no value that encode wrote: {type(error).__name__}") from error


def _value(node: Any) -> Any:
    if isinstance(node, list):
        return [_value(part) for part in node]
    if not isinstance(node, dict):
        return node
    ((tag, content),) = node.items()
    if tag == "tuple":
        return tuple(_value(part) for part in content)
    if tag == "dict":
        return {_value(key): _value(part) for key, part in content}
    if tag == "tensor":
        import torch  # the learner's code did

        dtype, shape, elements = content
        return torch.tensor(elements, dtype=getattr(torch, dtype.removeprefix("torch."))).reshape(shape)
    name, parts = content if tag == "record" else (tag, {})
    return RECORDS[name](**{key: _value(part) for key, part in parts.items()})
