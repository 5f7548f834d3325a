"""Situations about buying, selling, earning and saving."""

from __future__ import annotations

from cs336_sft.data.word_problems.draft import DEAR_GOODS, GOODS, SNACKS, Draft, WordProblem


def change(d: Draft) -> WordProblem:
    who = d.person()
    one, many = d.pick(SNACKS)
    count, price, bill = d.number(3, 12), d.price(2, 9), d.number(20, 150, 10)
    facts = d.story(f"""
        - A {one} costs ${price} at the market. | At the market, one {one} is ${price}.
        - {who} buys {count} {many} for the family. | {who} wants {count} {many} and orders them all at once.
    """)
    ask = d.say(
        f"How much money is left from the ${bill} in {who.their} pocket?",
        f"If {who} pays with ${bill}, how much change does {who.they} get?",
    )
    cost = d.step(f"The {many} cost", count * price, money=True)
    d.step(f"{who} has", bill - cost, "left", money=True)
    return d.finish(f"{facts}{d.maybe(f'{who} has been there {d.integer(2, 9)} times before.')} {ask}", "dollars")


def two_kinds(d: Draft) -> WordProblem:
    who = d.person()
    (_, first), (_, second) = d.two(GOODS)
    a, p, b, q = d.number(2, 9), d.number(4, 35), d.number(3, 12), d.number(2, 18)
    story = d.story(f"""
        - {who} sells {a} {first} for ${p} each. | {who} gets ${p} for each of {a} {first}.
        - {who} sells {b} {second} for ${q} each. | {who} gets ${q} for each of {b} {second}.
        How much money is that in total? | How many dollars does {who} take in?
    """)
    x = d.step(f"The {first} bring", a * p, money=True)
    y = d.step(f"The {second} bring", b * q, money=True)
    d.step(f"{who} takes in", x + y, "in total", money=True)
    return d.finish(story, "dollars")


def change_from_two_kinds(d: Draft) -> WordProblem:
    who = d.person()
    (one, first), (other, second) = d.two(GOODS)
    a, p, b, q = d.number(2, 9), d.number(3, 15), d.number(2, 9), d.number(3, 19)
    money = d.number(50, 300, 10)
    start = d.say(f"{who} goes shopping with ${money}.", f"{who} has ${money} to spend on presents.")
    prices = d.say(f"Each {one} costs ${p} and each {other} costs ${q}.", f"A {one} is ${p} and a {other} is ${q}.")
    buys = d.say(f"{who} buys {a} {first} and {b} {second}.", f"{who.They} takes {b} {second} and {a} {first}.")
    ask = d.say(f"How much money does {who} have left?", "How many dollars remain?")
    x = d.step(f"The {first} cost", a * p, money=True)
    y = d.step(f"The {second} cost", b * q, money=True)
    total = d.step("Together that is", x + y, money=True)
    d.step(f"{who} has", money - total, "left", money=True)
    return d.finish(f"{start} {d.facts(prices, buys)} {ask}", "dollars")


def stall(d: Draft) -> WordProblem:
    who = d.person()
    one, many = d.pick(GOODS)
    cost, price, count, fee = d.number(3, 15), d.number(8, 29), d.number(8, 49), d.number(12, 95)
    d.need(price.value > cost.value + 1)
    story = d.story(f"""
        - Every {one} costs {who} ${cost} to make. | {who} pays ${cost} for the material of each {one}.
        - {who} sells {count} {many} for ${price} each. | At the fair {who} sells {count} {many} at ${price} apiece.
        The table at the fair costs ${fee}. | {who} also pays a fee of ${fee} for the stall.
        What is {who}'s profit? | How much profit does {who} make?
    """)
    margin = d.step(f"{who} gains", price - cost, f"on each {one}", money=True)
    gain = d.step(f"The {many} bring", margin * count, money=True)
    d.step(f"{who} makes a profit of", gain - fee, money=True)
    return d.finish(story, "dollars")


def wages(d: Draft) -> WordProblem:
    who = d.person()
    hours, days, rate, spent = d.number(3, 8), d.number(3, 7), d.number(8, 24), d.number(15, 180)
    one, _ = d.pick(DEAR_GOODS)
    job = d.say("in a bakery", "at the library", "on a farm", "in a garage")
    start = d.say(f"{who} works {job} for ${rate} an hour.", f"{who} earns ${rate} for every hour {job}.")
    time = d.say(
        f"{who.They} works {hours} hours a day on {days} days.",
        f"For {days} days {who.they} works {hours} hours each day.",
    )
    ask = d.say(
        f"Then {who.they} buys a {one} for ${spent}. How much is left?",
        f"How much is left when {who.they} has paid ${spent} for a {one}?",
    )
    total = d.step(f"{who} works", hours * days, "hours")
    earned = d.step(f"{who} earns", total * rate, money=True)
    d.step(f"{who} has", earned - spent, "left", money=True)
    walk = d.maybe(f"The way to work takes {d.integer(12, 45)} minutes.")
    return d.finish(f"{start} {time}{walk} {ask}", "dollars")


def overtime(d: Draft) -> WordProblem:
    who = d.person()
    normal, more, rate, extra = d.number(20, 40, 5), d.integer(2, 12), d.number(8, 19), d.number(12, 35)
    d.need(extra.value > rate.value)
    hours = d.given(normal.value + more)
    story = d.story(f"""
        {who} earns ${rate} an hour for the first {normal} hours of a week and ${extra} for each hour after that.
        | A company pays {who} ${rate} an hour up to {normal} hours a week and ${extra} for every further hour.
        How much does {who} earn in a week of {hours} hours?
        | This week {who.they} worked {hours} hours. What is {who.their} pay?
    """)
    over = d.step(f"{who} works", hours - normal, "extra hours")
    base = d.step("The normal hours pay", normal * rate, money=True)
    bonus = d.step("The extra hours pay", over * extra, money=True)
    d.step(f"{who} earns", base + bonus, money=True)
    return d.finish(story, "dollars")


def saving(d: Draft) -> WordProblem:
    who = d.person()
    one, _ = d.pick(DEAR_GOODS)
    jobs, pay, weeks, have = d.number(2, 6), d.number(3, 15), d.integer(3, 15), d.number(11, 99)
    goal = d.given(have.value + weeks * jobs.value * pay.value)
    chore = d.say("mows lawns", "walks dogs", "washes cars", "cleans windows")
    story = d.story(f"""
        - {who} wants a {one} that costs ${goal}. | {who} is saving for a {one} with a price of ${goal}.
        - {who} {chore} {jobs} times a week for ${pay} each time.
          | Each week {who} {chore} {jobs} times and gets ${pay} each time.
        {who.They} already has ${have}. How many weeks must {who.they} save?
        | In how many weeks can {who} buy it, if {who.they} has ${have} now?
    """)
    missing = d.step(f"{who} still needs", goal - have, money=True)
    weekly = d.step(f"{who} earns", jobs * pay, "a week", money=True)
    d.step(f"{who} must save for", missing / weekly, "weeks")
    return d.finish(story, "weeks")


def shared_bill(d: Draft) -> WordProblem:
    who = d.person()
    one, many = d.pick(SNACKS)
    count, price, friends, coupon = d.number(3, 12), d.number(6, 18), d.number(3, 8), d.number(2, 5)
    fee = d.given(d.integer(3, 20))
    d.need((count.value * price.value + fee.value) % friends.value == 0)
    story = d.story(f"""
        {who} and some friends order {count} {many} for ${price} each.
        | {who}'s table orders {count} {many} at ${price} each.
        Delivery costs ${fee}. | They also pay ${fee} for delivery.
        The {friends} people at the table share the bill equally. | All {friends} of them pay the same share.
        With a coupon {who} gets ${coupon} off {who.their} own share. How much does {who} pay?
        | How much does {who} pay, if a coupon takes ${coupon} off {who.their} share?
    """)
    food = d.step(f"The {many} cost", count * price, money=True)
    bill = d.step("The whole bill is", food + fee, money=True)
    share = d.step("Each share is", bill / friends, money=True)
    d.step(f"{who} pays", share - coupon, money=True)
    return d.finish(story, "dollars")


def resale(d: Draft) -> WordProblem:
    who = d.person()
    _, many = d.pick(GOODS)
    boxes, each, bad, price, cost = d.number(3, 9), d.number(4, 12), d.number(2, 9), d.number(3, 9), d.number(5, 25)
    story = d.story(f"""
        {who} buys {boxes} boxes for ${cost} each. | A shop sells boxes for ${cost} each, and {who} buys {boxes}.
        There are {each} {many} in every box. | Every box holds {each} {many}.
        {bad} of the {many} are damaged and thrown away. | {who} has to throw away {bad} {many}.
        The rest are sold for ${price} each. What is the profit?
        | How much profit does {who} make by selling the rest for ${price} each?
    """)
    good = d.step("There are", boxes * each - bad, f"good {many}")
    income = d.step("They bring", good * price, money=True)
    paid = d.step("The boxes cost", boxes * cost, money=True)
    d.step("The profit is", income - paid, money=True)
    return d.finish(story, "dollars")


def concert(d: Draft) -> WordProblem:
    people, children, low = d.number(20, 60), d.number(6, 40), d.number(2, 5)
    high, rent = d.number(6, 9), d.number(20, 99)
    show = d.say("concert", "play", "film", "circus")
    d.need(people.value > children.value + 3)
    prices = d.say(
        f"Tickets for a {show} cost ${low} for children and ${high} for adults.",
        f"For a {show} adults pay ${high} and children pay ${low}.",
    )
    crowd = d.say(
        f"Of the {people} visitors, {children} are children.",
        f"{people} people come, and {children} of them are children.",
    )
    ask = d.say(
        f"The hall costs ${rent}. How much money is left after paying for it?",
        f"How much is left of the ticket money after the rent of ${rent} is paid?",
    )
    adults = d.step("There are", people - children, "adults")
    x = d.step("Children pay", children * low, money=True)
    y = d.step("Adults pay", adults * high, money=True)
    d.step("The money left is", x + y - rent, money=True)
    return d.finish(f"{d.facts(prices, crowd)} {ask}", "dollars")
