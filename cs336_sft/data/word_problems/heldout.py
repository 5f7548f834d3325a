"""Situations that no training text ever shows: graphs of operations new to the model, made of known operations."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import PART_WORDS, Draft, WordProblem, times


def catching_up(d: Draft) -> WordProblem:
    who, friend = d.person(), d.person()
    fast, slow, minutes = d.number(80, 250, 5), d.number(40, 110, 5), d.integer(3, 40)
    d.need(fast.value > slow.value)
    ahead = d.given((fast.value - slow.value) * minutes)
    d.need(ahead.value <= 900)
    story = d.story(f"""
        {friend} is {ahead} meters ahead of {who}. | {who} is {ahead} meters behind {friend}.
        {who} runs {fast} meters a minute and {friend} walks {slow} meters a minute.
        | {friend} walks {slow} meters a minute, while {who} runs {fast} meters a minute.
        After how many minutes does {who} catch up? | How many minutes does {who} need to catch {friend}?
    """)
    gain = d.step(f"{who} gains", fast - slow, "meters a minute")
    d.step(f"{who} catches up after", ahead / gain, "minutes")
    return d.finish(story, "minutes")


def broken_candles(d: Draft) -> WordProblem:
    who, things = d.person(), d.say("candles", "glasses", "plates", "vases", "cups")
    boxes, each, broken, price = d.number(3, 9), d.number(6, 15), d.number(3, 20), d.number(2, 9)
    story = d.story(f"""
        {who} receives {boxes} boxes of {each} {things}. | {boxes} boxes with {each} {things} each are sent to {who}.
        {broken} of the {things} are broken. | On the way {broken} {things} break.
        How much does {who} get for the others at ${price} each?
        | The others are sold for ${price} each. How much money does {who} get?
    """)
    total = d.step(f"{who} receives", boxes * each, things)
    good = d.step("That leaves", total - broken, things)
    d.step(f"{who} gets", good * price, money=True)
    return d.finish(story, "dollars")


def trip_time(d: Draft) -> WordProblem:
    who = d.person()
    s, t, a, b = d.number(4, 25), d.number(30, 80, 5), d.integer(2, 9), d.integer(2, 12)
    x, y = d.given(s.value * a), d.given(t.value * b)
    story = d.story(f"""
        {who} rides a bicycle for {x} kilometers at {s} kilometers an hour.
        | At {s} kilometers an hour {who} rides a bicycle for {x} kilometers.
        Then {who.they} takes a bus for {y} kilometers at {t} kilometers an hour.
        | A bus then takes {who} {y} kilometers at {t} kilometers an hour.
        How many hours does the whole trip take? | How many hours does {who} travel?
    """)
    ride = d.step("The ride takes", x / s, "hours")
    bus = d.step("The bus takes", y / t, "hours")
    d.step("The whole trip takes", ride + bus, "hours")
    return d.finish(story, "hours")


def bus_stops(d: Draft) -> WordProblem:
    start_count, off, on, part = d.number(15, 60), d.number(3, 30), d.number(4, 30), d.number(2, 5)
    d.need(off.value < start_count.value - 2)
    word = PART_WORDS[part.value]
    story = d.story(f"""
        A bus starts with {start_count} people. | There are {start_count} people in a bus.
        At the first stop {off} get off and {on} get on. | At the first stop {on} people get on and {off} get off.
        At the next stop {word} of the people get off. How many are left?
        | How many are left when {word} of the people get off at the second stop?
    """)
    rest = d.step("That leaves", start_count - off, "people")
    total = d.step("Then there are", rest + on, "people")
    gone = d.step("At the next stop", total / part, "people get off")
    d.step("There are", total - gone, "people left")
    return d.finish(story, "people")


def tiles(d: Draft) -> WordProblem:
    who = d.person()
    a, b, m, n, price = d.number(2, 5), d.number(2, 4), d.integer(2, 9), d.integer(2, 9), d.number(2, 12)
    d.need(a.value != b.value)
    long, wide = d.given(a.value * m), d.given(b.value * n)
    room = d.say("wall", "hall", "garden", "garage")
    story = d.story(f"""
        {who}'s {room} is {long} feet by {wide} feet. | {who} has a {room} of {long} by {wide} feet.
        Each tile is {a} feet by {b} feet and costs ${price}. | A tile costs ${price} and measures {a} by {b} feet.
        How much do the tiles to cover it cost? | How much does {who} pay to cover all of it?
    """)
    area = d.step(f"The {room} has", long * wide, "square feet")
    small = d.step("A tile has", a * b, "square feet")
    count = d.step(f"{who} needs", area / small, "tiles")
    d.step("The tiles cost", count * price, money=True)
    return d.finish(story, "dollars")


def filling_pool(d: Draft) -> WordProblem:
    who, vessel = d.person(), d.say("tank", "pool", "pond", "barrel")
    low, minutes, more, speed = d.number(4, 90), d.number(2, 9), d.number(2, 12), d.integer(2, 19)
    high = d.given(low.value + minutes.value * speed)
    story = d.story(f"""
        {who}'s {vessel} had {low} liters in it. | There were {low} liters in {who}'s {vessel}.
        After {minutes} minutes of rain it has {high} liters. | Now, {minutes} minutes later, it has {high} liters.
        If it goes on like this, how many liters are in it after {more} more minutes?
        | How many liters will it have in another {more} minutes at this speed?
    """)
    grown = d.step(f"The {vessel} gained", high - low, "liters")
    rate = d.step("It gains", grown / minutes, "liters a minute")
    gain = d.step("It will gain", rate * more, "more liters")
    d.step("It will have", high + gain, "liters")
    return d.finish(story, "liters")


def phone_plans(d: Draft) -> WordProblem:
    who = d.person()
    calls, base, cheap, dear = d.number(6, 60), d.number(8, 60), d.number(2, 6), d.number(5, 12)
    d.need(dear.value > cheap.value)
    story = d.story(f"""
        - Plan A costs ${dear} for each hour of calls. | With plan A an hour of calls costs ${dear}.
        - Plan B costs ${base} a year and ${cheap} for each hour of calls.
          | With plan B you pay ${base} a year and ${cheap} an hour.
        How much does {who} save with plan B, if {who.they} calls {calls} hours a year?
        | {who} calls {calls} hours a year. How much cheaper is plan B?
    """)
    x = d.step("Plan A costs", calls * dear, money=True)
    y = d.step("The hours of plan B cost", calls * cheap, money=True)
    z = d.step("Plan B costs", base + y, money=True)
    d.step(f"{who} saves", x - z, money=True)
    return d.finish(story, "dollars")


def four_players(d: Draft) -> WordProblem:
    a, b, c, e = d.person(), d.person(), d.person(), d.person()
    first, factor, fewer, part = d.number(4, 40), d.number(2, 5), d.number(2, 30), d.number(2, 4)
    third = first.value * factor.value - fewer.value
    d.need(third > 0 and third % part.value == 0)
    share = PART_WORDS[part.value]
    story = d.story(f"""
        - {a} scored {first} points.
        - {b} scored {times(factor)} as many points as {a}.
        - {c} scored {fewer} fewer points than {b}.
        - {e} scored {share} as many points as {c}.
        How many points did the four score together? | How many points is that in total?
    """)
    y = d.step(f"{b} scored", first * factor)
    z = d.step(f"{c} scored", y - fewer)
    v = d.step(f"{e} scored", z / part)
    d.step("Together they scored", first + y + z + v, "points")
    return d.finish(story, "points")
