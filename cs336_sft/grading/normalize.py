"""Removes formatting from a span: unicode forms, calculator annotations, HTML, LaTeX and markdown.

In the result ``=`` separates the sides of an equation, ``$`` is any currency, ``<`` any inequality, and ``REFUSED`` any
symbol next to which a number is no answer. Formatting becomes a space, so that digits are never joined.
"""

from __future__ import annotations

import html
import re
import unicodedata

REFUSED = "\x1a"
THIN = "\u2009"
_GAP = "\x1d"  # before ½: a space, but none after a minus sign

_FOLD = (
    {"°": "°"}
    | {c: "-" for c in "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"}
    | {c: "—" for c in "\u2014\u2015\u2e3a"}
    | {c: "/" for c in "\u2044\u2215\uff0f"}
    | {c: "×" for c in "×✕✖·⋅∙⨯∗＊"}
    | {c: "÷" for c in "÷∶"}
    | {c: "=" for c in "≈≃≅≒≡≐＝"}
    | {c: "<" for c in "≤≥≠≮≯⩽⩾≦≧≪≫≰≱＜＞≨≩⪅⪆"}
    | {c: "~" for c in "∼～〜"}
    | {c: "'" for c in "‘’′ʼ＇"}
    | {c: '"' for c in "“”″«»„「」『』"}
    | {c: THIN for c in "\u2009\u202f"}
    | {"…": "...", "。": ".", "、": ",", "•": " ", "∴": ",", "℃": " deg ", "℉": " deg ", "˚": "°", "º": "°"}
    | {c: REFUSED for c in "❌✗✘🚫❎\u202d\u202e\u2066\u2067\u2068"}
)
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]{1,20}")
_UNIT_SUPERSCRIPT = re.compile("(?<=[A-Za-z])[¹²³]|(?<=[A-Za-z])⁻[¹²³]")
_DEGREES = re.compile(r"°(?:\s*[CFK](?![A-Za-z]))?")
# Chinese measure words and the like that may follow a number; other scripts are refused.
_CJK_NOUNS = frozenset(
    "元个只本人天美小时分钟岁块支名位次件条张辆米克斤公里答案是为的共最终：総円個塊歲時間分隻円枚冊台杯升名箱頁页"
)


def _fold_unicode(span: str) -> str:
    """Replace characters by those that the reader knows."""
    span = _UNIT_SUPERSCRIPT.sub("", unicodedata.normalize("NFC", span))
    span = _SUPERSCRIPTS.sub(lambda m: "^" + m.group().translate(_SUPERSCRIPT), span)
    span = "".join(map(_fold, span)).replace("-" + _GAP, "-").replace(_GAP, " ")
    return _DEGREES.sub(" deg ", span)


def _fold(c: str) -> str:
    if c < "\x80":
        return c
    known = _FOLD.get(c)
    if known is not None:
        return known
    code = ord(c)
    if 0xFF01 <= code <= 0xFF5E:
        return chr(code - 0xFEE0)
    kind = unicodedata.category(c)
    if kind == "Nd":
        return str(unicodedata.decimal(c))
    if kind == "Cf" or 0xFE00 <= code <= 0xFE0F:
        return ""
    if kind == "Sc":
        return "$"
    if kind in ("Zs", "Zl", "Zp", "Cc"):
        return " "
    if kind == "No":
        form = unicodedata.normalize("NFKC", c)
        whole, slash, part = form.partition("\u2044")
        return f"{_GAP}{whole}/{part}" if slash and whole.isdecimal() and part.isdecimal() else REFUSED
    if kind[0] == "L":
        # Letters of Latin words stay (café); those of other scripts only where they are surely nouns.
        if code < 0x250 or 0x1E00 <= code < 0x1F00:
            return c
        return " " if c in _CJK_NOUNS else REFUSED
    if "\u2190" <= c <= "\u21ff" or "\u27f0" <= c <= "\u27ff" or "\u2794" <= c <= "\u27be":
        return ","
    if kind == "So":
        return " "
    if kind in ("Ps", "Pe", "Po"):
        return " " if c not in "‰‱" else REFUSED
    return REFUSED


_DOLLARS = re.compile(r"\b(?:US|AU|CA|NZ|HK|A|C|S|R)\$(?=\s*[\d.])")
_ENTITY = re.compile(r"&[A-Za-z]{1,10};")
_SPACES = re.compile(r" {2,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ANNOTATION = re.compile(r"<<[^<>\n]{0,200}>>")
_HTML = re.compile(
    r"</?(?:b|i|u|em|strong|p|br|hr|span|div|code|pre|answer|think|center|mark|small|big|font|td|tr|th|table|li|ul|ol"
    r"|h[1-6])(?:\s[^<>]{0,60})?\s?/?>",
    re.IGNORECASE,
)
_ARROW = re.compile(r"(?:(?<![<>=!\-])[-=]{1,3}>)")
_DEGREE_POWER = re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\b\s*\}?\s*(?:\\text\{\s*)?(?:[CFK](?![A-Za-z])\s*\}?)?")
_APPROXIMATELY = re.compile(r"[^~\d]{0,40}~\s*\\?\$?\s*\d")
_THIN_GROUP = re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]{0,60})\}|(\d))\s*(?:\{([^{}]{0,60})\}|(\d))")
_UNIT = r"\{\s*\\(?:text|mathrm)\s*\{[A-Za-z ]{1,20}\}\s*\}"
_UNIT_FRACTION = re.compile(rf"\\[dtc]?frac\s*{_UNIT}\s*{_UNIT}")
_FRACTION_PART = re.compile(r"\s*(-?)\s*(\d[\d,]*)\s*")
_DROPPED_ARGUMENT = re.compile(r"\\(?:color|textcolor|hspace|vspace)\*?\s*\{[^{}]{0,60}\}")
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|[^A-Za-z]|$)", re.DOTALL)
_COMMANDS = (
    dict.fromkeys(
        "text textbf textit textrm textsf texttt textnormal textup emph mathrm mathbf mathit mathsf mathtt mathnormal "
        "boldsymbol bm mbox hbox boxed fbox framebox underline displaystyle textstyle scriptstyle rm bf it sf tt left "
        "right big Big bigg Bigg bigl bigr Bigl Bigr quad qquad space thinspace large Large LARGE small normalsize "
        "huge centering operatorname ensuremath , ; : ! / ( ) [ ] { } \\ _ # & - par newline nobreakspace bigskip "
        "hfill noindent checkmark square blacksquare qed num SI qty unit si".split()
        + [" ", "\n", ""],
        " ",
    )
    | dict.fromkeys("$ textdollar pounds euro yen cent textcent rupee textsterling".split(), "$")
    | dict.fromkeys("times cdot ast star".split(), "×")
    | dict.fromkeys("approx simeq cong equiv approxeq doteq".split(), "=")
    | dict.fromkeys("le leq leqslant ge geq geqslant lt gt ne neq ll gg not nless ngtr nleq ngeq lesssim".split(), "<")
    | dict.fromkeys("to rightarrow Rightarrow longrightarrow Longrightarrow implies therefore so".split(), ",")
    | dict.fromkeys("dots ldots cdots".split(), "...")
    | dict.fromkeys("circ degree textdegree".split(), " deg ")
    | {"%": "%", "div": "÷", "sim": "~", "colon": ":", "*": "*", ".": ".", "-": "-", "+": "+", "~": "~", "=": "="}
    | {"`": "`", "'": "'", '"': '"', ">": "<", "<": "<", "|": "|", "n": " "}
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s*\^\s*-?\s*[1-3](?!\d)")
_UNIT_DIGIT = re.compile(r"(?<![A-Za-z])(k?m|cm|mm|ft|in|yd|mi)[23](?![\dA-Za-z])")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{0,300}?)(?<=\S)\*(?![\w*])")
_EDGE_STAR = re.compile(r"^\s*\*(?=\s)|^\s*\*(?=[^*]*$)|\*\s*$")


def _fraction(m: re.Match[str]) -> str:
    top, bottom = (_FRACTION_PART.fullmatch(part) for part in (m[1] or m[2] or "", m[3] or m[4] or ""))
    if not top or not bottom or bottom[1]:
        return REFUSED
    gap = "" if m.string[m.start() - 1 : m.start()] == "-" else " "  # a minus sign stays at its number
    return f"{gap}{top[1]}{top[2]}/{bottom[2]} "


def normalize(span: str) -> str:
    """Remove the formatting of a span.

    >>> normalize("**\\\\$1{,}080** \\\\text{ per day} <<9*120=1080>>").split()
    ['$1,080', 'per', 'day']
    """
    span = _ENTITY.sub(REFUSED, html.unescape(_CONTROL.sub(" ", span)))
    if not span.isascii():
        span = _fold_unicode(span)
    span = _ANNOTATION.sub(" ", _DOLLARS.sub("$", span))
    span = _ARROW.sub(",", _HTML.sub(" ", span))
    if "~~" in span:
        return REFUSED
    if "*" in span or "_" in span or "`" in span:
        span = span.replace("***", " ").replace("**", " ").replace("_", " ").replace("`", " ")
        span = _EDGE_STAR.sub(" ", _EMPHASIS.sub(r" \1 ", span))
    if "\\" in span or "{" in span:
        span = span.replace("{,}", ",").replace("\\!", "")
        span = span.replace("~", " ") if "~" in span and not _APPROXIMATELY.match(span) else span
        span = _DEGREE_POWER.sub(" deg ", _THIN_GROUP.sub(THIN, span))
        span = _DROPPED_ARGUMENT.sub(" ", _FRACTION.sub(_fraction, _UNIT_FRACTION.sub(" units ", span)))
        span = _COMMAND.sub(lambda m: _COMMANDS.get(m[1], REFUSED), span)
        span = span.replace("{", " ").replace("}", " ")
    span = _UNIT_POWER.sub("", _EDGE_STAR.sub(" ", span))  # stars that LaTeX hid at the edge
    return _SPACES.sub(" ", _UNIT_DIGIT.sub(r"\1", span.replace("#", " ")))
