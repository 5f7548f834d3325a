"""Pictures for the notebooks: tokens coloured by what the loss does to them, and model outputs in columns.

Everything shown may come from a model, so HTML is escaped throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.experiments.plots import PALETTE, NotebookFigure

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from cs336_sft.records import Batch, Example

Kind = Literal["prompt", "response", "padding"]

_COLOURS: dict[str, str] = {"prompt": PALETTE[5], "response": PALETTE[4], "padding": "#9A9A9A"}
_LINE = 118  # characters that fit into a line of a figure
_VISIBLE = {" ": "·", "\n": "↵", "\t": "→", "\r": "←"}


@dataclass(frozen=True)
class TokenView:
    """One token of a padded sequence."""

    text: str  # with blanks made visible
    kind: Kind
    supervised: bool  # the loss counts it, as the label of the position before it
    value: float | None = None  # a number to colour it by, such as its loss in nats

    @property
    def wrong(self) -> bool:
        return self.supervised != (self.kind == "response")


@dataclass(frozen=True)
class Rendering:
    """Something that a notebook shows as HTML, and everything else as plain text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Decode each id by itself, with blanks made visible and end-of-text as `<eos>`."""
    texts = []
    for index in ids:
        text = "<eos>" if index == tokenizer.eos_token_id else tokenizer.decode([int(index)])
        texts.append("".join(_VISIBLE.get(c, c if c.isprintable() else "\ufffd") for c in text) or "∅")
    return texts


def view_batch(
    batch: Batch,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    mask: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
) -> list[tuple[TokenView, ...]]:
    """View a batch token by token, before the shift: T + 1 tokens a row.

    `batch` is `collate(examples, ...)`, with tensors [B, T]. `mask` [B, T] says which labels the loss counts
    (`batch.response_mask` if left out), `values` [B, T] a number for each label. The first token of a row is no label.
    """
    mask = batch.response_mask if mask is None else mask
    if len(examples) != len(batch.labels):
        raise ConfigError(f"{len(batch.labels)} rows but {len(examples)} examples", "give those of the batch")
    for name, tensor in (("mask", mask), ("values", values)):
        if tensor is not None and tensor.shape != batch.labels.shape:
            shapes = f"{name} has shape {tuple(tensor.shape)}, the labels {tuple(batch.labels.shape)}"
            raise ConfigError(shapes, "give one entry for each label")
    rows = []
    for i, example in enumerate(examples):
        ids = [*batch.input_ids[i, :1].tolist(), *batch.labels[i].tolist()]
        supervised = [False, *mask[i].bool().tolist()]
        numbers = [None, *values[i].tolist()] if values is not None else [None] * len(ids)
        kinds = ["prompt"] * len(example.prompt_ids) + ["response"] * len(example.response_ids)
        kinds += ["padding"] * (len(ids) - len(example))
        rows.append(tuple(map(TokenView, token_texts(ids, tokenizer), kinds, supervised, numbers)))
    return rows


def tokens_html(views: Sequence[TokenView]) -> Rendering:
    """Show a sequence as coloured text, with a dashed frame around mistakes.

    In plain text brackets mean supervised, parentheses padding, and `!` a mistake.
    """
    spans = []
    for position, view in enumerate(views):
        fill = f"background:{_COLOURS[view.kind]}" if view.supervised else f"color:{_text_colour(view)}"
        frame = "2px dashed #000" if view.wrong else f"1px solid {_COLOURS[view.kind]}"
        style = f"{fill};border:{frame};border-radius:3px;padding:0 2px;margin:1px;display:inline-block"
        note = f"token {position}: {view.kind}, {'supervised' if view.supervised else 'not supervised'}"
        if view.value is not None:
            note += f", {view.value:.3f}"
        spans.append(f'<span title="{escape(note)}" style="{style}">{escape(view.text)}</span>')
    # The colours of the text are made for a light page.
    page = "font-family:monospace;line-height:1.9;background:#fff;color:#000;padding:6px"
    return Rendering(f'<div style="{page}">{"".join(spans)}</div>', " ".join(map(_plain, views)))


def plot_tokens(rows: Mapping[str, Sequence[TokenView]], *, title: str = "") -> NotebookFigure:
    """Draw sequences as rows of boxes, filled where the loss counts the token.

    A thick dashed frame marks a token that the loss should not count, or should and does not.
    """
    figure, panel = _lay_out(rows, lambda view: _COLOURS[view.kind] if view.supervised else "#FFFFFF", frames=True)
    panel.set_title(title or "Which tokens the loss counts", loc="left")
    views = [view for row in rows.values() for view in row]
    handles = []
    for kind, colour in _COLOURS.items():
        for supervised in (True, False):
            if any(view.kind == kind and view.supervised == supervised for view in views):
                face, name = (colour, "counted") if supervised else ("#FFFFFF", "not counted")
                handles.append(Patch(facecolor=face, edgecolor=colour, label=f"{kind}, {name}"))
    if any(view.wrong for view in views):
        handles.append(Patch(facecolor="#FFFFFF", edgecolor="#000000", linestyle="--", lw=1.8, label="a mistake"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
    return figure


def plot_token_values(
    rows: Mapping[str, Sequence[TokenView]], *, label: str = "loss (nats)", vmax: float | None = None, title: str = ""
) -> NotebookFigure:
    """Draw sequences as rows of boxes, each token the darker the higher its value.

    `label` names the values with their unit; `vmax` is the value of the darkest colour, by default the highest.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [view.value for row in rows.values() for view in row if view.value is not None]
    if not (finite := list(filter(math.isfinite, values))):
        raise DataError("no token has a value to draw", "give view_batch one value for each label")
    top = max(finite) if vmax is None else vmax
    # Only the light half of the map, so that black text stays readable.
    scale = ScalarMappable(Normalize(0.0, top or 1.0), colormaps["YlOrBr"].resampled(256))
    scale.cmap = scale.cmap.from_list("light", scale.cmap([i / 20 for i in range(13)]))
    figure, panel = _lay_out(
        rows, lambda view: "#E4E4E4" if view.value is None else scale.to_rgba(view.value), frames=False
    )
    panel.set_title(title or f"Token by token: {label}", loc="left")
    figure.colorbar(scale, ax=panel, label=label, pad=0.01, aspect=14, extend="neither" if vmax is None else "max")
    return figure


def show_widget(widget: Any, stand_in: str) -> None:
    """Display an ipywidgets widget, or `stand_in` in a stored notebook."""
    from IPython.display import display

    bundle = widget._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    display({**data, "text/plain": stand_in}, raw=True)


def _plain(view: TokenView) -> str:
    text = f"[{view.text}]" if view.supervised else f"({view.text})" if view.kind == "padding" else view.text
    return f"!{text}" if view.wrong else text


def _text_colour(view: TokenView) -> str:
    return "#707070" if view.kind == "padding" and not view.supervised else "#000000"


def _lay_out(rows: Mapping[str, Sequence[TokenView]], colour: Any, *, frames: bool) -> tuple[NotebookFigure, Axes]:
    """Draw boxes of all rows, position above position, in lines that fit."""
    if not rows or not all(rows.values()):
        raise DataError("no tokens to draw", "give at least one token a row")
    longest = max(map(len, rows.values()))
    # A position is as wide as its widest token, with half a character of air on either side.
    widths = [max(max(len(row[p].text), 1) for row in rows.values() if p < len(row)) + 1.0 for p in range(longest)]
    lines: list[list[int]] = [[]]
    for position, width in enumerate(widths):
        if lines[-1] and sum(widths[p] for p in lines[-1]) + width > _LINE:
            lines.append([])
        lines[-1].append(position)
    margin = max(map(len, rows)) + 2.0 if len(rows) > 1 else 0.0
    extent = max(sum(widths[p] for p in line) for line in lines)
    height = len(lines) * (len(rows) + (0.5 if len(rows) > 1 else 0.0))
    figure = NotebookFigure(
        figsize=(0.085 * (margin + extent) + 1.2, 0.27 * height + (1.0 if frames else 0.9)), layout="constrained"
    )
    panel = figure.subplots()
    y = 0.0
    for line in lines:
        for name, row in rows.items():
            if margin:
                panel.text(-1.0, y + 0.5, name, ha="right", va="center", fontsize=8.5, parse_math=False)
            x = 0.0
            for position in line:
                if position < len(row):
                    _box(panel, x, y, widths[position], row[position], colour(row[position]), frames)
                x += widths[position]
            y += 1.0
        y += 0.5 if len(rows) > 1 else 0.0
    panel.set_xlim(-margin, extent)
    panel.set_ylim(y, 0.0)
    panel.axis("off")
    return figure, panel


def _box(panel: Axes, x: float, y: float, width: float, view: TokenView, fill: Any, frames: bool) -> None:
    edge = _COLOURS[view.kind] if frames else "#FFFFFF"
    box = Rectangle((x + 0.15, y + 0.08), width - 0.3, 0.84, facecolor=fill, edgecolor=edge, lw=0.8)
    if frames and view.wrong:
        box.set(edgecolor="#000000", linestyle="--", linewidth=1.8)
    panel.add_patch(box)
    style = {"ha": "center", "va": "center", "fontsize": 8, "family": "monospace"}
    style["color"] = _text_colour(view) if frames else "#000000"  # grey on a value's colour is hard to read
    panel.text(x + width / 2, y + 0.5, view.text, **style, parse_math=False)  # two dollar signs are two dollar signs
