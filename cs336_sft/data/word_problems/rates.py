"""Situations about speed, work, supply and time. Each docstring gives the graph of operations."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import LARGEST, Draft
from cs336_sft.data.word_problems.problem import WordProblem


def same_speed(d: Draft) -> WordProblem:
    """n / n * n"""
    who = d.person()
    speed, hours, more = d.integer(4, 75), d.number(2, 9), d.number(2, 13)
    d.need(hours.value != more.value)
    distance = d.given(speed * hours.value)
    start = d.say(
        f"{who} drives {distance} kilometers in {hours} hours.",
        f"In {hours} hours {who} travels {distance} kilometers.",
    )
    ask = d.say(
        f"At the same speed, how far does {who} get in {more} hours?",
        f"How many kilometers does {who.they} travel in {more} hours at that speed?",
    )
    extra = d.maybe(f"The road is {d.integer(4, 15)} meters wide.")
    each = d.step(f"{who} travels", distance / hours, "kilometers an hour")
    d.step(f"{who} travels", each * more, f"kilometers in {more} hours")
    return d.finish(f"{start}{extra} {ask}", "kilometers")


def two_taps(d: Draft) -> WordProblem:
    """n / (n+n)"""
    a, b, minutes = d.number(3, 29), d.number(3, 29), d.integer(3, 30)
    volume = d.given((a.value + b.value) * minutes)
    d.need(volume.value <= LARGEST)
    vessel = d.say("tank", "pool", "barrel", "basin")
    taps = d.say(
        f"One tap gives {a} liters a minute and another gives {b} liters a minute.",
        f"Two taps are opened: one gives {a} liters a minute, the other {b}.",
    )
    size = d.say(
        f"They fill an empty {vessel} of {volume} liters.", f"The empty {vessel} under them holds {volume} liters."
    )
    ask = d.say(f"How many minutes until the {vessel} is full?", f"After how many minutes is the {vessel} full?")
    rate = d.step("Together the taps give", a + b, "liters a minute")
    d.step(f"The {vessel} is full after", volume / rate, "minutes")
    return d.finish(f"{taps} {size} {ask}", "minutes")


def workers(d: Draft) -> WordProblem:
    """n * n / n"""
    men, days, others = d.number(3, 15), d.number(4, 24), d.number(2, 18)
    d.need(men.value != others.value and men.value * days.value % others.value == 0)
    job = d.say("paint a school", "build a wall", "repair a road", "harvest a field")
    start = d.say(f"{men} workers need {days} days to {job}.", f"It takes {men} workers {days} days to {job}.")
    ask = d.say(f"How many days would {others} workers need?", f"How long, in days, would it take {others} workers?")
    work = d.step("The job takes", men * days, "days for one worker")
    d.step(f"{others} workers need", work / others, "days")
    return d.finish(f"{start} All of them work at the same speed. {ask}", "days")


def leaking_tank(d: Draft) -> WordProblem:
    """(n-n) / (n-n)"""
    inflow, outflow, minutes, now = d.number(8, 40), d.number(2, 19), d.integer(4, 40), d.number(15, 200, 5)
    d.need(inflow.value > outflow.value + 1)
    size = d.given(now.value + (inflow.value - outflow.value) * minutes)
    vessel = d.say("tank", "pool", "pond")
    facts = d.facts(
        d.say(
            f"A {vessel} for {size} liters has {now} liters of water in it.",
            f"There are {now} liters in a {vessel} that holds {size} liters.",
        ),
        d.say(f"A pump brings {inflow} liters a minute.", f"Each minute {inflow} liters flow in."),
        d.say(f"A leak loses {outflow} liters a minute.", f"Each minute {outflow} liters are lost through a leak."),
    )
    ask = d.say(f"How many minutes does it take to fill the {vessel}?", f"In how many minutes is the {vessel} full?")
    space = d.step(f"The {vessel} can take", size - now, "more liters")
    rate = d.step("Each minute it gains", inflow - outflow, "liters")
    d.step("Filling it takes", space / rate, "minutes")
    return d.finish(f"{facts} {ask}", "minutes")


def supply(d: Draft) -> WordProblem:
    """n*n - n*n"""
    who = d.person()
    packs, each, daily, days = d.number(5, 15), d.number(8, 36), d.number(3, 14), d.number(5, 21)
    things = d.say("batteries", "napkins", "tea bags", "candles", "envelopes")
    facts = d.facts(
        d.say(
            f"{who} buys {packs} packs of {each} {things}.",
            f"There are {each} {things} in each of the {packs} packs {who} bought.",
        ),
        d.say(
            f"{who}'s office uses {daily} {things} a day.", f"Every day {daily} {things} are used in {who}'s office."
        ),
    )
    ask = d.say(
        f"How many {things} are left after {days} days?", f"{days} days later, how many of the {things} are left?"
    )
    total = d.step(f"{who} buys", packs * each, things)
    used = d.step("The office uses", daily * days, things)
    d.step("There are", total - used, f"{things} left")
    return d.finish(f"{facts} {ask}", things)


def average_speed(d: Draft) -> WordProblem:
    """(n*n + n*n) / (n+n)"""
    who = d.person()
    a, s, b, t = d.number(2, 5), d.number(4, 40, 2), d.number(2, 6), d.number(4, 40, 2)
    d.need(s.value != t.value and (a.value * s.value + b.value * t.value) % (a.value + b.value) == 0)
    first = d.say(
        f"{who} rides {a} hours at {s} kilometers an hour.", f"For {a} hours {who} rides at {s} kilometers an hour."
    )
    second = d.say(
        f"Then {who.they} rides {b} hours at {t} kilometers an hour.",
        f"The next {b} hours {who.they} rides at {t} kilometers an hour.",
    )
    ask = d.say("What is the average speed of the whole trip?", "How many kilometers an hour is that on average?")
    x = d.step("The first part is", a * s)
    y = d.step("The second part is", b * t)
    total = d.step("The trip is", x + y)
    d.step("The average is", total / (a + b), "kilometers an hour")
    return d.finish(f"{first} {second} {ask}", "kilometers an hour")


def two_machines(d: Draft) -> WordProblem:
    """n / (n/n + n/n)"""
    things = d.say("bottles", "boxes", "bricks", "letters", "cans")
    a, b, r, s, minutes = d.number(2, 8), d.number(3, 9), d.integer(3, 19), d.integer(3, 19), d.integer(3, 15)
    x, y, total = d.given(a.value * r), d.given(b.value * s), d.given((r + s) * minutes)
    facts = d.facts(
        d.say(
            f"The old machine packs {x} {things} in {a} minutes.", f"In {a} minutes the old machine packs {x} {things}."
        ),
        d.say(
            f"The new machine packs {y} {things} in {b} minutes.", f"In {b} minutes the new machine packs {y} {things}."
        ),
    )
    ask = d.say(
        f"How many minutes do both together need for {total} {things}?",
        f"Both run together. In how many minutes are {total} {things} packed?",
    )
    old = d.step("The old one packs", x / a, "a minute")
    new = d.step("The new one packs", y / b, "a minute")
    both = d.step("Together they pack", old + new, "a minute")
    d.step("They need", total / both, "minutes")
    return d.finish(f"{facts} {ask}", "minutes")


def reading_faster(d: Draft) -> WordProblem:
    """(n - n*n)/n - n"""
    who = d.person()
    days, daily, rest, faster = d.number(3, 12), d.number(6, 24), d.number(3, 9), d.integer(3, 25)
    pages = d.given(days.value * daily.value + rest.value * (daily.value + faster))
    start = d.say(f"{who} has to read {pages} pages for school.", f"The book {who} must finish has {pages} pages.")
    done = d.say(
        f"For {days} days {who.they} read {daily} pages a day.", f"{who.They} read {daily} pages a day for {days} days."
    )
    ask = d.say(
        f"Only {rest} days are left. How many more pages a day must {who.they} read now?",
        f"By how many pages a day must {who} speed up to finish in {rest} more days?",
    )
    read = d.step(f"{who} has read", days * daily, "pages")
    left = d.step("That leaves", pages - read, "pages")
    need = d.step(f"{who} must read", left / rest, "pages a day")
    d.step("That is", need - daily, "more pages a day")
    return d.finish(f"{start} {done} {ask}", "pages")


def animal_feed(d: Draft) -> WordProblem:
    """(n*n + n*n) * n / n"""
    who = d.person()
    a, p, b, q, days, bag = (
        d.number(2, 8),
        d.number(2, 6),
        d.number(2, 9),
        d.number(2, 5),
        d.number(4, 30),
        d.number(5, 30, 5),
    )
    (first, second) = d.two(("dogs", "cats", "rabbits", "goats", "sheep"))
    daily = a.value * p.value + b.value * q.value
    d.need(daily * days.value % bag.value == 0)
    facts = d.facts(
        d.say(
            f"Each day {who}'s {a} {first} eat {p} cups of food each.",
            f"{who} gives each of {a} {first} {p} cups of food a day.",
        ),
        d.say(
            f"Each of {who}'s {b} {second} eats {q} cups of food a day.",
            f"{who} gives {q} cups a day to each of {b} {second}.",
        ),
    )
    ask = d.say(
        f"One bag has {bag} cups. How many bags are needed for {days} days?",
        f"How many bags of {bag} cups does {who} need for {days} days?",
    )
    x = d.step(f"The {first} eat", a * p, "cups")
    y = d.step(f"The {second} eat", b * q, "cups")
    each = d.step("That is", x + y, "cups a day")
    d.step(f"{who} needs", each * days / bag, "bags")
    return d.finish(f"{facts} {ask}", "bags")


TEMPLATES = (
    same_speed,
    two_taps,
    workers,
    leaking_tank,
    supply,
    average_speed,
    two_machines,
    reading_faster,
    animal_feed,
)
