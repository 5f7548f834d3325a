"""Decides, from the text before and after a number, its sign and whether it is the answer.

Not an answer: a bound (``at least 18``), a part of something (``half of 18``), a date (``May 18``), a time (``18 pm``),
an operation (``18 - x``), an ordinal (``18th``), code, a denial (``not 18``), a choice (``18 or``), a number in words.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cs336_sft.grading.normalize import REFUSED
from cs336_sft.grading.quantity import MULTIPLIERS, Refusal

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
CARDINALS = {word: value for value, word in enumerate(_TO_NINETEEN.split())}
CARDINALS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
# Single letters that are units when they stand right after the number, or after a slash.
LETTER_UNITS = frozenset("mgLlhsWV")
# Short words that may be glued to a number ("18kg"); words of four letters or more may always be.
SHORT_UNITS = frozenset(
    "kg mg cm mm km ft in yd mi lb lbs oz pt pts qt gal ml mL cl dl kl kL hr hrs min mins sec secs ms wk wks yr yrs "
    "mo day days mph kph kmh kw kW kWh kwh MB GB KB TB Hz kHz MHz GHz USD usd EUR eur GBP gbp CAD AUD INR JPY CNY cal "
    "deg rad mol ha men box egg pen cup car pie cow pig hen dog cat bag toy boy kid pop sq cu km/h Kg KG Km KM "
    "ants eggs cups cars pies cows pigs hens dogs cats bags toys boys kids pens gms gm tsp tbs each per yo".split()
)
# Letters that may be glued in front of a number.
CURRENCY_CODES = frozenset("usd us eur gbp inr rs cad aud ca au nz hk jpy cny rmb".split())
# Anywhere in the span they deny it, make it conditional or leave a choice.
REFUSING = frozenset(
    "not never cannot cant neither nor wrong wrongly incorrect incorrectly false untrue except mistaken mistake "
    "error invalid isnt wasnt dont doesnt didnt arent wont unlike or either vs versus if unless than nicht kein "
    "keine pas ne plus minus divided multiplied squared cubed factorial sqrt mod modulo half halves thirds fourths "
    "fifths sixths sevenths eighths ninths tenths hundredths thousandths hundredth thousandth inf infinity infinite "
    "nan lambda undefined pi negative mil mill mio grand".split()
)
# A number word after one of these counts something else ("36 cups for the two boys"), without "of" before it.
HARMLESS_BEFORE_CARDINAL = frozenset(
    "in for the with after from among within every each all both his her their its these those my our your at on "
    "into over during last next first past other any".split()
)
MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec"
)
DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|Mon|Tue|Tues|Wed|Thu|Thurs|Fri|Sat|Sun"

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_TIME = re.compile(
    r"\s*(?:[ap]\.\s?m\b|[ap]m\b|o\s?'?\s?clock\b|(?:noon|midnight)\b|(?:AD|BC|BCE|CE)\b)", re.IGNORECASE
)
_CAPITALS = f"{MONTHS}|{MONTHS.upper()}"
_MONTH_BEFORE = re.compile(rf"\b(?:{_CAPITALS}|may|{DAYS}|{DAYS.upper()})\.?,?\s+(?:the\s+)?$")
_MONTH_AFTER = re.compile(rf"[\s-]*(?:of\s+)?(?:{_CAPITALS})\b")
_BOUND_BEFORE = re.compile(
    r"\b(?:at (?:the )?(?:least|most|minimum|maximum)|up to|over|under|above|below|beyond|exceed(?:s|ing)?|within"
    r"|almost|nearly|near|close to|short of|shy of|but|than|twice|thrice|doubled?|tripled?|quadruple|times|by|past"
    r"|power|root|minimum of|maximum of|between|from|ranging|log|ln|sin|cos|tan|return|per"
    r"|(?:than|half|square|root|cube|multiple|factor|percent|percentage|quarter|third|fourth|fifth|sixth|eighth|tenth"
    r"|out|log|power|rest|some|most|part|portion|fraction|each|one|all|none|any|both|divisor|reciprocal|inverse"
    r"|opposite|product)s?\s+of)[^A-Za-z]*(?:an?\s+)?$|%\s*of\W*$|^\W*\?\W*$",
    re.IGNORECASE,
)
_BOUND_AFTER = re.compile(
    r"\s*(?:\+|(?:and|&) (?:up|above|over|below|under|more|less|fewer|counting|change)\b"
    r"|(?:to|through|and|of|out of|per|x)\W*$|-?ish\b|(?:max|maximum|min|minimum|tops|ish|squared|cubed)\b"
    r"|(?:grand|mil|mill|mio|bn|tn)\W*$)|.*\bbelow(?:\W*$| (?:zero|freezing)\b)|.*\bat (?:least|most)\b",
    re.IGNORECASE | re.DOTALL,
)
_REFUSED_AFTER = (
    (_TIME, "a time or a year"),
    (_MONTH_AFTER, "a date"),
    (_BOUND_AFTER, "a bound or an unfinished phrase"),
    (re.compile(r"[\s-]*(?:st|nd|rd|th)\b", re.IGNORECASE), "an ordinal"),
)
# "20 people did not go": the denial is about the people. "18 dollars is not right" is about the answer.
_NOUN_CLAUSE = re.compile(
    r"(?<=[a-z])\s+(?:(?:who|that|which)\s+)?(?:[a-z]+\s+)?(?:did|do|does|are|were|has|have|had|will|would|could|can|should)"
    r"(?:\s+not|n't)\s+(?!the|an?\b|my|our|correct|right|true|possible|equal|what|it|this|that|enough|quite|sure|so\b|be\b)"
    r"(?=[a-z]{2})",
)
# "17 incorrect answers"
_NOUN_ADJECTIVE = re.compile(r"^\s*(?:more\s+)?(?:wrong|incorrect|false)(?=\s+[a-z]+s\b)")
_UNIT_SQUARED = re.compile(
    r"\b(?:[mck]?m|ft|feet|foot|inch(?:es)?|yards?|miles?|units?|(?:centi|kilo)?met(?:er|re)s?)\s+(?:squared|cubed)\b"
)
_SQUARE_LETTER = re.compile(r"(?:sq|square|cu|cubic|per)\.?\s*\Z")
_DEGREE_LETTER = re.compile(r"\bdeg(?:rees?)?\s*\Z")
_HALF_OF_TIME = re.compile(r"\b(?:first|second|other|last)\s+half\b", re.IGNORECASE)
_LABELLED = re.compile(
    r"\b(?:class|store|shop|station|box|group|team|building|type|section|route|plan|room|house|city|town|train|car)\s+\Z",
    re.IGNORECASE,
)
_PART_WORD = re.compile(
    r"\b(?:a|one|two|three)[\s-]+(?:third|quarter|fourth|fifth|sixth|eighth|tenth)s?\b", re.IGNORECASE
)
_REFUSED_BEFORE = (
    (_MONTH_BEFORE, "a date"),
    (_BOUND_BEFORE, "a bound, or a part or multiple of the number"),
    (re.compile(r"[A-Za-z_]\w*[(\[]['\"\s]*$"), "code"),
)
_OPENING = " \t\n$([\"'"
_ABBREVIATION = re.compile(r"\b(?:[A-Za-z]\.){2,}|\b[A-Z]&[A-Z]\b")
_LABEL_DASH = re.compile(r"(?:answer|ans|result|solution)\W*$", re.IGNORECASE)
_ALLOWED = re.compile(r"[\w\s.,;:()\[\]\"'$%&|—/?!\u2009-]*")
_PER_AFTER = re.compile(r"\s*\$?\s*/(?:-(?=[\s.,)]|\Z)|(?=\s*[A-Za-z]))")
_UNIT_HYPHEN = re.compile(r"-(?=[A-Za-z]{2})")
_SLASH = re.compile(r"(?<=[A-Za-z$.)])\s*/\s*(?=[A-Za-z])")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])|(?<![-\w])-{2,}(?![-\w])|^\s*-\s+(?=[^\W\d_])")


def check_context(left: str, right: str, value: Fraction) -> None:
    """Raise a Refusal unless the text around a number leaves it the answer."""
    _check_left(left)
    _check_right(right, left)
    _check_words(left, right, value)


def take_sign(left: str) -> tuple[int, str]:
    """Return the sign at the end of the text before a number, and the rest.

    Raises Refusal: a minus or plus that may be an operation, a range or a dash.

    >>> take_sign("a change of -$"), take_sign("Answer - ")
    ((-1, 'a change of '), (1, 'Answer '))
    """
    word = re.search(r"\b(negative|minus)\s*\$?\s*$", left, re.IGNORECASE)
    if word:
        before = left[: word.start(1)]
        if word[1].lower() == "minus" and not re.search(
            r"(?:^|[:(,]|\b(?:is|equals|so|answer))[\s\"'$(]*$", before, re.I
        ):
            raise Refusal("an operation that is not carried out")
        return -1, before
    tail = left.rstrip(_OPENING)
    if not tail.endswith(("-", "+", "—")):
        return 1, left
    mark, before, gap = tail[-1], tail[:-1], left[len(tail) :]
    spaced = gap[:1].isspace()
    sign = -1 if mark == "-" else 1
    is_first = not before.strip(_OPENING + "|,")
    if mark == "—":
        if spaced and not is_first:
            return 1, before
        raise Refusal("a dash that may be a minus sign")
    if is_first:
        return sign, before
    if not spaced and before[-1] in _OPENING + "|" and before.rstrip(_OPENING + "|")[-1:] not in "-+*×÷/^)%":
        return sign, before
    if spaced and re.search(r"[:,]\s+$|\b(?:is|equals|be|was)\s+$", before, re.IGNORECASE):
        return sign, before
    if spaced and mark == "-" and before[-1:].isspace() and _LABEL_DASH.search(before):
        return 1, before
    raise Refusal("an operation or a range")


def _check_left(left: str) -> None:
    glued = re.search(r"([^\W\d_]+)$", left)
    if glued and glued[1].lower() not in CURRENCY_CODES:
        raise Refusal("letters glued to the number")
    if left.endswith(".") and not re.search(r"\b(?:rs|ans|answer)\.$", left, re.IGNORECASE):
        raise Refusal("a number cut in two")
    for pattern, reason in _REFUSED_BEFORE:
        if pattern.search(left):
            raise Refusal(reason)


def _check_right(right: str, left: str) -> None:
    for pattern, reason in _REFUSED_AFTER:
        if pattern.match(right):
            raise Refusal(reason)
    if right.lstrip().startswith(".."):
        raise Refusal("a number cut off")
    if right.startswith("!") and (not re.search(r"[A-Za-z]{2}", left) or re.match(r"!\s*[a-z!$]", right)):
        raise Refusal("a factorial")
    if "?" in right:
        raise Refusal("a question")
    glued = re.match(r"[^\W\d_]+", right)
    if glued and not (glued[0] in SHORT_UNITS | LETTER_UNITS or len(glued[0]) >= 4 and glued[0].isalpha()):
        raise Refusal("letters glued to the number")
    if re.match(r"\s*-(?![A-Za-z]{2}|-)", right) or re.match(r"\s+-(?!-)", right):
        raise Refusal("an operation or a range")


def _check_words(left: str, right: str, value: Fraction) -> None:
    for text, is_left in ((left, True), (right, False)):
        if REFUSED in text or not _ALLOWED.fullmatch(text.replace("~", " ", 1) if is_left else text):
            raise Refusal("a symbol that is no part of a number or unit")
        body = _ABBREVIATION.sub("abbr", text)
        for pattern, word in () if is_left else ((_PER_AFTER, " per "), (_UNIT_HYPHEN, " ")):
            found = pattern.match(body)
            if found:
                body = word + body[found.end() :]
        body = _SLASH.sub(" per ", body)
        _check_single_letters(body, is_left)
        body = _HYPHEN.sub(" ", body)
        if "/" in body or "-" in body:
            raise Refusal("an operation that is not carried out")
        if is_left and "%" in body.replace("(%)", ""):
            raise Refusal("a percent sign before the number")
        if not is_left:
            body = _UNIT_SQUARED.sub(" area ", _NOUN_CLAUSE.sub(" who ", _NOUN_ADJECTIVE.sub(" ", body)))
        words = [word.lower() for word in _WORD.findall(_HALF_OF_TIME.sub(" ", body))]
        for i, word in enumerate(words):
            if word.endswith("n't") or word in REFUSING and not (word == "than" and not is_left):
                raise Refusal(f'a choice, denial, condition or operation: "{word}"')
            if word == "no" and (is_left or i == len(words) - 1):
                raise Refusal('a denial: "no"')
        if _PART_WORD.search(body):
            raise Refusal("a part of the number")
        _check_number_words(words, value, is_left)


def _check_single_letters(body: str, is_left: bool) -> None:
    for found in re.finditer(r"(?<![\w'])[^\W\d_](?![\w'])", body):
        letter, before, after = found.group(), body[: found.start()], body[found.end() :]
        harmless = (
            letter in "aAI" and after[:1].isspace(),
            letter.isupper() and _LABELLED.search(before),
            letter.isupper() and before[-1:] != "-" and re.match(r"-[A-Za-z]{2}", after),  # T-shirt
            is_left and after.lstrip().startswith(":"),
            is_left and letter.isupper() and after[:1] in (".", ")"),
            is_left and re.match(r"\s+(?:is|was|must be|will be)\b", after, re.IGNORECASE),
            not is_left and letter in LETTER_UNITS and (not before.strip(" ") or _SQUARE_LETTER.search(before)),
            not is_left and letter in "CFK" and _DEGREE_LETTER.search(before),
        )
        if not any(harmless):
            raise Refusal(f'a variable: "{letter}"')


def _check_number_words(words: list[str], value: Fraction, is_left: bool) -> None:
    """Allow "18 (eighteen)" and "for two days", no other number in words."""
    run: list[str] = []
    for i, word in enumerate([*words, ""]):
        if word in CARDINALS or (word in MULTIPLIERS or word == "and") and run:
            run.append(word)
            continue
        start = i - len(run)
        while run and run[-1] == "and":
            run.pop()
        before = words[start - 1] if start > 0 else ""
        if run and (run != ["one"] or before == "and") and _spelled(run) != value:
            share = not is_left and words[:1] in (["of"], ["out"])  # "18 of the twenty"
            if before not in HARMLESS_BEFORE_CARDINAL or share:
                raise Refusal("another number in words")
        if not run and word in MULTIPLIERS:
            raise Refusal("another number in words")
        run = []


def _spelled(run: list[str]) -> int:
    total = part = 0
    for word in run:
        if word in CARDINALS:
            part += CARDINALS[word]
        elif word == "hundred":
            part = max(part, 1) * 100
        elif word in MULTIPLIERS:
            total, part = total + max(part, 1) * MULTIPLIERS[word], 0
    return total + part
