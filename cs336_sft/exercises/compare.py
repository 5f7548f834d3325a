"""Compares a function with the reference case by case, finds the first that differs, and names the slip behind it.

``Check`` says what a function has to do; each module of ``checks`` has a tuple of them, ``CHECKS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.report import Failure, Line, line
from cs336_sft.exercises.sandbox.perform import Case, Crash, Observation, observe_here
from cs336_sft.exercises.sandbox.values import loaded_torch

Function = Callable[..., Any]
NEARLY = 0.6  # of the cases in which a slip or the learner is wrong, the fraction on which they have to agree


@dataclass(frozen=True)
class Slip:
    """A known mistake."""

    name: str
    message: str  # what the learner did, in terms of the task
    function: Function  # has the mistake; its values are compared with the learner's


def slips(table: str, functions: Mapping[str, Function]) -> tuple[Slip, ...]:
    """Give each slip's function its message, from a table of ``slips.toml``.

    >>> slips("ex03", {"no-mask": sum})[0].message
    'sums masked positions too: the mask is not used'
    """
    messages = read_asset("slips")[table]
    return tuple(Slip(name, messages[name], function) for name, function in functions.items())


@dataclass(frozen=True)
class Misshapen:
    """What a view gives where the result is not of the promised form."""

    problem: str


def entries(value: Any, keys: Sequence[str], kind: Any = object) -> dict[str, Any] | Misshapen:
    """View the named entries of a dict, each of a kind.

    >>> entries({"a": 1, "b": 2}, ["a"])
    {'a': 1}
    """
    if not isinstance(value, dict):
        return Misshapen(f"returns something else than a dict with {', '.join(keys)}")
    for key in keys:
        if key not in value:
            return Misshapen(f"the dict has no {key!r}: the contract asks for {', '.join(keys)}")
        if not isinstance(value[key], kind):
            return Misshapen(f"{key} is of another type than the contract asks for")
    return {key: value[key] for key in keys}


def value_and_grads(case: Case, seen: Observation) -> Any:
    """View the result and its gradients, for a function that must be differentiable."""
    if seen.no_graph:
        return {"value": seen.value, "gradient": "none: the result has no graph to go back through"}
    return {"value": seen.value, "gradient": list(seen.grads)} if case.backward is not None else seen.value


@dataclass(frozen=True)
class Check:
    """What one function of an exercise has to do."""

    function: str  # its name in the learner's file
    cases: Sequence[Case]  # from small to large: the first that differs is shown
    reference: Function
    slips: Sequence[Slip] = ()  # compared in this order, with the learner's results on *all* cases
    view: Callable[[Case, Observation], Any] = lambda case, seen: seen.value  # what of an observation counts
    show: Callable[[Case, Any, Any], Sequence[Line]] | None = None  # shows a case, expected and yours
    explain: Callable[[Case, Any, Any], Failure] | None = None  # makes the failure, in place of the slips

    def __post_init__(self) -> None:
        # What a function keeps between calls shows when the first call is made once more.
        again = replace(self.cases[0], label="the first call, once more")
        object.__setattr__(self, "cases", (*self.cases, again))


def compare(check: Check, observations: Sequence[Observation]) -> Failure | None:
    """Compare what was observed with the reference, or return None if all agree."""
    function, view = check.function, check.view
    wanted = [view(case, observe_here(check.reference, case)) for case in check.cases]
    got = [seen.crash or view(case, seen) for case, seen in zip(check.cases, observations, strict=True)]
    for index, (case, seen, expected, yours) in enumerate(zip(check.cases, observations, wanted, got, strict=True)):
        if seen.crash is None and same(expected, yours, case.tolerance):
            if not seen.changed:
                continue
            message = f"{function} changes its argument number {seen.changed[0] + 1} in place: "
            message += "whoever called it still needs it"
            return Failure("wrong", message, _shown_case(check, index), slip="changes-input")
        slip = _explaining_slip(check, wanted, got, index)
        if seen.crash:
            return crash_failure(function, seen.crash, _shown_case(check, index), case.why, slip)
        if isinstance(yours, Misshapen):
            return Failure("wrong", yours.problem, _shown_case(check, index), slip="form")
        if check.explain:
            return check.explain(case, expected, yours)
        shown_lines = check.show(case, expected, yours) if check.show else difference(expected, yours, case.tolerance)
        detail = (*_shown_case(check, index), *shown_lines)
        name, message = (slip.name, slip.message) if slip else _pattern(check, got, expected, yours, case.tolerance)
        if slip is None and case.why:
            message = f"{case.why}\n{message}".strip()
        message = message or f"{function} gives another result than the contract asks for"
        return Failure("wrong", message, detail, slip=name)
    return None


def _explaining_slip(check: Check, wanted: Sequence[Any], got: Sequence[Any], shown_index: int) -> Slip | None:
    """Find the slip that gives what was seen on all cases, or on most wrong ones."""
    near, most = None, NEARLY / 2  # half is enough where all that the slip gives is there
    for slip in check.slips:
        shown_case = check.cases[shown_index]
        if not _agree(_seen_here(check, slip, shown_case), got[shown_index], shown_case):
            continue
        wrong = agreed = missed = 0
        for case, right, mine in zip(check.cases, wanted, got, strict=True):
            seen = _seen_here(check, slip, case)
            as_slip, slip_wrong = _agree(seen, mine, case), not _agree(right, seen, case)
            if slip_wrong or not _agree(right, mine, case):
                wrong, agreed, missed = wrong + 1, agreed + as_slip, missed + (slip_wrong and not as_slip)
        if agreed == wrong:
            return slip
        if agreed / wrong > most and (missed == 0 or agreed / wrong > NEARLY):
            near, most = slip, agreed / wrong
    if near is None:
        return None
    return replace(near, message=f"{near.message}\n(this gives most of what differs here, not all: look for more)")


def _seen_here(check: Check, slip: Slip, case: Case) -> Any:
    seen = observe_here(slip.function, case)
    return seen.crash or check.view(case, seen)


def _agree(a: Any, b: Any, case: Case) -> bool:
    if isinstance(a, Crash) or isinstance(b, Crash):
        return isinstance(a, Crash) and isinstance(b, Crash)
    return same(a, b, case.tolerance)


def _pattern(check: Check, got: Sequence[Any], expected: Any, yours: Any, tolerance: float) -> tuple[str, str]:
    """Name what any function can get wrong, or return two empty texts."""
    if not _agree(got[0], got[-1], check.cases[0]):  # the last case is the first once more
        return "state", "something is kept between calls: the first call, made once more, gives another result"
    where, a, b = _first_difference(expected, yours, tolerance, "")
    if where.startswith('["gradient'):
        return "gradient", "the value is right, its gradient is not: follow the graph back to the argument"
    if isinstance(a, list) and isinstance(b, list) and a and sorted(map(repr, a)) == sorted(map(repr, b)):
        return "order", "the right entries, in another order"
    torch = loaded_torch()
    if not torch or not all(isinstance(x, (torch.Tensor, int, float)) for x in (a, b)):
        return "", ""
    a, b = (torch.as_tensor(x).double() for x in (a, b))
    if a.shape != b.shape:
        return "shape", f"the shape is {list(b.shape)}, the contract asks for {list(a.shape)}"
    if (a.isfinite() & ~b.isfinite()).any():
        return "not-finite", "nan or infinity comes out where the right value is a number"
    if same(-a, b, tolerance):
        return "sign", "the sign is wrong"
    if a.numel() > 1 and same(a.flatten().sort().values, b.flatten().sort().values, tolerance):
        return "order", "the right entries, in another order"
    factor = (b[a != 0] / a[a != 0]).flatten()
    if factor.numel() > 1 and same(b, a * factor[0], tolerance):
        return "factor", f"every entry is {factor[0].item():.4g} times what the contract asks for"
    return "", ""


def crash_failure(
    function: str, crash: Crash, shown_case: Sequence[Line] = (), why: str = "", slip: Slip | None = None
) -> Failure:
    """Show a crash as the learner should see it."""
    if crash.kind == "NotImplementedError":
        return Failure("not attempted", f"{function} still raises NotImplementedError: it is yours to write")
    detail = [line(f"your line {crash.line}: {crash.code}", "bad")] if crash.line is not None else []
    if crash.kind in ("Timeout", "Ended", "Garbled"):
        message = crash.text
    elif crash.kind == "MemoryError" or "allocate memory" in crash.text:
        message = f"{function} ran out of memory: it may use what the exercise needs, not more"
    elif crash.kind == "SystemExit":
        message = f"your code called sys.exit({crash.text}) instead of returning: that is no answer"
    else:
        message = f"{crash.kind}: {crash.text}"
    if reason := slip.message if slip else why:
        message += f"\n{reason}"
    return Failure("crashed", message, (*detail, *shown_case), slip=slip.name if slip else "")


def same(expected: Any, got: Any, tolerance: float = 1e-4) -> bool:
    """Compare two results: structure, and numbers within the tolerance.

    nan equals nan; bool, int and float are all numbers.

    >>> import torch
    >>> same({"a": torch.tensor([1.0])}, {"a": torch.tensor([1])}), same(torch.zeros(2), torch.zeros(2, 1))
    (True, False)
    """
    torch = loaded_torch()
    if torch and (isinstance(expected, torch.Tensor) or isinstance(got, torch.Tensor)):
        if not all(isinstance(value, (torch.Tensor, bool, int, float)) for value in (expected, got)):
            return False
        a, b = (torch.as_tensor(value).detach().double() for value in (expected, got))
        return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
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


def difference(expected: Any, got: Any, tolerance: float = 1e-4) -> list[Line]:
    """Show the first place where two results differ.

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
    """Show a value in one line.

    >>> import torch
    >>> shown(torch.tensor([[1.0, 0.123456]]))
    '[[1, 0.1235]]  (shape [1, 2])'
    """
    if (torch := loaded_torch()) and isinstance(value, torch.Tensor):
        if value.numel() > 48:
            return f"{_nested(value.flatten()[:8].tolist())[:-1]}, ...]  (shape {list(value.shape)})"
        return f"{_nested(value.tolist())}" + (f"  (shape {list(value.shape)})" if value.dim() else "")
    if isinstance(value, float):
        return repr(round(value, 6))
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(int(value))


def _shown_case(check: Check, index: int) -> tuple[Line, ...]:
    """Show the case, and with "the same with dim=0" what it is the same as."""
    label = check.cases[index].label
    if label.startswith("the same"):
        before = [case.label for case in check.cases[:index] if not case.label.startswith("the same")]
        label = f"{before[-1] if before else ''}; now {label}"
    return (line(f"the case: {label}"),) if label else ()
