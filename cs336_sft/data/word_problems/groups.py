"""Situations about grouping, packing, sharing and comparing."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import BAKED, COLLECTION, FRUIT, RELATIVES, Draft, WordProblem, times


def pooled_share(d: Draft) -> WordProblem:
    who, friend, fruit = d.person(), d.person(), d.pick(FRUIT)
    a, baskets, each = d.number(11, 150), d.number(3, 12), d.integer(6, 40)
    b = d.given(baskets.value * each - a.value)
    d.need(b.value >= 5)
    picked = d.say(
        f"{who} picks {a} {fruit} and {friend} picks {b}.", f"{a} {fruit} are picked by {who} and {b} by {friend}."
    )
    share = d.say(
        f"They put them all into {baskets} baskets, the same number in each.",
        f"All of them are shared equally among {baskets} baskets.",
    )
    ask = d.say(f"How many {fruit} are in each basket?", f"How many {fruit} does a basket hold?")
    total = d.step("Together they pick", a + b, fruit)
    d.step("Each basket holds", total / baskets, fruit)
    extra = d.maybe(f"It takes them {d.integer(2, 9)} hours.")
    return d.finish(f"{picked}{extra} {share} {ask}", fruit)


def packed_rest(d: Draft) -> WordProblem:
    who, baked = d.person(), d.pick(BAKED)
    box, boxes, gone = d.number(4, 15), d.integer(4, 40), d.number(5, 60)
    total = d.given(box.value * boxes + gone.value)
    story = d.story(f"""
        {who} bakes {total} {baked} for the market. | For the market {who} bakes {total} {baked}.
        {gone} of them are burnt. | The children eat {gone} of them at home.
        The rest go into boxes of {box}. How many boxes are filled?
        | How many boxes of {box} can {who} fill with the rest?
    """)
    rest = d.step("That leaves", total - gone, baked)
    d.step(f"{who} fills", rest / box, "boxes")
    return d.finish(story, "boxes")


def daily_and_more(d: Draft) -> WordProblem:
    who = d.person()
    daily, days, more = d.number(7, 48), d.number(3, 18), d.number(12, 150)
    things, does, did = d.pick(
        (
            ("pages", "reads", "read"),
            ("letters", "sorts", "sorted"),
            ("flowers", "plants", "planted"),
            ("photos", "takes", "took"),
        )
    )
    story = d.story(f"""
        {who} {did} {more} {things} last week. | Last week {who} {did} {more} {things}.
        Now {who.they} {does} {daily} {things} a day for {days} days.
        | On each of the {days} days since then {who.they} {did} {daily} {things}.
        How many {things} is that altogether, with those of last week?
        | How many {things} is that in all, last week included?
    """)
    new = d.step(f"In {days} days that is", daily * days, things)
    d.step("Altogether that is", new + more, things)
    return d.finish(story, things)


def bakery(d: Draft) -> WordProblem:
    who, baked = d.person(), d.pick(BAKED)
    trays, each, burnt, box, price = d.number(4, 15), d.number(6, 24), d.number(2, 19), d.number(3, 12), d.number(3, 14)
    d.need(trays.value * each.value > 2 * burnt.value and (trays.value * each.value - burnt.value) % box.value == 0)
    story = d.story(f"""
        {who} bakes {trays} trays of {each} {baked}. | There are {each} {baked} on each of {who}'s {trays} trays.
        {burnt} {baked} are burnt. | {who} burns {burnt} of the {baked}.
        The others are packed in boxes of {box}. | {box} of the good ones go into each box.
        Each box is sold for ${price}. How much money does {who} get?
        | How much does {who} get for all the boxes at ${price} a box?
    """)
    total = d.step(f"{who} bakes", trays * each, baked)
    good = d.step("That leaves", total - burnt, baked)
    boxes = d.step(f"{who} fills", good / box, "boxes")
    d.step(f"{who} gets", boxes * price, money=True)
    return d.finish(story, "dollars")


def garden(d: Draft) -> WordProblem:
    who = d.person()
    long, wide, fence, grass = d.number(5, 15), d.number(2, 9), d.number(2, 9), d.number(2, 5)
    d.need(long.value > wide.value)
    story = d.story(f"""
        {who}'s garden is {long} feet long and {wide} feet wide.
        | {who} has a garden {long} feet long and {wide} feet wide.
        - A fence around it costs ${fence} a foot. | {who} puts a fence around it for ${fence} a foot.
        - Grass for all of it costs ${grass} a square foot.
          | {who} covers all of it with grass for ${grass} a square foot.
        How much do fence and grass cost together? | How much does {who} pay for both?
    """)
    around = d.step("The fence is", (long + wide) * d.given(2), "feet")
    x = d.step("It costs", around * fence, money=True)
    y = d.step("Grass costs", long * wide * grass, money=True)
    d.step("Both cost", x + y, money=True)
    return d.finish(story, "dollars")


def pizza_party(d: Draft) -> WordProblem:
    who = d.person()
    girls, boys, slices = d.number(3, 15), d.number(3, 15), d.number(2, 4)
    cut, price, drink = d.number(6, 12, 2), d.number(6, 15), d.number(2, 4)
    d.need((girls.value + boys.value) * slices.value % cut.value == 0)
    story = d.story(f"""
        {girls} girls and {boys} boys come to {who}'s party. | {who} invites {girls} girls and {boys} boys.
        Each child eats {slices} slices of pizza and has a drink for ${drink}.
        | Every child gets a drink for ${drink} and {slices} slices of pizza.
        A pizza has {cut} slices and costs ${price}. | Each pizza costs ${price} and is cut into {cut} slices.
        How much do pizza and drinks cost? | How much does {who} pay in all?
    """)
    children = d.step("There are", girls + boys, "children")
    pizzas = d.step("They need", children * slices / cut, "pizzas")
    x = d.step("Pizza costs", pizzas * price, money=True)
    y = d.step("Drinks cost", children * drink, money=True)
    d.step("Both cost", x + y, money=True)
    return d.finish(story, "dollars")


def fewer_then_times(d: Draft) -> WordProblem:
    a, b, c = d.person(), d.person(), d.person()
    things = d.pick(COLLECTION)
    have, fewer, factor = d.number(15, 120), d.number(3, 60), d.number(2, 8)
    story = d.story(f"""
        - {a} has {have} {things}. | There are {have} {things} in {a}'s box.
        - {b} has {fewer} fewer {things} than {a}. | {a} has {fewer} more {things} than {b}.
        - {c} has {times(factor)} as many {things} as {b}.
          | The number of {things} {c} has is {times(factor)} that of {b}.
        How many {things} does {c} have? | Find the number of {things} {c} has.
    """)
    less = d.step(f"{b} has", have - fewer, things)
    d.step(f"{c} has", less * factor, things)
    return d.finish(story, things)


def three_people(d: Draft) -> WordProblem:
    a, b, c = d.person(), d.person(), d.person()
    things = d.pick(COLLECTION)
    have, factor, fewer = d.number(6, 60), d.number(2, 6), d.number(3, 40)
    story = d.story(f"""
        - {a} has {have} {things} in a bag. | {have} {things} are in {a}'s bag.
        - {b} has {times(factor)} as many {things} as {a}. | {b}'s bag has {times(factor)} as many {things} as {a}'s.
        - {c} has {fewer} fewer {things} than {b}. | {c}'s bag has {fewer} fewer {things} than {b}'s.
        How many {things} do the three have together? | How many {things} are there in total?
    """)
    y = d.step(f"{b} has", have * factor, things)
    z = d.step(f"{c} has", y - fewer, things)
    d.step("Together they have", have + y + z, things)
    return d.finish(story, things)


def needed_score(d: Draft) -> WordProblem:
    who = d.person()
    a, b, c, goal = d.number(41, 99), d.number(41, 99), d.number(41, 99), d.number(60, 95)
    count = d.given(4)
    what = d.say("tests", "games", "quizzes")
    d.need(30 <= goal.value * 4 - a.value - b.value - c.value <= 100)
    story = d.story(f"""
        {who} scored {a}, {b} and {c} points in three {what}. | In three {what} {who} got {a}, {b} and {c} points.
        {who.They} wants an average of {goal} over {count} {what}.
        | The average of {who.their} {count} {what} should be {goal}.
        How many points are needed in the last one? | How many points must {who.they} get in the last one?
    """)
    need = d.step(f"{who} needs", goal * count, "points in all")
    have = d.step(f"{who} has", a + b + c, "points")
    d.step("The last one must give", need - have, "points")
    return d.finish(story, "points")


def age(d: Draft) -> WordProblem:
    who, relative = d.person(), d.pick(RELATIVES)
    now, later, factor = d.number(5, 20), d.number(2, 15), d.number(2, 5)
    d.need(20 <= (now.value + later.value) * factor.value - later.value <= 75)
    d.need((now.value + later.value) * factor.value - later.value >= now.value + 18)
    story = d.story(f"""
        {who} is {now} years old. | Today {who} turns {now}.
        In {later} years {who.their} {relative} will be {times(factor)} as old as {who}.
        | When {later} years have passed, {who}'s {relative} will be {times(factor)} as old as {who}.
        How old is the {relative} now? | What is the age of the {relative} today?
    """)
    then = d.step(f"{who} will be", now + later, "years old")
    other = d.step(f"The {relative} will be", then * factor, "years old")
    d.step(f"The {relative} is", other - later, "years old now")
    return d.finish(story, "years")


def weekly_difference(d: Draft) -> WordProblem:
    a, b = d.person(), d.person()
    h, r, k, s, weeks = d.number(4, 16), d.number(9, 25), d.number(3, 10), d.number(6, 18), d.number(2, 9)
    story = d.story(f"""
        - {a} works {h} hours a week for ${r} an hour. | For ${r} an hour {a} works {h} hours a week.
        - {b} works {k} hours a week for ${s} an hour. | {b} gets ${s} an hour and works {k} hours a week.
        How much more than {b} does {a} earn in {weeks} weeks?
        | After {weeks} weeks, how many dollars more has {a} earned than {b}?
    """)
    x = d.step(f"{a} earns", h * r, "a week", money=True)
    y = d.step(f"{b} earns", k * s, "a week", money=True)
    gap = d.step("The difference is", x - y, money=True)
    d.step(f"In {weeks} weeks {a} earns", gap * weeks, "more", money=True)
    return d.finish(story, "dollars")
