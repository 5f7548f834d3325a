"""No numpy: sorts and interpolates by hand; tokenizer.tokenize."""

from __future__ import annotations

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer) -> LengthTable:
    prompt = tuple(len(tokenizer.tokenize(template.prompt(p))) for p in problems)
    answer = tuple(len(tokenizer.tokenize(p.answer)) for p in problems)
    return LengthTable(prompt, answer)


def _percentile(values, q):
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (position - low) * (ordered[high] - ordered[low]))


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    total = [p + a for p, a in zip(table.prompt, table.answer, strict=True)]
    result = {}
    for name, values in (("prompt", table.prompt), ("answer", table.answer), ("total", total)):
        result[name] = {}
        for q in (50, 90, 95, 99, 99.5):
            result[name][str(q)] = _percentile(values, q)
    return result
