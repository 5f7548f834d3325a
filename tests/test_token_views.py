"""Views of tokens for the notebooks: the right role for every token, nothing unescaped, nothing lost."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.lessons.token_views import (
    Rendering,
    TokenView,
    plot_token_values,
    plot_tokens,
    show_widget,
    token_texts,
    tokens_html,
    view_batch,
)
from cs336_sft.prompts import get_template
from cs336_sft.records import Example
from cs336_sft.tokenization import collate, make_examples

HOSTILE = "<script>alert('x')</script> & \"quotes\" $1$ #### 5"


class Letters:
    """Ids 1 to 26 are a to z; end-of-text, which also pads, is 0."""

    pad_token_id = eos_token_id = 0

    def decode(self, ids, **kwargs) -> str:
        return "".join(chr(96 + i) for i in ids)


EXAMPLES = [Example((1, 2), (3, 4, 0)), Example((1,), (5, 0))]


def batch():
    return collate(EXAMPLES, pad_id=0)


class Text(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_data(self, data) -> None:
        self.texts.append(data)


def test_every_token_has_its_part_and_the_mask_is_shifted_back() -> None:
    first, second = view_batch(batch(), EXAMPLES, Letters())
    assert [view.text for view in first] == ["a", "b", "c", "d", "<eos>"]
    assert [view.kind for view in first] == ["prompt"] * 2 + ["response"] * 3
    assert [view.supervised for view in first] == [False, False, True, True, True]
    assert [view.kind for view in second] == ["prompt", "response", "response", "padding", "padding"]
    assert [view.supervised for view in second] == [False, True, True, False, False]
    assert [view.text for view in second][2:] == ["<eos>"] * 3, "end-of-text and padding look alike, as they should"
    assert not any(view.wrong for view in first + second)


def test_the_right_mask_is_never_marked_wrong(tokenizer, problems) -> None:
    examples = make_examples(problems, get_template("gsm8k"), tokenizer)
    rows = view_batch(collate(examples, tokenizer.pad_token_id), examples, tokenizer)
    assert not any(view.wrong for row in rows for view in row)
    for example, row in zip(examples, rows, strict=True):
        assert sum(view.supervised for view in row) == len(example.response_ids)
        assert sum(view.kind != "padding" for view in row) == len(example)


def test_mistakes_of_a_mask_are_marked() -> None:
    counted = batch()
    everything = view_batch(counted, EXAMPLES, Letters(), mask=torch.ones_like(counted.response_mask))
    assert [view.wrong for view in everything[1]] == [False, False, False, True, True]
    assert [view.wrong for view in everything[0]] == [False, True, False, False, False]
    without_eos = view_batch(counted, EXAMPLES, Letters(), mask=counted.response_mask & (counted.labels != 0))
    assert [[v.text for v in row if v.wrong] for row in without_eos] == [["<eos>"], ["<eos>"]]
    assert without_eos[0][-1].kind == "response"


def test_a_value_belongs_to_the_token_that_is_predicted() -> None:
    values = torch.arange(8.0).reshape(2, 4)
    rows = view_batch(batch(), EXAMPLES, Letters(), values=values)
    assert [view.value for view in rows[0]] == [None, 0.0, 1.0, 2.0, 3.0]
    assert [view.value for view in rows[1]] == [None, 4.0, 5.0, 6.0, 7.0]


def test_shapes_that_do_not_fit() -> None:
    counted = batch()
    with pytest.raises(ConfigError, match="2 rows but 1 examples"):
        view_batch(counted, EXAMPLES[:1], Letters())
    with pytest.raises(ConfigError, match="mask has shape"):
        view_batch(counted, EXAMPLES, Letters(), mask=counted.response_mask[:, 1:])
    with pytest.raises(ConfigError, match="values has shape"):
        view_batch(counted, EXAMPLES, Letters(), values=torch.zeros(2, 5))


def test_blanks_are_visible_and_nothing_is_lost(tokenizer) -> None:
    text = "Tom has 3 boxes.\n\n#### 24 <<48/2=24>>"
    texts = token_texts(tokenizer(text)["input_ids"], tokenizer)
    assert "".join(texts).replace("·", " ").replace("↵", "\n") == text
    assert not any(" " in piece or "\n" in piece for piece in texts)


def test_parts_of_a_character_and_control_characters_are_shown_as_such(tokenizer) -> None:
    pieces = token_texts(tokenizer("é\x1b[31m")["input_ids"], tokenizer)
    assert all(piece and piece.isprintable() for piece in pieces)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5))
def test_tokens_are_escaped(texts) -> None:
    texts = [*texts, HOSTILE]
    shown = tokens_html([TokenView(text, "response", True, value=1.5) for text in texts])
    parsed = Text(shown.html)
    assert set(parsed.tags) == {"div", "span"}
    assert parsed.tags.count("span") == len(texts)
    assert "".join(parsed.texts) == "".join(texts)


def test_html_has_a_plain_stand_in() -> None:
    views = [
        TokenView("a", "prompt", False),
        TokenView("b", "prompt", True),
        TokenView("c", "response", True),
        TokenView("d", "response", False),
        TokenView("<eos>", "padding", False),
        TokenView("<eos>", "padding", True),
    ]
    assert repr(tokens_html(views)) == "a ![b] [c] !d (<eos>) ![<eos>]"
    assert Rendering("<b>x</b>", "x")._repr_html_() == "<b>x</b>"


def boxes(figure):
    return figure.axes[0].patches


def test_a_figure_has_one_box_a_token_and_fills_what_is_counted() -> None:
    rows = view_batch(batch(), EXAMPLES, Letters())
    figure = plot_tokens({"first": rows[0], "second": rows[1]})
    assert len(boxes(figure)) == 10
    filled = [to_hex(box.get_facecolor()) != "#ffffff" for box in boxes(figure)]
    assert filled == [view.supervised for row in rows for view in row]
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(drawn) == sorted(["first", "second", *(view.text for row in rows for view in row)])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_mistakes_are_framed_and_explained_in_the_legend() -> None:
    def frames(mask):
        [row, _] = view_batch(batch(), EXAMPLES, Letters(), mask=mask)
        figure = plot_tokens({"": row})
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        return [box.get_linestyle() for box in boxes(figure)].count("--"), names

    mask = batch().response_mask
    assert frames(mask)[0] == 0 and "a mistake" not in frames(mask)[1]
    assert frames(torch.ones_like(mask))[0] == 1 and "a mistake" in frames(torch.ones_like(mask))[1]


def test_long_sequences_go_on_in_the_next_line_in_order() -> None:
    views = [TokenView(f"t{i}", "response", True) for i in range(200)]
    figure = plot_tokens({"": views})
    places = [(round(box.get_y()), box.get_x()) for box in boxes(figure)]
    assert places == sorted(places) and len({line for line, _ in places}) > 3


def test_two_dollars_are_no_formula() -> None:
    assert plot_tokens({"": [TokenView("$x^2$", "prompt", False)]})._repr_png_()
    texts = plot_tokens({"": [TokenView("$\\frac$", "prompt", False)]}).axes[0].texts
    assert not texts[0].get_parse_math()


def test_values_are_colours_on_one_scale() -> None:
    views = [TokenView("a", "prompt", False), *(TokenView("b", "response", True, v) for v in (0.0, 1.0, 1.0, 2.0))]
    figure = plot_token_values({"": views}, label="entropy (nats)")
    colours = [box.get_facecolor()[:3] for box in boxes(figure)]
    assert colours[2] == colours[3] and len(set(colours)) == 4
    brightness = [sum(colour) for colour in colours[1:]]
    assert brightness[0] > brightness[1] > brightness[3], "the higher the darker"
    assert figure.axes[1].get_ylabel() == "entropy (nats)"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_ceiling_keeps_one_outlier_from_hiding_the_rest() -> None:
    views = [TokenView("b", "response", True, value) for value in (0.0, 1.0, 50.0)]
    low, middle, high = (box.get_facecolor() for box in boxes(plot_token_values({"": views}, vmax=1.0)))
    assert middle == high != low


@pytest.mark.parametrize("rows", [{}, {"": []}])
def test_nothing_to_draw(rows) -> None:
    with pytest.raises(DataError, match="no token"):
        plot_tokens(rows)
    with pytest.raises(DataError, match="no token"):
        plot_token_values(rows)


def test_no_values_to_draw() -> None:
    with pytest.raises(DataError, match="no token has a value"):
        plot_token_values({"": [TokenView("a", "prompt", False)]})


@pytest.mark.parametrize("pack", [lambda data: data, lambda data: (data, {})])
def test_a_widget_brings_its_sentence(pack, capsys) -> None:
    class Slider:
        def _repr_mimebundle_(self, **kwargs):
            return pack({"text/plain": "IntSlider(value=3)"})

    show_widget(Slider(), "Run the notebook to move it.")
    shown = capsys.readouterr().out
    assert "Run the notebook to move it." in shown and "IntSlider" not in shown
