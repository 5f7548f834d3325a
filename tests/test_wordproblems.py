"""The generator: right by construction, disjoint by construction, different graphs, readable text."""

from __future__ import annotations

import pickle
import random
import re
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.data.calculator_annotations import check_annotations, evaluate_expression
from cs336_sft.data.word_problems import SPLITS, generate_problems, generate_word_problems
from cs336_sft.data.word_problems.draft import Draft, Quantity, Redraw
from cs336_sft.data.word_problems.splits import HELDOUT_TEMPLATES, TEMPLATES, split_of
from cs336_sft.errors import ConfigError

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# What a question says in words; 4 tests are "three tests and the last", 2 stands in the perimeter, 100 in a percent.
_WORDS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fifth": 5,
    "sixth": 6,
    "twice": 2,
    "%": 100,
    "fence": 2,
}


@pytest.fixture(scope="module")
def many():
    """Problems of every template: 4,000 for the training templates, 1,000 for the held-out ones."""
    return [
        *generate_word_problems(4000, split="train", seed=3),
        *generate_word_problems(1000, split="heldout_templates", seed=3),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63), st.sampled_from(SPLITS))
def test_every_annotation_is_exact(seed, split):
    for problem in generate_problems(8, split=split, seed=seed):
        lines = problem.answer.split("\n")
        checks = check_annotations(problem.answer)
        assert len(checks) == len(lines) - 1 >= 2
        for check in checks:
            expression, result = check.text.split("=")
            assert evaluate_expression(expression) == Fraction(result), problem
        assert lines[-1] == f"#### {problem.final}"
        assert Fraction(result) == Fraction(problem.final)  # of the last one


def test_each_line_repeats_its_expression_and_result(many):
    form = re.compile(r"^\S.* (?P<a>[\d.+*/()-]+) = \$?<<(?P<b>[\d.+*/()-]+)=(?P<c>\d+)>>(?P<d>\d+)(?: \S.*)?\.$")
    for problem in many:
        for step in problem.steps:
            match = form.match(step.annotated())
            assert match and match["a"] == match["b"] and match["c"] == match["d"], step
            assert step.plain() == re.sub(r"<<.*?>>", "", step.annotated())
            assert step.clause() in step.plain().replace(f"{step.expression} = ", "")


def test_every_number_is_given_or_computed(many):
    """A solution uses only numbers of the question, of its own earlier steps, and those said in words."""
    for problem in many:
        known = {Fraction(number) for number in _NUMBER.findall(problem.question)}
        known |= {Fraction(value) for word, value in _WORDS.items() if word in problem.question}
        for step in problem.steps:
            used = {Fraction(number) for number in _NUMBER.findall(step.expression)}
            assert used <= known, (problem, used - known)
            known.add(Fraction(step.result))


def test_every_given_number_is_used(many):
    """Except for the facts that do not matter, which some templates add: one number at most."""
    distractors = {"change", "wages", "percent_off", "part_as_many", "part_of_the_rest", "same_speed", "pooled_share"}
    for problem in many:
        used = {number for step in problem.steps for number in _NUMBER.findall(step.expression)}
        unused = set(_NUMBER.findall(problem.question.replace(" 1/", " "))) - used
        if problem.template not in distractors:
            assert not unused, problem
        assert len(unused) <= 1, problem


def test_every_step_is_needed(many):
    """All operations of the steps are reached from the final answer: none is done for nothing."""

    def operations(node: Quantity, found: dict[int, str]) -> dict[int, str]:
        if node.operation and id(node.operation) not in found:
            found[id(node.operation)] = node.operation[0]
            operations(node.operation[1], found)
            operations(node.operation[2], found)
        return found

    for problem in many:
        signs = Counter(sign for step in problem.steps for sign in step.expression if sign in "+-*/")
        assert Counter(operations(problem.root, {}).values()) == signs, problem


def operation_graph(root: Quantity) -> str:
    """Write the operations that lead to ``root`` in a canonical form.

    Given numbers are all ``n``. Operands of ``+`` and ``*`` are sorted. A result that is used again is written
    out once and then called ``#k``, in the order of first use, so that ``x + x/n`` with ``x = n*n`` differs from
    ``n*n + n*n/n``.
    """
    uses: dict[int, int] = {}

    def count(node: Quantity) -> None:
        uses[id(node.operation)] = uses.get(id(node.operation), 0) + 1
        if node.operation and uses[id(node.operation)] == 1:
            count(node.operation[1])
            count(node.operation[2])

    def unrolled(node: Quantity) -> str:
        if node.operation is None:
            return "n"
        operator, left, right = node.operation
        operands = [unrolled(left), unrolled(right)]
        if operator in "+*":
            operands.sort()
        return f"{operator}({','.join(operands)})"

    names: dict[int, str] = {}

    def write(node: Quantity) -> str:
        if node.operation is None:
            return "n"
        key = id(node.operation)
        if key in names:
            return names[key]
        operator, left, right = node.operation
        operands = [left, right]
        if operator in "+*":
            # Short operands first: a shared result is then named where it stands alone.
            operands.sort(key=lambda operand: (len(unrolled(operand)), unrolled(operand)))
        text = f"{operator}({','.join(write(operand) for operand in operands)})"
        if uses[key] > 1:
            names[key] = f"#{len(names)}"
            text += f"={names[key]}"
        return text

    count(root)
    return write(root)


def test_all_48_graphs_differ(many):
    graphs = defaultdict(set)
    for problem in many:
        graphs[problem.template].add(operation_graph(problem.root))
    assert set(graphs) == {*TEMPLATES, *HELDOUT_TEMPLATES}
    assert all(len(found) == 1 for found in graphs.values()), "a template has one graph"
    owners = Counter(next(iter(found)) for found in graphs.values())
    assert len(TEMPLATES) == 40 and len(HELDOUT_TEMPLATES) == 8
    assert len(owners) == 48, [graph for graph, count in owners.items() if count > 1]


def test_graph_sees_structure_and_not_numbers():
    a, b, c = (Quantity(value) for value in (6, 4, 2))
    assert operation_graph(a * b + c) == operation_graph(Quantity(9) + Quantity(5) * Quantity(7))
    assert operation_graph(a * b + c) != operation_graph((a + b) * c)
    assert operation_graph(a - b / c) != operation_graph(a / c - b)
    product = a * b
    assert operation_graph(product + product / c) != operation_graph(product + (a * b) / c)


def test_parentheses_follow_the_value():
    a, b, c = (Quantity(value) for value in (60, 4, 3))
    for expression in (a - (b - c), a - (b + c), a / (b * c), a / (b / c), (a + b) * c, a + b * c, a * b / c):
        assert evaluate_expression(expression.text) == expression.value


def test_splits_never_share_numbers_in_order():
    """Nor, therefore, questions: whatever the seeds, the same numbers in the same order are in one split only."""
    keys = {
        split: {
            tuple(re.findall(r"\d+", problem.question))
            for seed in range(3)
            for problem in generate_problems(400, split=split, seed=seed)
        }
        for split in SPLITS[:3]
    }
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    for split in SPLITS[:3]:
        assert all(split_of(p.question) == split for p in generate_problems(100, split=split, seed=9))


def test_split_shares():
    shares = Counter(split_of(f"{a} and {b}") for a in range(100) for b in range(100))
    assert abs(shares["train"] - 9000) < 150
    assert abs(shares["validation"] - 500) < 110
    assert abs(shares["test"] - 500) < 110


def test_heldout_templates_stay_out():
    for split in SPLITS:
        names = {problem.template for problem in generate_problems(200, split=split, seed=4)}
        expected = HELDOUT_TEMPLATES if split == "heldout_templates" else TEMPLATES
        assert names == set(expected)


@pytest.mark.parametrize("split", SPLITS)
def test_nested_seeded_and_unique(split):
    long = generate_problems(512, split=split, seed=7)
    assert generate_problems(128, split=split, seed=7) == long[:128]
    assert generate_problems(128, split=split, seed=8) != long[:128]
    assert len({problem.question for problem in long}) == 512
    assert [problem.id for problem in long[:2]] == [f"tiny/{split}/7/0", f"tiny/{split}/7/1"]
    structured = generate_word_problems(512, split=split, seed=7)
    assert [p.question for p in structured] == [p.question for p in long]
    assert [p.final_text for p in structured] == [p.final for p in long]


def test_same_on_every_machine():
    """A change of these lines changes every recorded figure of the tiny profile: it should be on purpose."""
    first = generate_problems(1, split="train", seed=0)[0]
    assert (first.template, first.question) == FIRST_TRAINING_PROBLEM


def test_balanced_and_of_all_difficulties():
    problems = generate_word_problems(400, split="train")
    assert set(Counter(problem.template for problem in problems).values()) == {10}
    operations = [sum(sign in "+-*/" for step in p.steps for sign in step.expression) for p in problems]
    shares = {count: operations.count(count) / len(problems) for count in range(2, 7)}
    assert sum(shares.values()) == pytest.approx(1)
    assert 0.2 <= shares[2] <= 0.3 and 0.2 <= shares[3] <= 0.35 and shares[4] >= 0.2
    assert 0.15 <= shares[5] + shares[6] <= 0.3


def test_sizes(many):
    for problem in many:
        assert 2 <= len(problem.steps) <= 6
        assert 15 <= len(problem.question.split()) <= 60, problem.question
        assert all(2 <= int(step.result) <= 999 for step in problem.steps)
        assert type(problem.root.value) is int and str(problem.root.value) == problem.final_text
        # Digits and signs one token each, a word about one: the bound of 114 and some slack for rare words.
        answer = " ".join(step.annotated() for step in problem.steps)
        assert len(re.findall(r"\d|[A-Za-z']+|[^\sA-Za-z\d]+", answer)) <= 115


def test_only_prices_have_decimals(many):
    for problem in many:
        for number in re.findall(r"\S*\d+\.\d+", problem.question):
            assert re.fullmatch(r"\$\d+\.50", number), problem.question


def test_numbers_of_a_question_are_plural_amounts(many):
    """No zero, and no 1 beside a plural noun; "one" is written as a word."""
    for problem in many:
        question = re.sub(r"1/\d+", "part", problem.question)
        assert not re.search(r"\b[01]\b(?!\.\d)", question), problem.question
        assert not re.search(r"\b0\d", question), problem.question
        assert "  " not in question and question.endswith((".", "?")) and question[0] != " "
        assert not re.search(r"[.?] [a-z]|\{|\}|None", question), question


def test_conclusion_states_the_answer(many):
    for problem in many:
        assert re.search(rf"(?<!\d)\$?{problem.final_text}(?!\d)", problem.conclusion)
        assert not problem.conclusion.endswith(".")
        assert (problem.steps[-1].currency == "$") == (problem.unit == "dollars")


def test_wording_varies():
    """The same template asks in at least four ways, once names, nouns and numbers are taken away."""
    wordings = defaultdict(set)
    for problem in generate_word_problems(4000, split="train", seed=5):
        wordings[problem.template].add(re.sub(r"\d+|[A-Z]\w+", "", problem.question))
    assert min(map(len, wordings.values())) >= 4


def test_problems_travel_between_processes():
    problem = generate_word_problems(1, split="train")[0]
    again = pickle.loads(pickle.dumps(problem))
    assert again == problem and operation_graph(again.root) == operation_graph(problem.root)


def test_draft_throws_senseless_draws_away():
    draft = Draft(random.Random(0), "example")
    for expression in (Quantity(5) / Quantity(2), Quantity(3) - Quantity(5), Quantity(500) * Quantity(2)):
        with pytest.raises(Redraw):
            draft.step("There are", expression)
    for expression in (Quantity(3) - Quantity(3), Quantity(3) - Quantity(2)):
        with pytest.raises(Redraw):
            draft.step("There are", expression)


def test_errors_name_the_remedy():
    with pytest.raises(ConfigError, match="choose one of train, validation, test, heldout_templates"):
        generate_problems(3, split="dev")
    with pytest.raises(ConfigError, match="Remedy"):
        generate_word_problems(1, split="Train")
    with pytest.raises(ConfigError, match="0 or more"):
        generate_problems(-1, split="train")
    assert generate_problems(0, split="train") == []


FIRST_TRAINING_PROBLEM = (
    "resale",
    "Jack buys 8 boxes for $9 each. Every box holds 6 plants. Jack has to throw away 9 plants. The "
    "rest are sold for $8 each. What is the profit?",
)
