"""The words of the number reader: units, multipliers, number words, and words that refuse a number."""

from __future__ import annotations

MULTIPLIERS = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "lakh": 10**5,
    "crore": 10**7,
}

CARDINALS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}

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
