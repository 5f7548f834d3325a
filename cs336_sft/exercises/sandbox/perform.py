"""One call of a function on one case, and everything about it that a check may look at.

The same code runs for the learner's function (in its own process) and for the reference and the known slips (in the
checker's), so a value that a slip gives can be recognised.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cs336_sft.exercises.sandbox.objects import TinyLM, materialize
from cs336_sft.exercises.sandbox.wire import WireError, decode, encode


@dataclass(frozen=True)
class Case:
    """One call that a check makes.

    Attributes:
        args, kwargs: the arguments; descriptions in them become live objects.
        label: the case in words.
        why: what a failure on this case means where no known slip explains it.
        backward: call ``backward`` on the result (``""``) or on one entry of it (its key); None: don't.
        measure: watch the sizes of the tensors that the call makes.
        options: anything the check's own view wants to know about the case.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    why: str = ""
    backward: str | None = None
    measure: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Crash:
    """An exception in the learner's code.

    Attributes:
        kind: its class's name.
        text: its message, shortened.
        line: number of the learner's line it came through last, or None.
        code: that line.
    """

    kind: str
    text: str
    line: int | None = None
    code: str = ""


@dataclass(frozen=True)
class Observation:
    """What a call did.

    Attributes:
        value: what it returned.
        grads: gradients of the tensor arguments that have ``requires_grad`` and of the models' weights, after it.
        weights: the models' weights after it.
        changed: indices of arguments whose tensors it changed.
        no_graph: a backward was asked for, and the value had no graph to go back through.
        measured: ``largest`` tensor made and ``kept`` for the backward, in elements.
        crash: what it raised instead.
    """

    value: Any = None
    grads: tuple[Any, ...] = ()
    weights: tuple[Any, ...] = ()
    changed: tuple[int, ...] = ()
    no_graph: bool = False
    measured: dict[str, int] = field(default_factory=dict)
    crash: Crash | None = None


class _Meter(TorchDispatchMode):
    """Sees every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, torch.Tensor):
                # A view of a smaller tensor that is merely expanded takes no memory.
                self.largest = max(self.largest, item.untyped_storage().nbytes() // item.element_size())
        return result


def request_of(case: Case) -> bytes:
    """The case as a frame."""
    return encode({"args": list(case.args), "kwargs": case.kwargs, "backward": case.backward, "measure": case.measure})


def perform(function: Callable[..., Any], request: bytes, *, file: str | None = None) -> Observation:
    """Call ``function`` on the case of ``request`` with fresh arguments; exceptions are observations too.

    >>> perform(lambda a, b: a / b, request_of(Case((1, 0)))).crash.kind
    'ZeroDivisionError'
    """
    asked = decode(request)
    args, kwargs = materialize(asked["args"]), materialize(asked["kwargs"])
    before = [[tensor.detach().clone() for tensor in _tensors(arg)] for arg in args]
    torch.manual_seed(0)
    measured: dict[str, int] = {}
    no_graph = False
    try:
        if asked["measure"]:
            value, measured = _metered(function, args, kwargs)
        else:
            value = function(*args, **kwargs)
        if asked["backward"] is not None:
            no_graph = not _go_back(value[asked["backward"]] if asked["backward"] else value)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit too: the learner's sys.exit must not end the check
        return Observation(crash=crash_of(error, file))
    changed = []
    for index, (arg, old) in enumerate(zip(args, before, strict=True)):
        now = list(_tensors(arg))
        if len(now) != len(old) or any(not _identical(a.detach(), b) for a, b in zip(now, old, strict=True)):
            changed.append(index)
    every = [*args, *kwargs.values()]
    return Observation(
        value=value,
        grads=tuple(
            leaf.grad for arg in every for leaf in _tensors(arg, models=True) if leaf.requires_grad and leaf.is_leaf
        ),
        weights=tuple(p for arg in every if isinstance(arg, TinyLM) for p in arg.parameters()),
        changed=tuple(changed),
        no_graph=no_graph,
        measured=measured,
    )


def _metered(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, int]]:
    inputs = {tensor.untyped_storage().data_ptr() for arg in args for tensor in _tensors(arg)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in inputs:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _Meter() as meter:
        value = function(*args, **kwargs)
    return value, {"largest": meter.largest, "kept": sum(kept.values())}


def _go_back(value: Any) -> bool:
    """Backward from ``value`` with a different weight for each element; False if there is no graph."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return False
    cotangent = (torch.arange(value.numel()) % 7 + 1).reshape(value.shape).to(value.dtype)
    value.backward(cotangent)
    return True


def _tensors(value: Any, *, models: bool = False) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, TinyLM) and models:
        yield from value.parameters()
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item, models=models)


def _identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def crash_of(error: BaseException, file: str | None) -> Crash:
    """An exception as the learner should see it: their line, not ours."""
    line, code = None, ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == file:
            line, code = frame.lineno, (frame.line or "").strip()
    if isinstance(error, SyntaxError) and error.filename == file:
        line, code = error.lineno, (error.text or "").strip()
    try:
        text = str(error)
    except Exception:  # their own exception class, with a broken __str__
        text = "(its message can't be shown)"
    return Crash(type(error).__name__, text[:500], line, code[:200])


def observation_to_wire(seen: Observation) -> bytes:
    """An observation as a frame; a value that fits in none becomes a crash that says so."""
    parts = {name: getattr(seen, name) for name in ("value", "grads", "weights", "changed", "no_graph", "measured")}
    crash = seen.crash
    if crash is None:
        try:
            return encode({**parts, "crash": None})
        except (WireError, RuntimeError) as error:
            crash = Crash("ValueError", f"the result can't be read: {error}")
    return encode({"crash": [crash.kind, crash.text, crash.line, crash.code]})


def observation_from_wire(frame: bytes) -> Observation:
    """The observation of a frame.

    Raises:
        WireError: it is none.
    """
    parts = decode(frame)
    try:
        crash = parts.pop("crash")
        return Observation(crash=Crash(*crash)) if crash else Observation(**parts)
    except (AttributeError, KeyError, TypeError) as error:
        raise WireError("not an observation") from error
