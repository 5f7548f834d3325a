"""Situations about grouping, packing and sharing. Each docstring gives the graph of operations."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import Draft
from cs336_sft.data.word_problems.names import BAKED, FRUIT
from cs336_sft.data.word_problems.problem import WordProblem


def pooled_share(d: Draft) -> WordProblem:
    """(n+n) / n"""
    who, friend = d.person(), d.person()
    fruit = d.pick(FRUIT)
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
    """(n-n) / n"""
    who = d.person()
    baked = d.pick(BAKED)
    box, boxes, gone = d.number(4, 15), d.integer(4, 40), d.number(5, 60)
    total = d.given(box.value * boxes + gone.value)
    start = d.say(f"{who} bakes {total} {baked} for the market.", f"For the market {who} bakes {total} {baked}.")
    loss = d.say(f"{gone} of them are burnt.", f"The children eat {gone} of them at home.")
    ask = d.say(
        f"The rest go into boxes of {box}. How many boxes are filled?",
        f"How many boxes of {box} can {who} fill with the rest?",
    )
    rest = d.step("That leaves", total - gone, baked)
    d.step(f"{who} fills", rest / box, "boxes")
    return d.finish(f"{start} {loss} {ask}", "boxes")


def daily_and_more(d: Draft) -> WordProblem:
    """n*n + n"""
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
    start = d.say(f"{who} {did} {more} {things} last week.", f"Last week {who} {did} {more} {things}.")
    now = d.say(
        f"Now {who.they} {does} {daily} {things} a day for {days} days.",
        f"On each of the {days} days since then {who.they} {did} {daily} {things}.",
    )
    ask = d.say(
        f"How many {things} is that altogether, with those of last week?",
        f"How many {things} is that in all, last week included?",
    )
    new = d.step(f"In {days} days that is", daily * days, things)
    d.step("Altogether that is", new + more, things)
    return d.finish(f"{start} {now} {ask}", things)


def bakery(d: Draft) -> WordProblem:
    """(n*n - n) / n * n"""
    who = d.person()
    baked = d.pick(BAKED)
    trays, each, burnt, box, price = d.number(4, 15), d.number(6, 24), d.number(2, 19), d.number(3, 12), d.number(3, 14)
    d.need(trays.value * each.value > 2 * burnt.value and (trays.value * each.value - burnt.value) % box.value == 0)
    start = d.say(
        f"{who} bakes {trays} trays of {each} {baked}.", f"There are {each} {baked} on each of {who}'s {trays} trays."
    )
    loss = d.say(f"{burnt} {baked} are burnt.", f"{who} burns {burnt} of the {baked}.")
    sells = d.say(f"The others are packed in boxes of {box}.", f"{box} of the good ones go into each box.")
    ask = d.say(
        f"Each box is sold for ${price}. How much money does {who} get?",
        f"How much does {who} get for all the boxes at ${price} a box?",
    )
    total = d.step(f"{who} bakes", trays * each, baked)
    good = d.step("That leaves", total - burnt, baked)
    boxes = d.step(f"{who} fills", good / box, "boxes")
    d.step(f"{who} gets", boxes * price, money=True)
    return d.finish(f"{start} {loss} {sells} {ask}", "dollars")


def garden(d: Draft) -> WordProblem:
    """(n+n)*n*n + n*n*n"""
    who = d.person()
    long, wide, fence, grass = d.number(5, 15), d.number(2, 9), d.number(2, 9), d.number(2, 5)
    d.need(long.value > wide.value)
    start = d.say(
        f"{who}'s garden is {long} feet long and {wide} feet wide.",
        f"{who} has a garden {long} feet long and {wide} feet wide.",
    )
    costs = d.facts(
        d.say(f"A fence around it costs ${fence} a foot.", f"{who} puts a fence around it for ${fence} a foot."),
        d.say(
            f"Grass for all of it costs ${grass} a square foot.",
            f"{who} covers all of it with grass for ${grass} a square foot.",
        ),
    )
    ask = d.say("How much do fence and grass cost together?", f"How much does {who} pay for both?")
    around = d.step("The fence is", (long + wide) * d.given(2), "feet")
    x = d.step("It costs", around * fence, money=True)
    y = d.step("Grass costs", long * wide * grass, money=True)
    d.step("Both cost", x + y, money=True)
    return d.finish(f"{start} {costs} {ask}", "dollars")


def pizza_party(d: Draft) -> WordProblem:
    """x*n/n*n + x*n with x = n+n"""
    who = d.person()
    girls, boys, slices, cut, price, drink = (
        d.number(3, 15),
        d.number(3, 15),
        d.number(2, 4),
        d.number(6, 12, 2),
        d.number(6, 15),
        d.number(2, 4),
    )
    d.need((girls.value + boys.value) * slices.value % cut.value == 0)
    start = d.say(
        f"{girls} girls and {boys} boys come to {who}'s party.", f"{who} invites {girls} girls and {boys} boys."
    )
    eats = d.say(
        f"Each child eats {slices} slices of pizza and has a drink for ${drink}.",
        f"Every child gets a drink for ${drink} and {slices} slices of pizza.",
    )
    pizza = d.say(
        f"A pizza has {cut} slices and costs ${price}.", f"Each pizza costs ${price} and is cut into {cut} slices."
    )
    ask = d.say("How much do pizza and drinks cost?", f"How much does {who} pay in all?")
    children = d.step("There are", girls + boys, "children")
    pizzas = d.step("They need", children * slices / cut, "pizzas")
    x = d.step("Pizza costs", pizzas * price, money=True)
    y = d.step("Drinks cost", children * drink, money=True)
    d.step("Both cost", x + y, money=True)
    return d.finish(f"{start} {eats} {pizza} {ask}", "dollars")


TEMPLATES = (
    pooled_share,
    packed_rest,
    daily_and_more,
    bakery,
    garden,
    pizza_party,
)
