"""Runs a function on cases from small to large, finds the first that differs, and names the slip that explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cs336_sft.exercises.report import Failure, Line, line
from cs336_sft.exercises.sandbox.perform import Case, Crash, Observation
from cs336_sft.exercises.sandbox.runner import Session, observe_here

View = Callable[[Case, Observation], Any]


@dataclass(frozen=True)
class Slip:
    """A known mistake.

    Attributes:
        name: a short name.
        message: what the learner did, in terms of the task.
        function: the function with the mistake; its values are compared with the learner's. None for a slip that
            only a case's ``why`` or a special check can tell.
        hint: which hint to read.
    """

    name: str
    message: str
    function: Callable[..., Any] | None = None
    hint: int = 2


@dataclass(frozen=True)
class Misshapen:
    """What a view gives where the result is not of the promised form."""

    problem: str


def value_only(case: Case, seen: Observation) -> Any:
    """The view of a function whose result is all that counts."""
    return seen.value


def value_and_grads(case: Case, seen: Observation) -> Any:
    """The view of a function that must be differentiable too."""
    if seen.no_graph:
        return {"value": seen.value, "gradient": "none: the result has no graph to go back through"}
    return {"value": seen.value, "gradient": list(seen.grads)} if case.backward is not None else seen.value


def compare(
    session: Session,
    function: str,
    cases: Sequence[Case],
    reference: Callable[..., Any],
    slips: Sequence[Slip],
    *,
    view: View = value_only,
    show: Callable[[Case, Any, Any], Sequence[Line]] | None = None,
    tolerance: float = 1e-4,
    may_change: bool = False,
) -> Failure | None:
    """None if the learner's function agrees with the reference on all cases.

    Args:
        session: the learner's file.
        function: the function's name in it.
        cases: from small to large: the first that differs is shown.
        reference: ours; or a slip-free formula.
        slips: compared in this order, with the learner's results on *all* cases.
        view: what of an observation counts.
        show: lines that show a case with the expected and the learner's view; default: both printed.
        tolerance: relative and absolute, for floating-point numbers; a case's option "tolerance" goes before it.
        may_change: the function may change its arguments.
    """
    wanted = [view(case, observe_here(reference, case)) for case in cases]
    near = [case.options.get("tolerance", tolerance) for case in cases]
    got: list[Any] = []
    first: int | None = None
    for index, case in enumerate(cases):
        seen = session.observe(function, case)
        if seen.crash is not None:
            got.append(seen.crash)
            first = index if first is None else first
            continue
        got.append(view(case, seen))
        if seen.changed and not may_change and first is None and same(wanted[index], got[index], near[index]):
            number = seen.changed[0] + 1
            return Failure(
                "wrong",
                f"{function} changes its argument number {number} in place: whoever called it still needs that tensor",
                _shown_case(_told_in_full(cases, index)),
                slip="changes-input",
                hint=2,
            )
        if first is None and not same(wanted[index], got[index], near[index]):
            first = index
    if first is None:
        return None
    case = _told_in_full(cases, first)
    named = _name(cases, got, slips, view, near)
    if isinstance(got[first], Crash):
        return crash_failure(function, got[first], case, named)
    expected, yours = wanted[first], got[first]
    if isinstance(yours, Misshapen):
        detail: list[Line] = list(_shown_case(case))
        return Failure("wrong", yours.problem, tuple(detail), hint=1)
    detail = list(_shown_case(case))
    detail += show(case, expected, yours) if show else difference(expected, yours, near[first])
    message = named.message if named else (case.why or f"{function} gives another result than the contract asks for")
    return Failure("wrong", message, tuple(detail), slip=named.name if named else "", hint=named.hint if named else 1)


def _name(
    cases: Sequence[Case], got: Sequence[Any], slips: Sequence[Slip], view: View, near: Sequence[float]
) -> Slip | None:
    """The slip that gives what was seen on every case, crashes included."""
    for slip in slips:
        if slip.function is None:
            continue
        matches = True
        for case, mine, tolerance in zip(cases, got, near, strict=True):
            seen = observe_here(slip.function, case)
            if isinstance(mine, Crash) or seen.crash is not None:
                matches = isinstance(mine, Crash) and seen.crash is not None
            else:
                matches = same(view(case, seen), mine, tolerance)
            if not matches:
                break
        if matches:
            return slip
    return None


def crash_failure(function: str, crash: Crash, case: Case | None = None, named: Slip | None = None) -> Failure:
    """A crash as the learner should see it."""
    if crash.kind == "NotImplementedError":
        return Failure("not attempted", f"{function} still raises NotImplementedError: it is yours to write", hint=1)
    detail: list[Line] = []
    if crash.line is not None:
        detail.append(line(f"your line {crash.line}: {crash.code}", "bad"))
    if case is not None:
        detail += _shown_case(case)
    reason = named.message if named else (case.why if case else "")
    if crash.kind in ("Timeout", "Ended", "Garbled"):
        what = crash.text
    elif crash.kind == "MemoryError" or "allocate memory" in crash.text:
        what = f"{function or 'the file'} ran out of memory: it may use what the exercise needs, not more"
    elif crash.kind == "SystemExit":
        what = f"your code called sys.exit({crash.text}) instead of returning: that is no answer"
    else:
        what = f"{crash.kind}: {crash.text}"
    message = f"{what}\n{reason}" if reason else what
    return Failure("crashed", message, tuple(detail), slip=named.name if named else "", hint=named.hint if named else 1)


def same(expected: Any, got: Any, tolerance: float = 1e-4) -> bool:
    """Equal in structure, and in numbers within the tolerance; nan equals nan. bool, int and float are all numbers.

    >>> same({"a": torch.tensor([1.0])}, {"a": torch.tensor([1])}), same([1], (1,)), same(1.0, torch.tensor(1.0))
    (True, True, True)
    >>> same(torch.zeros(2), torch.zeros(2, 1)), same(None, 0)
    (False, False)
    """
    if isinstance(expected, torch.Tensor) or isinstance(got, torch.Tensor):
        a, b = _as_tensor(expected), _as_tensor(got)
        if a is None or b is None or a.shape != b.shape:
            return False
        return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(expected, Mapping):
        return (
            isinstance(got, Mapping)
            and expected.keys() == got.keys()
            and all(same(value, got[key], tolerance) for key, value in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(got, (list, tuple))
            and len(expected) == len(got)
            and all(same(a, b, tolerance) for a, b in zip(expected, got, strict=True))
        )
    if isinstance(expected, float) and isinstance(got, (bool, int, float)):
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance) or (expected != expected != got != got)
    return expected == got


def _as_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach().double()
    if isinstance(value, (bool, int, float)):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def difference(expected: Any, got: Any, tolerance: float = 1e-4) -> list[Line]:
    """Lines that show the first place where two results differ.

    >>> [spans[0][0] for spans in difference({"loss": 1.0}, {"loss": 2.0})]
    ['in ["loss"]:', 'expected  1.0', 'yours     2.0']
    """
    where, a, b = _first_difference(expected, got, tolerance, "")
    lines = [line(f"in {where}:")] if where else []
    return [*lines, line(f"expected  {shown(a)}", "good"), line(f"yours     {shown(b)}", "bad")]


def _first_difference(expected: Any, got: Any, tolerance: float, where: str) -> tuple[str, Any, Any]:
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(expected, Mapping) and isinstance(got, Mapping) and expected.keys() == got.keys():
        pairs = [(f'{where}["{key}"]', expected[key], got[key]) for key in expected]
    elif isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)) and len(expected) == len(got):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(expected, got, strict=True))]
        if all(isinstance(x, (int, float, bool)) for x in expected) and len(expected) <= 12:
            return where, expected, got  # a short list of numbers is best seen whole
    for place, a, b in pairs:
        if not same(a, b, tolerance):
            return _first_difference(a, b, tolerance, place)
    return where, expected, got


def shown(value: Any) -> str:
    """A value in one line.

    >>> shown(torch.tensor([[1.0, 0.123456]]))
    '[[1, 0.1235]]  (shape [1, 2])'
    """
    if isinstance(value, torch.Tensor):
        if value.numel() > 48:
            flat = ", ".join(_number(x) for x in value.flatten()[:8].tolist())
            return f"[{flat}, ...]  (shape {list(value.shape)})"
        return f"{_nested(value.tolist())}" + (f"  (shape {list(value.shape)})" if value.dim() else "")
    if isinstance(value, float):
        return repr(round(value, 6))
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _nested(value: Any) -> str:
    return "[" + ", ".join(map(_nested, value)) + "]" if isinstance(value, list) else _number(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(int(value))


def _told_in_full(cases: Sequence[Case], index: int) -> Case:
    """The case; "the same with dim=0" is told together with what it is the same as."""
    case = cases[index]
    if not case.label.startswith("the same"):
        return case
    before = next((c.label for c in reversed(cases[:index]) if not c.label.startswith("the same")), "")
    return replace(case, label=f"{before}; now {case.label}")


def _shown_case(case: Case) -> tuple[Line, ...]:
    return (line(f"the case: {case.label}"),) if case.label else ()
