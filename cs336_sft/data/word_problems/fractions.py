"""Situations about fractions, percents and ratios."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import COLLECTION, DEAR_GOODS, GOODS, PART_WORDS, Draft, WordProblem


def part_as_many(d: Draft) -> WordProblem:
    who, things = d.person(), d.pick(COLLECTION)
    part = d.number(2, 6)
    first = d.given(part.value * d.integer(4, 80))
    age = d.integer(8, 15)
    first_month, second_month = d.pick((("March", "April"), ("April", "May"), ("May", "June"), ("June", "July")))
    word = PART_WORDS[part.value]
    story = d.story(f"""
        {who}, who is {age}, sold {first} {things} in {first_month}.
        | In {first_month}, {age}-year-old {who} sold {first} {things}.
        In {second_month} {who.they} sold only {word} as many. | {who.They} sold {word} as many in {second_month}.
        How many {things} did {who} sell altogether? | How many {things} did {who.they} sell in the two months?
    """)
    second = d.step(f"{who} sold", first / part, f"{things} in {second_month}")
    d.step(f"{who} sold", first + second, f"{things} altogether")
    return d.finish(story, things)


def percent_off(d: Draft) -> WordProblem:
    who = d.person()
    one, _ = d.pick(DEAR_GOODS)
    percent = d.number(5, 60, 5)
    price = d.number(40, 400, 5 if percent.value % 20 == 0 else 20)
    d.need(price.value * percent.value % 100 == 0)
    start = d.say(
        f"{who} looks at a {one} with a price of ${price}.", f"A {one} costs ${price}, and {who} waits for a sale."
    )
    sale = d.say(f"In a sale the price falls by {percent}%.", f"Today the shop takes {percent}% off.")
    ask = d.say(f"How much does {who} pay for it then?", f"What does the {one} cost now?")
    off = d.step("The price falls by", price * percent / d.given(100), money=True)
    d.step(f"The {one} costs", price - off, money=True)
    years = d.maybe(f"The shop has been open for {d.integer(2, 30)} years.")
    return d.finish(f"{start}{years} {sale} {ask}", "dollars")


def part_and_more(d: Draft) -> WordProblem:
    who, friend, things = d.person(), d.person(), d.pick(COLLECTION)
    part, lost = d.number(2, 6), d.number(3, 60)
    have = d.given(part.value * d.integer(6, 90))
    word = PART_WORDS[part.value]
    story = d.story(f"""
        {who} has {have} {things}. | There are {have} {things} in {who}'s box.
        {who.They} gives {word} of them to {friend}. | {friend} gets {word} of them.
        Then {who} loses {lost}. How many {things} are left?
        | How many {things} does {who} have after losing {lost} more?
    """)
    given = d.step(f"{who} gives away", have / part, things)
    rest = d.step("That leaves", have - given, things)
    d.step(f"{who} has", rest - lost, f"{things} left")
    return d.finish(story, things)


def reduced_goods(d: Draft) -> WordProblem:
    who = d.person()
    one, many = d.pick(GOODS)
    percent, price, count = d.number(10, 60, 5), d.number(20, 80, 5), d.number(3, 9)
    d.need(price.value * percent.value % 100 == 0)
    story = d.story(f"""
        - A {one} normally costs ${price}. | The usual price of a {one} is ${price}.
        - {who} needs {count} {many}. | {who} buys {count} {many} for {who.their} friends.
        Today everything is {percent}% cheaper. How much does {who} pay? | How much does {who} pay with {percent}% off?
    """)
    off = d.step(f"Each {one} is cheaper by", price * percent / d.given(100), money=True)
    now = d.step(f"Each {one} costs", price - off, money=True)
    d.step(f"{who} pays", now * count, money=True)
    return d.finish(story, "dollars")


def growing_club(d: Draft) -> WordProblem:
    club = d.say("chess club", "choir", "sports club", "drama club", "book club")
    who = d.person()
    members, percent, leave = d.number(20, 400, 20), d.number(5, 75, 5), d.number(3, 48)
    story = d.story(f"""
        The {club} of {who} had {members} members last year. | Last year {members} people were in {who}'s {club}.
        This year there were {percent}% more. | By spring the number had grown by {percent}%.
        Then {leave} members left. How many are there now? | How many members remain after {leave} of them left?
    """)
    new = d.step("The club gets", members * percent / d.given(100), "new members")
    total = d.step("That makes", members + new, "members")
    d.step("Now there are", total - leave, "members")
    return d.finish(story, "members")


def ratio(d: Draft) -> WordProblem:
    who, friend, things = d.person(), d.person(), d.pick(COLLECTION)
    a, b = d.number(2, 9), d.number(2, 9)
    d.need(a.value != b.value)
    total = d.given((a.value + b.value) * d.integer(3, 45))
    story = d.story(f"""
        {who} and {friend} share {total} {things} in the ratio {a} to {b}.
        | {total} {things} are shared by {who} and {friend} in the ratio {a}:{b}.
        How many {things} does {who} get? | How many of the {things} are for {who}?
    """)
    parts = d.step("There are", a + b, "parts")
    each = d.step("Each part is", total / parts, things)
    d.step(f"{who} gets", each * a, things)
    return d.finish(story, things)


def part_of_the_rest(d: Draft) -> WordProblem:
    who = d.person()
    a, b = d.number(2, 5), d.number(2, 6)
    unit = a.value * b.value
    pages = d.given(unit * d.integer(2, 300 // unit))
    chapters = d.integer(3, 24)
    d.need(4 * chapters <= pages.value)
    story = d.story(f"""
        {who} has a book of {pages} pages in {chapters} chapters.
        | The new book of {who} has {chapters} chapters and {pages} pages.
        On the first day {who.they} reads {PART_WORDS[a.value]} of it.
        | {who.They} reads {PART_WORDS[a.value]} of the book on the first day.
        On the second day {who.they} reads {PART_WORDS[b.value]} of the rest.
        | The next day {who.they} reads {PART_WORDS[b.value]} of what is left.
        How many pages does {who} still have to read? | How many pages are left after that?
    """)
    x = d.step("The first day it is", pages / a, "pages")
    y = d.step("That leaves", pages - x, "pages")
    z = d.step("The next day it is", y / b, "pages")
    d.step(f"{who} still has", y - z, "pages to read")
    return d.finish(story, "pages")


def percent_of_the_rest(d: Draft) -> WordProblem:
    farm, fruit = d.person(), d.say("apples", "pears", "melons", "oranges")
    p, q = d.number(10, 60, 10), d.number(10, 80, 10)
    hundred = d.given(100)
    total = d.number(40, 900, 10)
    rest = total.value - total.value * p.value // 100
    d.need(total.value * p.value % 100 == 0 and rest * q.value % 100 == 0)
    story = d.story(f"""
        {farm} picks {total} {fruit}. | {farm} has a cart with {total} {fruit}.
        In the morning {farm.they} sells {p}% of them. | {p}% of them are sold in the morning.
        In the afternoon {farm.they} sells {q}% of the rest. | {q}% of the rest are sold in the afternoon.
        How many {fruit} are left? | How many {fruit} does {farm} take home?
    """)
    y = d.step("The morning leaves", total * (hundred - p) / hundred, fruit)
    d.step(f"{farm} has", y * (hundred - q) / hundred, f"{fruit} left")
    return d.finish(story, fruit)


def budget(d: Draft) -> WordProblem:
    who = d.person()
    part, other = d.two((2, 3, 4, 5, 6, 8, 10))
    part, other = d.given(part), d.given(other)
    hours, rate = d.number(8, 40, 2), d.number(5, 24)
    pay = hours.value * rate.value
    d.need(pay % part.value == 0 and pay % other.value == 0)
    story = d.story(f"""
        {who} works {hours} hours a week for ${rate} an hour.
        | In a week {who} works {hours} hours and earns ${rate} an hour.
        - {who.They} spends 1/{part} of {who.their} pay on rent. | Rent takes 1/{part} of the pay.
        - Food takes 1/{other} of the pay. | {who.They} spends 1/{other} of the pay on food.
        How much is left each week? | How many dollars are left for {who}?
    """)
    income = d.step(f"{who} earns", hours * rate, money=True)
    rent = d.step("Rent is", income / part, money=True)
    food = d.step("Food is", income / other, money=True)
    d.step(f"{who} has", income - rent - food, "left", money=True)
    return d.finish(story, "dollars")


def dinner(d: Draft) -> WordProblem:
    who = d.person()
    meals, price, percent = d.number(3, 12), d.number(8, 32), d.number(10, 50, 5)
    friends = d.number(2, 8)
    bill = meals.value * price.value
    d.need(bill * percent.value % 100 == 0 and bill * (100 + percent.value) // 100 % friends.value == 0)
    story = d.story(f"""
        {who}'s party orders {meals} meals for ${price} each.
        | At dinner {who}'s group has {meals} meals at ${price} each.
        They add a tip of {percent}% to the bill. | The tip is {percent}% of the bill.
        The cost is split among {friends} people. How much does each pay?
        | If {friends} people share the cost equally, how much does each pay?
    """)
    total = d.step("The meals cost", meals * price, money=True)
    extra = d.step("The tip is", total * percent / d.given(100), money=True)
    whole = d.step("Together that is", total + extra, money=True)
    d.step("Each pays", whole / friends, money=True)
    return d.finish(story, "dollars")
