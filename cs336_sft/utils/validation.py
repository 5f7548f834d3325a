"""Checks that every configuration class shares in its ``__post_init__``, and its flat JSON form."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from cs336_sft.errors import ConfigError

Config = TypeVar("Config")


def is_count(value: object, least: int = 1) -> bool:
    """Return whether a value is an int (not a bool) of at least ``least``."""
    return type(value) is int and value >= least


def is_number(value: object) -> bool:
    """Return whether a value is a finite int or float (not a bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_field(ok: bool, owner: object, field: str, remedy: str) -> None:
    """Refuse the value of a field unless ``ok``, with a ConfigError."""
    if not ok:
        raise ConfigError(f"{type(owner).__name__}.{field} is {getattr(owner, field)!r}", remedy)


def check_counts(owner: object, *names: str, least: int = 1, optional: bool = False) -> None:
    """Refuse fields that are not whole numbers (or None, if ``optional``)."""
    remedy = f"give a whole number of at least {least}" + (", or None" if optional else "")
    for name in names:
        value = getattr(owner, name)
        check_field(is_count(value, least) or (optional and value is None), owner, name, remedy)


def check_choice(owner: object, field: str, allowed: Sequence[Any]) -> None:
    """Refuse a field whose value is not one of ``allowed``."""
    check_field(getattr(owner, field) in allowed, owner, field, f"choose one of {', '.join(map(str, allowed))}")


def check_flags(owner: object, *names: str) -> None:
    """Refuse fields that are not True or False."""
    for name in names:
        check_field(isinstance(getattr(owner, name), bool), owner, name, "give True or False")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Write the remedy for a misspelt name: the nearest known name, or all of them."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"write {nearest[0]!r}" if nearest else f"choose from {', '.join(known)}"


def fields_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass's fields as JSON has them: tuples become lists."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def fields_from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a dataclass from JSON values, the inverse of ``fields_to_dict``.

    Raises ConfigError: a name is not a field of the class, or a value is out of range.
    """
    known = [field.name for field in fields(cls)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{cls.__name__} has no field {name!r}", nearest_name(name, known))
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def narrow(config: Any, cls: type[Config], **changes: Any) -> Config:
    """Make a configuration of a base class from one of a subclass, with changes."""
    return cls(**{field.name: getattr(config, field.name) for field in fields(cls)} | changes)
