"""A run can't be lost: each fault is told, and the same call goes on and ends with the same numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


@pytest.fixture
def setup(random_model, tokenizer, problems, tmp_path):
    from fault_scenarios import Setup

    from cs336_sft.prompts import get_template
    from cs336_sft.tokenization import make_examples

    examples = make_examples(problems, get_template("question_only"), tokenizer)
    return Setup(random_model, tokenizer, examples, tmp_path)


def scenarios() -> dict:
    if sys.platform == "win32":
        return {}
    from fault_scenarios import SCENARIOS

    return SCENARIOS


@pytest.mark.parametrize("name", scenarios())
def test_nothing_is_lost(name, setup) -> None:
    scenario, _ = scenarios()[name]
    scenario(setup)


def test_the_page_has_every_fault() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "how-this-is-tested.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ((?:nothing|nobody)[^|]*) \|$", page, re.M)
    assert {name: lost for name, (_, lost) in scenarios().items()} == dict(rows)
