"""People and things that the stories are about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """A first name and its pronouns.

    >>> f"{Person('Mia', 'she', 'her')} and {Person('Tom', 'he', 'his').their} dog"
    'Mia and his dog'
    """

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

# Plural nouns of things that are counted and can change hands.
COLLECTION = (
    "marbles",
    "stickers",
    "shells",
    "cards",
    "stamps",
    "coins",
    "beads",
    "buttons",
    "stones",
    "badges",
    "pencils",
    "comics",
)
# (singular, plural) of things with a price in whole dollars.
GOODS = (
    ("notebook", "notebooks"),
    ("book", "books"),
    ("toy car", "toy cars"),
    ("puzzle", "puzzles"),
    ("scarf", "scarves"),
    ("plant", "plants"),
    ("lamp", "lamps"),
    ("mug", "mugs"),
    ("shirt", "shirts"),
    ("hat", "hats"),
    ("ball", "balls"),
    ("pillow", "pillows"),
)
# (singular, plural) of dear things that are saved for or reduced.
DEAR_GOODS = (
    ("bicycle", "bicycles"),
    ("jacket", "jackets"),
    ("guitar", "guitars"),
    ("tent", "tents"),
    ("camera", "cameras"),
    ("desk", "desks"),
    ("watch", "watches"),
    ("radio", "radios"),
)
# (singular, plural) of small things with a price in dollars and half dollars.
SNACKS = (
    ("sandwich", "sandwiches"),
    ("juice", "juices"),
    ("salad", "salads"),
    ("muffin", "muffins"),
    ("pie", "pies"),
    ("soup", "soups"),
    ("bagel", "bagels"),
    ("taco", "tacos"),
)
BAKED = ("muffins", "cookies", "rolls", "cupcakes", "buns", "pies", "bagels", "tarts")
FRUIT = ("apples", "pears", "oranges", "lemons", "plums", "peaches", "melons", "mangoes")
RELATIVES = ("mother", "father", "aunt", "uncle", "teacher", "coach")
