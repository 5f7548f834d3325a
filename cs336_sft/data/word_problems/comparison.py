"""Situations that compare people: more, fewer, times as many, scores, ages. Docstrings give the graph of operations."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import Draft
from cs336_sft.data.word_problems.names import COLLECTION, RELATIVES
from cs336_sft.data.word_problems.problem import WordProblem


def times(number: object) -> str:
    """``"twice"`` or ``"5 times"``."""
    return "twice" if str(number) == "2" else f"{number} times"


def fewer_then_times(d: Draft) -> WordProblem:
    """(n-n) * n"""
    a, b, c = d.person(), d.person(), d.person()
    things = d.pick(COLLECTION)
    have, fewer, factor = d.number(15, 120), d.number(3, 60), d.number(2, 8)
    facts = d.facts(
        d.say(f"{a} has {have} {things}.", f"There are {have} {things} in {a}'s box."),
        d.say(f"{b} has {fewer} fewer {things} than {a}.", f"{a} has {fewer} more {things} than {b}."),
        d.say(
            f"{c} has {times(factor)} as many {things} as {b}.",
            f"The number of {things} {c} has is {times(factor)} that of {b}.",
        ),
    )
    ask = d.say(f"How many {things} does {c} have?", f"Find the number of {things} {c} has.")
    less = d.step(f"{b} has", have - fewer, things)
    d.step(f"{c} has", less * factor, things)
    return d.finish(f"{facts} {ask}", things)


def three_people(d: Draft) -> WordProblem:
    """x + y + (y-n) with y = x*n"""
    a, b, c = d.person(), d.person(), d.person()
    things = d.pick(COLLECTION)
    have, factor, fewer = d.number(6, 60), d.number(2, 6), d.number(3, 40)
    facts = d.facts(
        d.say(f"{a} has {have} {things} in a bag.", f"{have} {things} are in {a}'s bag."),
        d.say(
            f"{b} has {times(factor)} as many {things} as {a}.",
            f"{b}'s bag has {times(factor)} as many {things} as {a}'s.",
        ),
        d.say(f"{c} has {fewer} fewer {things} than {b}.", f"{c}'s bag has {fewer} fewer {things} than {b}'s."),
    )
    ask = d.say(f"How many {things} do the three have together?", f"How many {things} are there in total?")
    y = d.step(f"{b} has", have * factor, things)
    z = d.step(f"{c} has", y - fewer, things)
    d.step("Together they have", have + y + z, things)
    return d.finish(f"{facts} {ask}", things)


def needed_score(d: Draft) -> WordProblem:
    """n*n - (n+n+n)"""
    who = d.person()
    a, b, c, goal = d.number(41, 99), d.number(41, 99), d.number(41, 99), d.number(60, 95)
    count = d.given(4)
    what = d.say("tests", "games", "quizzes")
    d.need(30 <= goal.value * 4 - a.value - b.value - c.value <= 100)
    scores = d.say(
        f"{who} scored {a}, {b} and {c} points in three {what}.", f"In three {what} {who} got {a}, {b} and {c} points."
    )
    wish = d.say(
        f"{who.They} wants an average of {goal} over {count} {what}.",
        f"The average of {who.their} {count} {what} should be {goal}.",
    )
    ask = d.say("How many points are needed in the last one?", f"How many points must {who.they} get in the last one?")
    need = d.step(f"{who} needs", goal * count, "points in all")
    have = d.step(f"{who} has", a + b + c, "points")
    d.step("The last one must give", need - have, "points")
    return d.finish(f"{scores} {wish} {ask}", "points")


def age(d: Draft) -> WordProblem:
    """(n+n)*n - n"""
    who = d.person()
    relative = d.pick(RELATIVES)
    now, later, factor = d.number(5, 20), d.number(2, 15), d.number(2, 5)
    d.need(20 <= (now.value + later.value) * factor.value - later.value <= 75)
    d.need((now.value + later.value) * factor.value - later.value >= now.value + 18)
    start = d.say(f"{who} is {now} years old.", f"Today {who} turns {now}.")
    rule = d.say(
        f"In {later} years {who.their} {relative} will be {times(factor)} as old as {who}.",
        f"When {later} years have passed, {who}'s {relative} will be {times(factor)} as old as {who}.",
    )
    ask = d.say(f"How old is the {relative} now?", f"What is the age of the {relative} today?")
    then = d.step(f"{who} will be", now + later, "years old")
    other = d.step(f"The {relative} will be", then * factor, "years old")
    d.step(f"The {relative} is", other - later, "years old now")
    return d.finish(f"{start} {rule} {ask}", "years")


def weekly_difference(d: Draft) -> WordProblem:
    """(n*n - n*n) * n"""
    a, b = d.person(), d.person()
    h, r, k, s, weeks = d.number(4, 16), d.number(9, 25), d.number(3, 10), d.number(6, 18), d.number(2, 9)
    facts = d.facts(
        d.say(f"{a} works {h} hours a week for ${r} an hour.", f"For ${r} an hour {a} works {h} hours a week."),
        d.say(f"{b} works {k} hours a week for ${s} an hour.", f"{b} gets ${s} an hour and works {k} hours a week."),
    )
    ask = d.say(
        f"How much more than {b} does {a} earn in {weeks} weeks?",
        f"After {weeks} weeks, how many dollars more has {a} earned than {b}?",
    )
    x = d.step(f"{a} earns", h * r, "a week", money=True)
    y = d.step(f"{b} earns", k * s, "a week", money=True)
    gap = d.step("The difference is", x - y, money=True)
    d.step(f"In {weeks} weeks {a} earns", gap * weeks, "more", money=True)
    return d.finish(f"{facts} {ask}", "dollars")


TEMPLATES = (
    fewer_then_times,
    three_people,
    needed_score,
    age,
    weekly_difference,
)
