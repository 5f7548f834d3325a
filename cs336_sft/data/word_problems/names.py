"""People, things and number words that the stories are about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """A first name and its pronouns."""

    name: str
    they: str
    their: str

    def __str__(self) -> str:
        return self.name

    @property
    def They(self) -> str:  # noqa: N802 - the capitalised pronoun
        return self.they.capitalize()


_WOMEN = "Mia Anna Lily Emma Sara Nina Ruth Julia Maria Ella Grace Alice Clara Dana Eva Hannah Ivy Kate Zoe Lucy"
_MEN = "Tom Ben Jack Leo Sam Max Omar Paul Noah Adam Carl David Eric Felix Henry Ivan James Kevin Luke Peter"

PEOPLE = tuple(Person(name, "she", "her") for name in _WOMEN.split()) + tuple(
    Person(name, "he", "his") for name in _MEN.split()
)
PART_WORDS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth"}

# Plural nouns of things that are counted and can change hands.
COLLECTION = tuple("marbles stickers shells cards stamps coins beads buttons stones badges pencils comics".split())
BAKED = tuple("muffins cookies rolls cupcakes buns pies bagels tarts".split())
FRUIT = tuple("apples pears oranges lemons plums peaches melons mangoes".split())
RELATIVES = tuple("mother father aunt uncle teacher coach".split())


def _with_plural(names: str) -> tuple[tuple[str, str], ...]:
    irregular = {"scarf": "scarves"}
    return tuple(
        (name, irregular.get(name, name + ("es" if name.endswith("ch") else "s"))) for name in names.split(", ")
    )


# (singular, plural) of things with a price in whole dollars, of dear things that are saved for or reduced, and of
# small things with a price in dollars and half dollars.
GOODS = _with_plural("notebook, book, toy car, puzzle, scarf, plant, lamp, mug, shirt, hat, ball, pillow")
DEAR_GOODS = _with_plural("bicycle, jacket, guitar, tent, camera, desk, watch, radio")
SNACKS = _with_plural("sandwich, juice, salad, muffin, pie, soup, bagel, taco")


def times(number: object) -> str:
    """``"twice"`` or ``"5 times"``."""
    return "twice" if str(number) == "2" else f"{number} times"
