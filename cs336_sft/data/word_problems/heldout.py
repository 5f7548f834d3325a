"""Situations that no training text ever shows: graphs of operations new to the model, made of known operations."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import Draft
from cs336_sft.data.word_problems.problem import WordProblem


def catching_up(d: Draft) -> WordProblem:
    """n / (n-n)"""
    who, friend = d.person(), d.person()
    fast, slow, minutes = d.number(80, 250, 5), d.number(40, 110, 5), d.integer(3, 40)
    d.need(fast.value > slow.value)
    ahead = d.given((fast.value - slow.value) * minutes)
    d.need(ahead.value <= 900)
    start = d.say(f"{friend} is {ahead} meters ahead of {who}.", f"{who} is {ahead} meters behind {friend}.")
    speeds = d.say(
        f"{who} runs {fast} meters a minute and {friend} walks {slow} meters a minute.",
        f"{friend} walks {slow} meters a minute, while {who} runs {fast} meters a minute.",
    )
    ask = d.say(f"After how many minutes does {who} catch up?", f"How many minutes does {who} need to catch {friend}?")
    gain = d.step(f"{who} gains", fast - slow, "meters a minute")
    d.step(f"{who} catches up after", ahead / gain, "minutes")
    return d.finish(f"{start} {speeds} {ask}", "minutes")


def broken_candles(d: Draft) -> WordProblem:
    """(n*n - n) * n"""
    who = d.person()
    things = d.say("candles", "glasses", "plates", "vases", "cups")
    boxes, each, broken, price = d.number(3, 9), d.number(6, 15), d.number(3, 20), d.number(2, 9)
    start = d.say(
        f"{who} receives {boxes} boxes of {each} {things}.",
        f"{boxes} boxes with {each} {things} each are sent to {who}.",
    )
    loss = d.say(f"{broken} of the {things} are broken.", f"On the way {broken} {things} break.")
    ask = d.say(
        f"How much does {who} get for the others at ${price} each?",
        f"The others are sold for ${price} each. How much money does {who} get?",
    )
    total = d.step(f"{who} receives", boxes * each, things)
    good = d.step("That leaves", total - broken, things)
    d.step(f"{who} gets", good * price, money=True)
    return d.finish(f"{start} {loss} {ask}", "dollars")


def trip_time(d: Draft) -> WordProblem:
    """n/n + n/n"""
    who = d.person()
    s, t, a, b = d.number(4, 25), d.number(30, 80, 5), d.integer(2, 9), d.integer(2, 12)
    x, y = d.given(s.value * a), d.given(t.value * b)
    first = d.say(
        f"{who} rides a bicycle for {x} kilometers at {s} kilometers an hour.",
        f"At {s} kilometers an hour {who} rides a bicycle for {x} kilometers.",
    )
    second = d.say(
        f"Then {who.they} takes a bus for {y} kilometers at {t} kilometers an hour.",
        f"A bus then takes {who} {y} kilometers at {t} kilometers an hour.",
    )
    ask = d.say("How many hours does the whole trip take?", f"How many hours does {who} travel?")
    ride = d.step("The ride takes", x / s, "hours")
    bus = d.step("The bus takes", y / t, "hours")
    d.step("The whole trip takes", ride + bus, "hours")
    return d.finish(f"{first} {second} {ask}", "hours")


def bus_stops(d: Draft) -> WordProblem:
    """y - y/n with y = x - n + n"""
    start_count, off, on, part = d.number(15, 60), d.number(3, 30), d.number(4, 30), d.number(2, 5)
    d.need(off.value < start_count.value - 2)
    word = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}[part.value]
    start = d.say(f"A bus starts with {start_count} people.", f"There are {start_count} people in a bus.")
    stop = d.say(
        f"At the first stop {off} get off and {on} get on.", f"At the first stop {on} people get on and {off} get off."
    )
    ask = d.say(
        f"At the next stop {word} of the people get off. How many are left?",
        f"How many are left when {word} of the people get off at the second stop?",
    )
    rest = d.step("That leaves", start_count - off, "people")
    total = d.step("Then there are", rest + on, "people")
    gone = d.step("At the next stop", total / part, "people get off")
    d.step("There are", total - gone, "people left")
    return d.finish(f"{start} {stop} {ask}", "people")


def tiles(d: Draft) -> WordProblem:
    """n*n / (n*n) * n"""
    who = d.person()
    a, b, m, n, price = d.number(2, 5), d.number(2, 4), d.integer(2, 9), d.integer(2, 9), d.number(2, 12)
    d.need(a.value != b.value)
    long, wide = d.given(a.value * m), d.given(b.value * n)
    room = d.say("wall", "hall", "garden", "garage")
    start = d.say(f"{who}'s {room} is {long} feet by {wide} feet.", f"{who} has a {room} of {long} by {wide} feet.")
    tile = d.say(
        f"Each tile is {a} feet by {b} feet and costs ${price}.", f"A tile costs ${price} and measures {a} by {b} feet."
    )
    ask = d.say("How much do the tiles to cover it cost?", f"How much does {who} pay to cover all of it?")
    area = d.step(f"The {room} has", long * wide, "square feet")
    small = d.step("A tile has", a * b, "square feet")
    count = d.step(f"{who} needs", area / small, "tiles")
    d.step("The tiles cost", count * price, money=True)
    return d.finish(f"{start} {tile} {ask}", "dollars")


def filling_pool(d: Draft) -> WordProblem:
    """x + (x-n)/n*n"""
    who = d.person()
    vessel = d.say("tank", "pool", "pond", "barrel")
    low, minutes, more, speed = d.number(4, 90), d.number(2, 9), d.number(2, 12), d.integer(2, 19)
    high = d.given(low.value + minutes.value * speed)
    start = d.say(f"{who}'s {vessel} had {low} liters in it.", f"There were {low} liters in {who}'s {vessel}.")
    now = d.say(
        f"After {minutes} minutes of rain it has {high} liters.", f"Now, {minutes} minutes later, it has {high} liters."
    )
    ask = d.say(
        f"If it goes on like this, how many liters are in it after {more} more minutes?",
        f"How many liters will it have in another {more} minutes at this speed?",
    )
    grown = d.step(f"The {vessel} gained", high - low, "liters")
    rate = d.step("It gains", grown / minutes, "liters a minute")
    gain = d.step("It will gain", rate * more, "more liters")
    d.step("It will have", high + gain, "liters")
    return d.finish(f"{start} {now} {ask}", "liters")


def phone_plans(d: Draft) -> WordProblem:
    """x*n - (n + x*n)"""
    who = d.person()
    calls, base, cheap, dear = d.number(6, 60), d.number(8, 60), d.number(2, 6), d.number(5, 12)
    d.need(dear.value > cheap.value)
    plans = d.facts(
        d.say(f"Plan A costs ${dear} for each hour of calls.", f"With plan A an hour of calls costs ${dear}."),
        d.say(
            f"Plan B costs ${base} a year and ${cheap} for each hour of calls.",
            f"With plan B you pay ${base} a year and ${cheap} an hour.",
        ),
    )
    ask = d.say(
        f"How much does {who} save with plan B, if {who.they} calls {calls} hours a year?",
        f"{who} calls {calls} hours a year. How much cheaper is plan B?",
    )
    x = d.step("Plan A costs", calls * dear, money=True)
    y = d.step("The hours of plan B cost", calls * cheap, money=True)
    z = d.step("Plan B costs", base + y, money=True)
    d.step(f"{who} saves", x - z, money=True)
    return d.finish(f"{plans} {ask}", "dollars")


def four_players(d: Draft) -> WordProblem:
    """x + y + z + z/n with y = x*n, z = y-n"""
    a, b, c, e = d.person(), d.person(), d.person(), d.person()
    first, factor, fewer, part = d.number(4, 40), d.number(2, 5), d.number(2, 30), d.number(2, 4)
    third = first.value * factor.value - fewer.value
    d.need(third > 0 and third % part.value == 0)
    share = {2: "half", 3: "a third", 4: "a quarter"}[part.value]
    many = "twice" if factor.value == 2 else f"{factor} times"
    facts = d.facts(
        f"{a} scored {first} points.",
        f"{b} scored {many} as many points as {a}.",
        f"{c} scored {fewer} fewer points than {b}.",
        f"{e} scored {share} as many points as {c}.",
    )
    ask = d.say("How many points did the four score together?", "How many points is that in total?")
    y = d.step(f"{b} scored", first * factor)
    z = d.step(f"{c} scored", y - fewer)
    v = d.step(f"{e} scored", z / part)
    d.step("Together they scored", first + y + z + v, "points")
    return d.finish(f"{facts} {ask}", "points")


TEMPLATES = (
    catching_up,
    broken_candles,
    trip_time,
    bus_stops,
    tiles,
    filling_pool,
    phone_plans,
    four_players,
)
