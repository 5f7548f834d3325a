"""The runs of a sweep: a grid of settings (fields of ``RunConfig``) times seeds, from Python, options or a JSON file.

``recipes/grids`` has such files. In place of ``grid`` a file may hold ``blocks``: a list of objects with ``settings``,
``grid`` and ``seeds`` of their own, which replace those of the file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.config import SETTINGS, RunConfig, make_config, run_name
from cs336_sft.utils.files import read_json
from cs336_sft.utils.validation import is_count, nearest_name

_FILE_FIELDS = ("name", "description", "settings", "grid", "seeds", "blocks")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: the name of its directory and its configuration."""

    name: str
    config: RunConfig


@dataclass(frozen=True)
class Grid:
    """Settings that all runs share, axes that are crossed, and seeds.

    Raises ConfigError: a name that is not a field, an axis without values, or a setting that is an axis too.

    >>> grid = Grid({"train_size": 64}, {"learning_rate": [1e-4, 3e-4], "append_eos": [True, False]}, seeds=(0, 1))
    >>> len(grid.runs()), grid.runs()[0].name
    (8, 'full_n64_b8_lr1e-4_ep3_eos_s0')
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # field -> values; the last changes fastest
    seeds: Sequence[int] = (0,)  # each is both seed and subset_seed, unless one is a setting or an axis itself
    blocks: Sequence[Grid] = ()  # further grids whose runs follow
    name: str = "sweep"
    description: str = ""

    def __post_init__(self) -> None:
        for name in (*self.settings, *self.axes):
            if name not in SETTINGS:
                raise ConfigError(f"there is no setting {name!r}", nearest_name(name, SETTINGS))
        for name in self.axes:
            if name in self.settings:
                raise ConfigError(f"the setting {name!r} is given twice", "give it once, fixed or as an axis")
        for name, values in self.axes.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ConfigError(f"the axis {name!r} is {values!r}", "give a list of at least one value")
        if not self.seeds or not all(is_count(seed, 0) for seed in self.seeds):
            raise ConfigError(f"seeds is {self.seeds!r}", "give a list of whole numbers of at least 0")

    def runs(self, *, gpu: bool | None = None) -> tuple[SweepRun, ...]:
        """Return every run once, ordered by seed first (``gpu``: see ``make_config``)."""
        found: dict[str, SweepRun] = {}
        own = [] if self.blocks and not self.axes else itertools.product(self.seeds, *self.axes.values())
        for seed, *values in own:
            seeds = {"seed": seed, "subset_seed": seed}
            config = make_config(**seeds | dict(self.settings) | dict(zip(self.axes, values, strict=True)), gpu=gpu)
            found.setdefault(run_name(config), SweepRun(run_name(config), config))
        for run in itertools.chain.from_iterable(block.runs(gpu=gpu) for block in self.blocks):
            found.setdefault(run.name, run)
        return tuple(found.values())

    def with_settings(self, more: Mapping[str, Any]) -> Grid:
        """Return the grid with further settings, which replace its own."""
        settings = dict(self.settings) | dict(more)
        axes = {name: values for name, values in self.axes.items() if name not in more}
        blocks = tuple(block.with_settings(more) for block in self.blocks)
        return replace(self, settings=settings, axes=axes, blocks=blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the grid's JSON file."""
        axes = {name: list(values) for name, values in self.axes.items()}
        about = {"name": self.name, "description": self.description, "settings": dict(self.settings)}
        blocks = {"blocks": [block.to_dict() for block in self.blocks]} if self.blocks else {}
        return about | {"grid": axes, "seeds": list(self.seeds)} | blocks


def read_grid(path: str | Path) -> Grid:
    """Read a grid from a JSON file. A ConfigError names file and field."""
    path = Path(path)
    content = read_json(path, ConfigError, "give a grid's JSON file")
    try:
        return _grid(content, path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.problem}", error.remedy) from error


def _grid(content: Any, name: str) -> Grid:
    _check_fields(content, _FILE_FIELDS, "the grid")
    settings, axes, seeds = content.get("settings", {}), content.get("grid", {}), tuple(content.get("seeds", [0]))
    blocks = []
    for number, block in enumerate(content.get("blocks", [])):
        _check_fields(block, _FILE_FIELDS[:-1], f"block {number}")
        own, inner = block.get("settings", {}), block.get("grid", {})
        shared = {key: value for key, value in settings.items() if key not in own and key not in inner}
        blocks.append(Grid(shared | own, inner, tuple(block.get("seeds", seeds))))
    return Grid(settings, axes, seeds, tuple(blocks), content.get("name", name), content.get("description", ""))


def _check_fields(value: Any, known: Sequence[str], what: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} is not an object", f"give an object with some of {', '.join(known)}")
    for name in value:
        if name not in known:
            raise ConfigError(f"{what} has no field {name!r}", nearest_name(name, known))
    for name, kind in (("settings", dict), ("grid", dict), ("seeds", list), ("blocks", list)):
        if name in value and not isinstance(value[name], kind):
            raise ConfigError(f"{what}: {name} is {value[name]!r}", f"give {'an object' if kind is dict else 'a list'}")


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Parse ``NAME=V1,V2`` of the command line, or ``NAME=`` and a JSON list.

    >>> parse_axis("train_size=128,full"), parse_axis("eval_every=[[8,16],4]")
    (('train_size', [128, 'full']), ('eval_every', [[8, 16], 4]))
    """
    name, values = _split(text)
    whole = parse_value(values)
    return name, whole if isinstance(whole, list) else [parse_value(part) for part in values.split(",")]


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse ``NAME=VALUE`` of the command line."""
    name, value = _split(text)
    return name, parse_value(value)


def parse_value(text: str) -> Any:
    """Read a value of the command line: JSON if it is JSON, ``none``, or text.

    >>> parse_value("1e-4"), parse_value("none"), parse_value("linear")
    (0.0001, None, 'linear')
    """
    try:
        return json.loads(text)
    except ValueError:
        return None if text.strip().lower() == "none" else text.strip()


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ConfigError(f"{text!r} is not NAME=VALUE", "write it like learning_rate=1e-4")
    return name.strip(), value.strip()
