"""One call of a function on one case, and everything about it that a check may look at.

The same code runs for the learner's function (in its own process) and for the reference and the known slips (in the
checker's), so a value that a slip gives can be recognised.
"""

from __future__ import annotations

import copy
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cs336_sft.exercises.sandbox.values import decode, encode, loaded_torch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Case:
    """One call that a check makes."""

    args: tuple[Any, ...]  # every call gets copies
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""  # the case in words
    why: str = ""  # what a failure on this case means where no known slip explains it
    backward: str | int | None = None  # call backward on the result ("") or an entry (its key or index); None: don't
    measure: bool = False  # watch the sizes of the tensors that the call makes
    tolerance: float = 1e-4  # relative and absolute, for floating-point numbers


@dataclass(frozen=True)
class Crash:
    """An exception in the learner's code, or the end of its process."""

    kind: str  # the exception's class name; "Timeout", "Ended" or "Garbled" for a process
    text: str  # its message, shortened
    line: int | None = None  # the learner's line that it came through last
    code: str = ""  # that line's text


@dataclass(frozen=True)
class Observation:
    """What a call did."""

    value: Any = None  # what it returned
    grads: tuple[Any, ...] = ()  # of the tensor arguments that require one, and of the models' weights
    weights: tuple[Any, ...] = ()  # the models' weights after it
    changed: tuple[int, ...] = ()  # indices of the arguments whose values it changed
    no_graph: bool = False  # a backward was asked for, and the value had no graph to go back through
    with_graph: tuple[str, ...] = ()  # keys of the tensors in the returned dict that have a graph
    measured: dict[str, int] = field(default_factory=dict)  # elements of the "largest" tensor; of those "kept"
    crash: Crash | None = None  # what it raised instead


def perform(function: Callable[..., Any], case: Case, *, file: str | None = None) -> Observation:
    """Call a function on copies of a case's arguments, and observe the call.

    An exception is an observation too.

    >>> perform(lambda a, b: a / b, Case((1, 0))).crash.kind
    'ZeroDivisionError'
    """
    args, kwargs = copy.deepcopy((case.args, case.kwargs))
    if torch := loaded_torch():
        torch.manual_seed(0)
    measured: dict[str, int] = {}
    no_graph, with_graph = False, ()
    leaves = [leaf for arg in (*args, *kwargs.values()) for leaf in _tensors(arg, models=True)]  # before it runs
    try:
        if case.measure:
            value, measured = _metered(function, args, kwargs)
        else:
            value = function(*args, **kwargs)
        if isinstance(value, dict):
            with_graph = tuple(str(key) for key, item in value.items() if getattr(item, "requires_grad", False))
        if case.backward is not None:
            no_graph = not _go_back(value if case.backward == "" else value[case.backward])
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit too: the learner's sys.exit must not end the check
        return Observation(crash=crash_of(error, file))
    return Observation(
        value=value,
        grads=tuple(leaf.grad for leaf in leaves if leaf.requires_grad and leaf.is_leaf),
        weights=tuple(leaf for leaf in leaves if isinstance(leaf, torch.nn.Parameter)),
        changed=tuple(i for i, (old, new) in enumerate(zip(case.args, args, strict=True)) if not _identical(old, new)),
        no_graph=no_graph,
        with_graph=with_graph,
        measured=measured,
    )


def observe_here(function: Callable[..., Any], case: Case) -> Observation:
    """Observe one of *our* functions (a reference or a known slip) in this process."""
    return read_observation(write_observation(perform(function, case)))


def _metered(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, int]]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Meter(TorchDispatchMode):
        """Sees every tensor that an operation makes."""

        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for item in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(item, torch.Tensor):
                    # A view of a smaller tensor that is merely expanded takes no memory.
                    self.largest = max(self.largest, item.untyped_storage().nbytes() // item.element_size())
                    made.append(weakref.ref(item))
            return result

    inputs = {tensor.untyped_storage().data_ptr() for arg in args for tensor in _tensors(arg)}
    kept: dict[int, int] = {}
    made: list[weakref.ref] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in inputs:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Meter() as meter:
        value = function(*args, **kwargs)
    for tensor in [ref() for ref in made]:  # what the graph does not know of, but somebody holds
        if tensor is not None:
            pack(tensor)
    return value, {"largest": meter.largest, "kept": sum(kept.values())}


def _go_back(value: Any) -> bool:
    """Call backward with a weight for each element, or return False without a graph."""
    torch = loaded_torch()
    if torch is None or not isinstance(value, torch.Tensor) or not value.requires_grad:
        return False
    weights = (torch.arange(value.numel()) % 7 + 1).reshape(value.shape).to(value.dtype)
    (value * weights).sum().backward()
    return True


def _tensors(value: Any, *, models: bool = False) -> Iterator[torch.Tensor]:
    torch = loaded_torch()
    if torch and isinstance(value, torch.Tensor):
        yield value
    elif torch and isinstance(value, torch.nn.Module) and models:
        yield from value.parameters()
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item, models=models)


def _identical(before: Any, after: Any) -> bool:
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_identical, before, after))
    if (torch := loaded_torch()) and isinstance(before, torch.Tensor):
        same_kind = isinstance(after, torch.Tensor) and (before.shape, before.dtype) == (after.shape, after.dtype)
        return same_kind and torch.equal(torch.nan_to_num(before), torch.nan_to_num(after))
    return type(before).__eq__ is object.__eq__ or before == after


def crash_of(error: BaseException, file: str | None) -> Crash:
    """Describe an exception as the learner should see it: their line, not ours."""
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


def write_observation(seen: Observation) -> str:
    """Write an observation as a line, or a crash if its value can't be written."""
    crash = seen.crash
    if crash is None:
        try:
            return encode(vars(seen))
        except (ValueError, RuntimeError) as error:
            crash = Crash("ValueError", f"the result can't be read: {error}")
    return encode({"crash": [crash.kind, crash.text, crash.line, crash.code]})


def read_observation(text: str | bytes) -> Observation:
    """Read an observation's line.

    Raises:
        ValueError: it is none.
    """
    parts = decode(text)
    try:
        crash = parts.pop("crash")
        return Observation(crash=Crash(*crash)) if crash else Observation(**parts)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not an observation") from error
