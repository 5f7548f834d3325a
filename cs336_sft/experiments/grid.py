"""Which runs a sweep consists of: a grid of settings, times seeds, from a JSON file, the command line or a notebook.

::

    {
      "name": "tiny_lr_batch",
      "description": "learning rate by batch size, equal epochs",
      "settings": {"profile": "tiny", "train_size": 512, "epochs": 3},
      "grid": {"lr": [5e-5, 1e-4, 3e-4], "batch": [4, 8, 12]},
      "seeds": [0, 1, 2]
    }

Names of settings are those of ``run_settings``. A file may hold ``blocks`` in place of ``grid``: a list of objects
with ``settings``, ``grid`` and ``seeds`` of their own, which stand over those of the file; their runs follow one
another, and a run that occurs twice is made once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.settings import RunSettings, canonical, make_settings, run_name

_FILE_FIELDS = ("name", "description", "settings", "grid", "seeds", "blocks")
_BLOCK_FIELDS = ("settings", "grid", "seeds")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: the name of its directory and what it is made of."""

    name: str
    settings: RunSettings


@dataclass(frozen=True)
class Grid:
    """Settings that all runs share, axes that are crossed, and seeds.

    Attributes:
        settings: setting -> value, the same in all runs.
        axes: setting -> its values; the last axis changes fastest. Without an axis there is one run a seed.
        seeds: each combination is run with each. A seed chooses the training problems and their order, unless
            ``subset_seed`` or ``order_seed`` is a setting or an axis of its own: that one then stays as it is given.
        blocks: further grids whose runs follow.

    Raises:
        ConfigError: a name that is no setting, an axis without values, or a setting that is an axis too.

    >>> grid = Grid({"train_size": 64}, {"lr": [1e-4, 3e-4], "eos": [True, False]}, seeds=(0, 1))
    >>> len(grid.runs()), grid.runs()[0].name
    (8, 'full_n64_b8_lr1e-4_ep3_eos_s0')
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    blocks: Sequence[Grid] = ()
    name: str = "sweep"
    description: str = ""

    def __post_init__(self) -> None:
        taken: set[str] = set()
        for name in itertools.chain(self.settings, self.axes):
            full = canonical(name)
            if full in taken:
                raise ConfigError(f"the setting {full!r} is given twice", "give it once, fixed or as an axis")
            taken.add(full)
        for name, values in self.axes.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ConfigError(f"the axis {name!r} is {values!r}", "give a list of at least one value")
        if not self.seeds or not all(type(seed) is int and seed >= 0 for seed in self.seeds):
            raise ConfigError(f"seeds is {self.seeds!r}", "give a list of whole numbers of at least 0")

    def runs(self, *, gpu: bool | None = None) -> tuple[SweepRun, ...]:
        """Every run once, seed by seed: after the first seed each combination has been seen.

        Args:
            gpu: see ``make_settings``.

        Raises:
            ConfigError: a value out of range; the message names the setting.
        """
        found = {run.name: run for run in self._own_runs(gpu)}
        for block in self.blocks:
            found |= {run.name: run for run in block.runs(gpu=gpu) if run.name not in found}
        return tuple(found.values())

    def _own_runs(self, gpu: bool | None) -> Iterable[SweepRun]:
        if not self.axes and self.blocks:
            return
        names = [canonical(name) for name in self.axes]
        fixed = {canonical(name): value for name, value in self.settings.items()}
        for seed in self.seeds:
            for values in itertools.product(*self.axes.values()):
                flat = {"subset_seed": seed, "order_seed": seed} | fixed | dict(zip(names, values, strict=True))
                settings = make_settings(flat, gpu=gpu)
                yield SweepRun(run_name(settings), settings)

    def with_settings(self, more: Mapping[str, Any]) -> Grid:
        """The same grid with further settings, which replace fixed ones and axes of the same name."""
        full = {canonical(name): value for name, value in more.items()}

        def left(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if canonical(name) not in full}

        blocks = tuple(block.with_settings(more) for block in self.blocks)
        return Grid(left(self.settings) | full, left(self.axes), self.seeds, blocks, self.name, self.description)

    def to_dict(self) -> dict[str, Any]:
        """As the JSON file has it."""
        own = {"settings": dict(self.settings), "grid": {k: list(v) for k, v in self.axes.items()}}
        own |= {"seeds": list(self.seeds)}
        if self.blocks:
            own["blocks"] = [block.to_dict() for block in self.blocks]
        return {"name": self.name, "description": self.description} | own


def read_grid(path: str | Path) -> Grid:
    """A grid from a JSON file; see the top of this module.

    Raises:
        ConfigError: no such file, not JSON, or a field that a grid does not have; the message names it.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", "give the path of a grid's JSON file") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error})", "write one JSON object") from error
    try:
        return _grid(content, path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.problem}", error.remedy) from error


def _grid(content: Any, name: str) -> Grid:
    _check_fields(content, _FILE_FIELDS, "the grid")
    settings, seeds = dict(content.get("settings", {})), content.get("seeds", [0])
    axes = dict(content.get("grid", {}))
    blocks = []
    for number, block in enumerate(content.get("blocks", [])):
        _check_fields(block, (*_BLOCK_FIELDS, "name", "description"), f"block {number}")
        own = {canonical(key): value for key, value in block.get("settings", {}).items()}
        inner = dict(block.get("grid", {}))
        over = {*own, *map(canonical, inner)}
        # A block says it anew, so what the file says of the same setting does not hold in it.
        shared = {key: value for key, value in settings.items() if canonical(key) not in over}
        blocks.append(Grid(shared | own, inner, tuple(block.get("seeds", seeds))))
    name = content.get("name", name)
    return Grid(settings, axes, tuple(seeds), tuple(blocks), name, content.get("description", ""))


def _check_fields(value: Any, known: Sequence[str], what: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} is not an object", f"give an object with some of {', '.join(known)}")
    for name in value:
        if name not in known:
            raise ConfigError(f"{what} has no field {name!r}", f"choose from {', '.join(known)}")
    for name, kind in (("settings", dict), ("grid", dict), ("seeds", list), ("blocks", list)):
        if name in value and not isinstance(value[name], kind):
            raise ConfigError(f"{what}: {name} is {value[name]!r}", f"give {'an object' if kind is dict else 'a list'}")


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """``NAME=V1,V2`` of the command line; values are JSON where they can be. A JSON list is taken as it is.

    >>> parse_axis("lr=1e-5,3e-5"), parse_axis("train_size=128,full"), parse_axis("eval_every=[[8,16],4]")
    (('lr', [1e-05, 3e-05]), ('train_size', [128, 'full']), ('eval_every', [[8, 16], 4]))
    """
    name, values = _split(text)
    whole = _value(values)
    return name, whole if isinstance(whole, list) else [_value(part) for part in values.split(",")]


def parse_setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` of the command line; the value is JSON where it can be.

    >>> parse_setting("eos=false"), parse_setting("eval_every=log"), parse_setting("betas=[0.9,0.999]")
    (('eos', False), ('eval_every', 'log'), ('betas', [0.9, 0.999]))
    """
    name, value = _split(text)
    return name, _value(value)


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ConfigError(f"{text!r} is not NAME=VALUE", "write it like lr=1e-4")
    return name.strip(), value.strip()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()
