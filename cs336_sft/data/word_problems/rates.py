"""Situations about speed, work, supply and time."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import LARGEST, Draft, WordProblem


def same_speed(d: Draft) -> WordProblem:
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
    a, b, minutes = d.number(3, 29), d.number(3, 29), d.integer(3, 30)
    volume = d.given((a.value + b.value) * minutes)
    d.need(volume.value <= LARGEST)
    vessel = d.say("tank", "pool", "barrel", "basin")
    story = d.story(f"""
        One tap gives {a} liters a minute and another gives {b} liters a minute.
        | Two taps are opened: one gives {a} liters a minute, the other {b}.
        They fill an empty {vessel} of {volume} liters. | The empty {vessel} under them holds {volume} liters.
        How many minutes until the {vessel} is full? | After how many minutes is the {vessel} full?
    """)
    rate = d.step("Together the taps give", a + b, "liters a minute")
    d.step(f"The {vessel} is full after", volume / rate, "minutes")
    return d.finish(story, "minutes")


def workers(d: Draft) -> WordProblem:
    men, days, others = d.number(3, 15), d.number(4, 24), d.number(2, 18)
    d.need(men.value != others.value and men.value * days.value % others.value == 0)
    job = d.say("paint a school", "build a wall", "repair a road", "harvest a field")
    story = d.story(f"""
        {men} workers need {days} days to {job}. | It takes {men} workers {days} days to {job}.
        All of them work at the same speed.
        How many days would {others} workers need? | How long, in days, would it take {others} workers?
    """)
    work = d.step("The job takes", men * days, "days for one worker")
    d.step(f"{others} workers need", work / others, "days")
    return d.finish(story, "days")


def leaking_tank(d: Draft) -> WordProblem:
    inflow, outflow, minutes, now = d.number(8, 40), d.number(2, 19), d.integer(4, 40), d.number(15, 200, 5)
    d.need(inflow.value > outflow.value + 1)
    size = d.given(now.value + (inflow.value - outflow.value) * minutes)
    vessel = d.say("tank", "pool", "pond")
    story = d.story(f"""
        - A {vessel} for {size} liters has {now} liters of water in it.
          | There are {now} liters in a {vessel} that holds {size} liters.
        - A pump brings {inflow} liters a minute. | Each minute {inflow} liters flow in.
        - A leak loses {outflow} liters a minute. | Each minute {outflow} liters are lost through a leak.
        How many minutes does it take to fill the {vessel}? | In how many minutes is the {vessel} full?
    """)
    space = d.step(f"The {vessel} can take", size - now, "more liters")
    rate = d.step("Each minute it gains", inflow - outflow, "liters")
    d.step("Filling it takes", space / rate, "minutes")
    return d.finish(story, "minutes")


def supply(d: Draft) -> WordProblem:
    who = d.person()
    packs, each, daily, days = d.number(5, 15), d.number(8, 36), d.number(3, 14), d.number(5, 21)
    things = d.say("batteries", "napkins", "tea bags", "candles", "envelopes")
    story = d.story(f"""
        - {who} buys {packs} packs of {each} {things}.
          | There are {each} {things} in each of the {packs} packs {who} bought.
        - {who}'s office uses {daily} {things} a day. | Every day {daily} {things} are used in {who}'s office.
        How many {things} are left after {days} days? | {days} days later, how many of the {things} are left?
    """)
    total = d.step(f"{who} buys", packs * each, things)
    used = d.step("The office uses", daily * days, things)
    d.step("There are", total - used, f"{things} left")
    return d.finish(story, things)


def average_speed(d: Draft) -> WordProblem:
    who = d.person()
    a, s, b, t = d.number(2, 5), d.number(4, 40, 2), d.number(2, 6), d.number(4, 40, 2)
    d.need(s.value != t.value and (a.value * s.value + b.value * t.value) % (a.value + b.value) == 0)
    story = d.story(f"""
        {who} rides {a} hours at {s} kilometers an hour. | For {a} hours {who} rides at {s} kilometers an hour.
        Then {who.they} rides {b} hours at {t} kilometers an hour.
        | The next {b} hours {who.they} rides at {t} kilometers an hour.
        What is the average speed of the whole trip? | How many kilometers an hour is that on average?
    """)
    x = d.step("The first part is", a * s)
    y = d.step("The second part is", b * t)
    total = d.step("The trip is", x + y)
    d.step("The average is", total / (a + b), "kilometers an hour")
    return d.finish(story, "kilometers an hour")


def two_machines(d: Draft) -> WordProblem:
    things = d.say("bottles", "boxes", "bricks", "letters", "cans")
    a, b, r, s, minutes = d.number(2, 8), d.number(3, 9), d.integer(3, 19), d.integer(3, 19), d.integer(3, 15)
    x, y, total = d.given(a.value * r), d.given(b.value * s), d.given((r + s) * minutes)
    story = d.story(f"""
        - The old machine packs {x} {things} in {a} minutes. | In {a} minutes the old machine packs {x} {things}.
        - The new machine packs {y} {things} in {b} minutes. | In {b} minutes the new machine packs {y} {things}.
        How many minutes do both together need for {total} {things}?
        | Both run together. In how many minutes are {total} {things} packed?
    """)
    old = d.step("The old one packs", x / a, "a minute")
    new = d.step("The new one packs", y / b, "a minute")
    both = d.step("Together they pack", old + new, "a minute")
    d.step("They need", total / both, "minutes")
    return d.finish(story, "minutes")


def reading_faster(d: Draft) -> WordProblem:
    who = d.person()
    days, daily, rest, faster = d.number(3, 12), d.number(6, 24), d.number(3, 9), d.integer(3, 25)
    pages = d.given(days.value * daily.value + rest.value * (daily.value + faster))
    story = d.story(f"""
        {who} has to read {pages} pages for school. | The book {who} must finish has {pages} pages.
        For {days} days {who.they} read {daily} pages a day. | {who.They} read {daily} pages a day for {days} days.
        Only {rest} days are left. How many more pages a day must {who.they} read now?
        | By how many pages a day must {who} speed up to finish in {rest} more days?
    """)
    read = d.step(f"{who} has read", days * daily, "pages")
    left = d.step("That leaves", pages - read, "pages")
    need = d.step(f"{who} must read", left / rest, "pages a day")
    d.step("That is", need - daily, "more pages a day")
    return d.finish(story, "pages")


def animal_feed(d: Draft) -> WordProblem:
    who = d.person()
    a, p, b = d.number(2, 8), d.number(2, 6), d.number(2, 9)
    q, days, bag = d.number(2, 5), d.number(4, 30), d.number(5, 30, 5)
    (first, second) = d.two(("dogs", "cats", "rabbits", "goats", "sheep"))
    daily = a.value * p.value + b.value * q.value
    d.need(daily * days.value % bag.value == 0)
    story = d.story(f"""
        - Each day {who}'s {a} {first} eat {p} cups of food each.
          | {who} gives each of {a} {first} {p} cups of food a day.
        - Each of {who}'s {b} {second} eats {q} cups of food a day.
          | {who} gives {q} cups a day to each of {b} {second}.
        One bag has {bag} cups. How many bags are needed for {days} days?
        | How many bags of {bag} cups does {who} need for {days} days?
    """)
    x = d.step(f"The {first} eat", a * p, "cups")
    y = d.step(f"The {second} eat", b * q, "cups")
    each = d.step("That is", x + y, "cups a day")
    d.step(f"{who} needs", each * days / bag, "bags")
    return d.finish(story, "bags")
