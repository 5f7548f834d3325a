"""Values to bytes and back, without pickle: what the checker and the process with the learner's code exchange.

A frame is a JSON tree beside a safetensors block. Reading one runs no code of the sender, whatever it holds: the tree
knows numbers, strings, containers, tensors and a fixed list of records.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch

from cs336_sft.data.token_lengths import LengthTable
from cs336_sft.evaluation.metrics import Metrics
from cs336_sft.exercises.sandbox.objects import ModelSpec, Opaque, TokenizerSpec
from cs336_sft.prompts import PromptTemplate, get_template
from cs336_sft.records import Example, Generation, Graded, Problem

RECORDS = {
    cls.__name__: cls
    for cls in (Problem, Generation, Graded, Example, LengthTable, Metrics, TokenizerSpec, ModelSpec, Opaque)
}
MAX_FRAME = 64 * 2**20
MAX_DEPTH = 30
MAX_NODES = 200_000


class WireError(ValueError):
    """Bytes that are no frame, or a value too large for one."""


def encode(value: Any) -> bytes:
    """A value as a frame; what has no place in one becomes an ``Opaque`` with its type's name.

    >>> decode(encode({"loss": torch.tensor(0.5), "n": [1, None], "odd": object()}))
    {'loss': tensor(0.5000), 'n': [1, None], 'odd': Opaque(kind='object')}
    """
    tensors: dict[str, torch.Tensor] = {}
    count = 0

    def tree(item: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise WireError("the value is too large or too deeply nested")
        if item is None or type(item) in (bool, int, float, str):
            return item
        if isinstance(item, np.generic):
            return tree(item.item(), depth + 1)
        if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
            item = torch.from_numpy(item.copy())
        if isinstance(item, torch.Tensor):
            return _tensor(item, tensors)
        if isinstance(item, (list, tuple)):
            return ["list" if isinstance(item, list) else "tuple", [tree(part, depth + 1) for part in item]]
        if isinstance(item, Mapping):
            return ["dict", [[tree(k, depth + 1), tree(v, depth + 1)] for k, v in item.items()]]
        if isinstance(item, PromptTemplate):
            return ["template", item.name]
        name = type(item).__name__
        if is_dataclass(item) and not isinstance(item, type) and name in RECORDS:
            return ["record", name, {f.name: tree(getattr(item, f.name), depth + 1) for f in fields(item)}]
        return ["record", "Opaque", {"kind": name}]

    head = json.dumps(tree(value, 0)).encode()
    frame = struct.pack("<I", len(head)) + head + (safetensors.torch.save(tensors) if tensors else b"")
    if len(frame) > MAX_FRAME:
        raise WireError(f"the value takes {len(frame)} bytes")
    return frame


def _tensor(item: torch.Tensor, tensors: dict[str, torch.Tensor]) -> Any:
    if item.layout is not torch.strided or item.is_complex() or item.is_quantized or item.numel() > 2**22:
        return ["record", "Opaque", {"kind": f"tensor of shape {list(item.shape)}"}]
    key = str(len(tensors))
    tensors[key] = item.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    return ["tensor", key, bool(item.requires_grad and item.is_leaf)]


def decode(frame: bytes) -> Any:
    """The value of a frame.

    Raises:
        WireError: it is none.
    """
    try:
        (length,) = struct.unpack_from("<I", frame)
        tree = json.loads(frame[4 : 4 + length])
        rest = frame[4 + length :]
        return _build(tree, safetensors.torch.load(rest) if rest else {})
    except WireError:
        raise
    except (struct.error, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise WireError(f"not a frame: {type(error).__name__}") from error
    except Exception as error:  # safetensors' own error has no public base class
        raise WireError("not a frame: its tensors can't be read") from error


def _build(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(node, list):
        if isinstance(node, dict):
            raise WireError("a bare object")
        return node
    tag, *rest = node
    if tag in ("list", "tuple"):
        items = [_build(part, tensors) for part in rest[0]]
        return items if tag == "list" else tuple(items)
    if tag == "dict":
        return {_build(k, tensors): _build(v, tensors) for k, v in rest[0]}
    if tag == "tensor":
        tensor = tensors[rest[0]]
        return tensor.clone().requires_grad_() if rest[1] else tensor.clone()
    if tag == "template":
        return get_template(rest[0])
    if tag == "record":
        return RECORDS[rest[0]](**{name: _build(part, tensors) for name, part in rest[1].items()})
    raise WireError(f"an unknown tag {tag!r}")
