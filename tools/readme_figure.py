"""The README's figure: 24 pairs of recorded runs that differ in one token of each training answer.

python tools/readme_figure.py   # writes docs/end_of_text.svg from recorded/truncation/truncation_tiny.json
"""

from __future__ import annotations

from pathlib import Path

from cs336_sft.experiments.record import read_recorded

ROOT = Path(__file__).resolve().parent.parent
RECORD, PICTURE = ROOT / "recorded" / "truncation" / "truncation_tiny.json", ROOT / "docs" / "end_of_text.svg"
PAIR = ["train_size", "batch_size", "learning_rate", "seed"]
PANELS = {"trunc_rate": "Outputs that ran to the limit", "accuracy": "Right answers"}
TOP, BOTTOM, WIDTH = 112, 316, 170  # of a panel, in pixels: where 100 % and 0 % are, and from "without" to "with"

# With a background of its own it can be read on any page, even where the browser's theme is not the page's.
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 366" role="img" font-family="sans-serif">
<title>{title}</title>
<style>
.page {{ fill: #ffffff }} text {{ fill: #24292f; font-size: 14px }} .axis {{ stroke: #8c959f }}
.run {{ stroke: #0969da; stroke-opacity: 0.55 }} .mean {{ stroke: #0969da; stroke-width: 4 }} circle {{ fill: #0969da }}
.head {{ font-size: 17px; font-weight: bold }} .number {{ font-weight: bold }} .tick {{ font-size: 12px }}
@media (prefers-color-scheme: dark) {{
.page {{ fill: #161b22 }} text {{ fill: #e6edf3 }}
.run {{ stroke: #58a6ff; stroke-opacity: 0.55 }} .mean {{ stroke: #58a6ff }} circle {{ fill: #58a6ff }}
}}
</style>
<rect class="page" width="760" height="366" rx="8"/>
<text class="head" x="24" y="34">{title}</text>
<text x="24" y="58">{subtitle}</text>
"""


def height(fraction: float) -> float:
    """Place a fraction on the vertical axis.

    >>> height(0.0), height(1.0)
    (316.0, 112.0)
    """
    return round(BOTTOM - (BOTTOM - TOP) * fraction, 1)


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>\n'


def panel(left: int, title: str, pairs: list[tuple[float, float]]) -> str:
    """Draw one line a pair, from the run without end-of-text to the one with it, and their means."""
    right, means = left + WIDTH, [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    parts = [text((left + right) / 2, TOP - 18, title)]
    parts += [text(left - 12, height(share) + 5, f"{100 * share:.0f} %", "end", "tick") for share in (0, 1)]
    for x, anchor, shift, name, mean in zip(
        (left, right), ("end", "start"), (-12, 12), ("without", "with"), means, strict=True
    ):
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{BOTTOM}"/>\n')
        parts.append(
            text(x, BOTTOM + 24, name) + text(x + shift, height(mean) + 5, f"{100 * mean:.0f} %", anchor, "number")
        )
    line = '<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>\n'
    parts += [line.format("run", left, height(before), right, height(after)) for before, after in pairs]
    parts.append(line.format("mean", left, height(means[0]), right, height(means[1])))
    parts += [f'<circle cx="{x}" cy="{height(m)}" r="6"/>\n' for x, m in zip((left, right), means, strict=True)]
    return "".join(parts)


def picture() -> str:
    """Make the figure of the record."""
    frame = read_recorded(RECORD)
    frame = frame[frame["last"]].pivot(index=PAIR, columns="append_eos", values=list(PANELS))
    drawn = [
        panel(110 + 370 * number, title, list(zip(frame[name][False], frame[name][True], strict=True)))
        for number, (name, title) in enumerate(PANELS.items())
    ]
    title = "One token more at the end of each training answer: end-of-text"
    subtitle = f"{len(frame)} pairs of trainings, without and with it, alike in all else; in bold their means"
    return HEAD.format(title=title, subtitle=subtitle) + "".join(drawn) + "</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
