"""Solutions, library and the examples in the stubs agree: what a learner writes is what the course runs.

``solutions/`` holds the plain formula, the library the version that one would ship. Values and gradients are compared
on cases that the stubs' contracts cover; every exercise is here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cs336_sft
from cs336_sft.data import token_lengths
from cs336_sft.data.token_lengths import LengthTable
from cs336_sft.exercises.checks.objects import TinyLM, word_tokenizer
from cs336_sft.exercises.registry import EXERCISES, find_exercise
from cs336_sft.records import Example, Generation, Graded, Problem
from cs336_sft.tokenization import collate

ROOT = Path(__file__).resolve().parent.parent
INF = float("inf")


def solution(number: str) -> ModuleType:
    path = ROOT / "solutions" / find_exercise(number).file_name
    spec = spec_from_file_location(f"solution_{number}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def both(number: str, name: str) -> tuple:
    """The solution's function and the library's of the same name."""
    return getattr(solution(number), name), getattr(token_lengths if number == "ex01" else cs336_sft, name)


def graded(question: str, text: str, reward: float = 1.0, **changes) -> Graded:
    problem = Problem(f"question {question}", "#### 5", "5", id=question)
    tokens = changes.pop("tokens", 3)
    generation = Generation("Q", tuple(range(tokens)), text, changes.pop("finish_reason", "stop"))
    item = Graded(problem, generation, format_reward=reward, answer_reward=reward, reward=reward, lenient=reward)
    return replace(item, **changes)


# Functions of the exercises that have no twin in the library: the course's loop does their work in other pieces.
WITHOUT_TWIN = {"accumulate_gradients", "train"}


@pytest.mark.parametrize(
    ("number", "name"), [(e.number, f) for e in EXERCISES for f in e.functions if f not in WITHOUT_TWIN]
)
def test_name_and_arguments_are_the_library_s(number: str, name: str) -> None:
    """Every argument of the exercise is one of the library's function, in its place and with its default."""
    mine, library = (signature(function).parameters.values() for function in both(number, name))
    offered = {parameter.name: parameter for parameter in library}
    place = {parameter.name: i for i, parameter in enumerate(offered.values())}
    for i, parameter in enumerate(mine):
        twin = offered[parameter.name]
        assert twin.default == parameter.default
        assert twin.kind == parameter.kind
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert place[parameter.name] == i


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.number)
def test_the_notebook_that_teaches_it_is_there(exercise) -> None:
    assert (ROOT / "notebooks" / f"{exercise.notebook}.ipynb").is_file()


# --- ex01


def test_ex01_by_hand_and_on_problems(tokenizer, problems) -> None:
    table = LengthTable((10, 20), (4, 1))
    for percentiles in both("ex01", "length_percentiles"):
        found = percentiles(table)
        assert (found["prompt"]["50"], found["answer"]["50"], found["total"]["50"]) == (15.0, 2.5, 17.5)
        assert found["total"]["90"] == pytest.approx(20.3)
    plain, library = both("ex01", "token_lengths")
    template = cs336_sft.get_template("gsm8k")
    mine, theirs = plain(problems, template, tokenizer), library(problems, template, tokenizer)
    assert mine == theirs and len(mine.prompt) == len(problems)
    plain, library = both("ex01", "length_percentiles")
    assert plain(mine) == library(mine)


# --- ex02 and ex09: words are tokens


def words(*vocabulary: str, pad: str, eos: str):
    return word_tokenizer(("?", *vocabulary, "_", "E"), eos=eos, pad=pad)


def test_ex02_by_hand() -> None:
    tokenizer = words(*"2+3=5Q:A", pad="_", eos="E")
    for function in both("ex02", "tokenize_prompt_and_output"):
        found = function(["2 + 3 =", "Q :"], ["5", "A"], tokenizer)
        assert [tokenizer.convert_ids_to_tokens(row) for row in found["input_ids"]] == [list("2+3="), list("Q:A_")]
        assert [tokenizer.convert_ids_to_tokens(row) for row in found["labels"]] == [list("+3=5"), list(":A__")]
        assert found["response_mask"].tolist() == [[False, False, False, True], [False, True, False, False]]


def test_ex09_by_hand() -> None:
    tokenizer = words(*"2+3=QA", pad="E", eos="E")
    for function in both("ex09", "tokenize_prompt_and_output"):
        found = function(["2 +", "Q"], ["3 =", "A"], tokenizer, append_eos=True)
        assert [tokenizer.convert_ids_to_tokens(row) for row in found["labels"]] == [list("+3=E"), list("AEEE")]
        assert found["response_mask"].tolist() == [[False, True, True, True], [True, True, False, False]]


@pytest.mark.parametrize("number", ["ex02", "ex09"])
@pytest.mark.parametrize("append_eos", [False, True])
def test_tokenization_on_a_bpe_tokenizer(number: str, append_eos: bool, tokenizer, problems) -> None:
    if number == "ex02" and append_eos:
        return  # ex02 does not know it yet
    template = cs336_sft.get_template("gsm8k")
    prompts, outputs = [template.prompt(p) for p in problems], [template.respond(p) for p in problems]
    more = {"append_eos": append_eos} if number == "ex09" else {}
    plain, library = both(number, "tokenize_prompt_and_output")
    found, expected = plain(prompts, outputs, tokenizer, **more), library(prompts, outputs, tokenizer, **more)
    assert found.keys() == expected.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


# --- ex03, ex04, ex05, ex06: tensors


def test_ex03_by_hand() -> None:
    tensor = torch.arange(1.0, 9.0).reshape(2, 4)
    mask = torch.tensor([[False, True, True, False], [False, False, False, True]])
    for function in both("ex03", "masked_normalize"):
        assert function(tensor, mask, 2, dim=1).tolist() == [2.5, 4]
        assert function(tensor, mask, 2, dim=0).tolist() == [0, 1, 1.5, 4]
        assert function(tensor, mask, 2).item() == 6.5


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999), rows=st.integers(1, 5), columns=st.integers(1, 6), dim=st.sampled_from([None, 0, 1, -1])
)
def test_ex03_on_random_tensors(seed: int, rows: int, columns: int, dim: int | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, columns, generator=generator) > 0.5
    values, gradients = [], []
    for function in both("ex03", "masked_normalize"):
        tensor = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).masked_fill(~mask, math.nan)
        value = function(tensor.requires_grad_(), mask, 3.0, dim)
        value.sum().backward()
        values.append(value)
        gradients.append(tensor.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_ex04_by_hand() -> None:
    for function in both("ex04", "sft_microbatch_train_step"):
        log_probs = torch.tensor([[-1.0, -2, -9, -7], [-3, -9, -4, -2]], requires_grad=True)
        mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
        loss, metadata = function(log_probs, mask, 2)
        assert loss.item() == 1.5 and isinstance(metadata, dict)
        assert torch.equal(log_probs.grad, -mask.float() / 4)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 5),
    columns=st.integers(1, 6),
    steps=st.integers(1, 4),
    constant=st.floats(0.5, 50),
)
def test_ex04_on_random_tensors(seed: int, rows: int, columns: int, steps: int, constant: float) -> None:
    found = []
    for function in both("ex04", "sft_microbatch_train_step"):
        generator = torch.Generator().manual_seed(seed)
        log_probs = (-torch.rand(rows, columns, generator=generator)).requires_grad_()
        mask = torch.rand(rows, columns, generator=generator) > 0.4
        found.append((function(log_probs, mask, steps, constant)[0], log_probs.grad))
    torch.testing.assert_close(*found)


def test_ex05_by_hand() -> None:
    for function in both("ex05", "compute_entropy"):
        found = function(torch.tensor([[0.0, 0, 0, 0], [0, 0, -INF, -INF]]))
        torch.testing.assert_close(found, torch.tensor([4.0, 2.0]).log())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([0.01, 1.0, 30.0, 1e4]))
def test_ex05_on_random_logits(seed: int, scale: float) -> None:
    found = []
    for function in both("ex05", "compute_entropy"):
        logits = (torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()
        value = function(logits)
        value.sum().backward()
        found.append((value, logits.grad))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_ex06_by_hand() -> None:
    class Model(torch.nn.Module):
        config = SimpleNamespace(vocab_size=2)

        def forward(self, input_ids: torch.Tensor, **kwargs) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.tensor([0.0, math.log(3)]).expand(*input_ids.shape, 2))

    labels = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    for function in both("ex06", "get_response_log_probs"):
        found = function(Model(), torch.zeros(2, 4, dtype=torch.long), labels, return_token_entropy=True)
        torch.testing.assert_close(found["log_probs"], torch.tensor([1.0, 3.0])[labels].div(4).log())
        assert found["token_entropy"].round(decimals=2).tolist() == torch.full((2, 4), 0.56).tolist()
        assert "token_entropy" not in function(Model(), torch.zeros(2, 4, dtype=torch.long), labels)


def test_ex06_on_a_transformer(random_model) -> None:
    """Values and gradients, on a real architecture."""
    ids = torch.randint(0, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    results = []
    for function in both("ex06", "get_response_log_probs"):
        random_model.zero_grad()
        found = function(random_model, ids[:, :-1], ids[:, 1:], True)
        found["log_probs"].sum().backward()
        results.append([*found.values(), *(p.grad.clone() for p in random_model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- ex07 and ex08: grading


def test_ex07_by_hand() -> None:
    cases = {
        ("#### 1,080.", "1080"): (1, 1, 1),
        ("#### none", "5"): (1, 0, 0),
        ("#### 1 8", "18"): (1, 0, 0),
        ("It is 5.", "5"): (0, 0, 0),
    }
    for function in both("ex07", "gsm8k_reward_fn"):
        for (response, truth), wanted in cases.items():
            found = function(response, truth)
            assert tuple(found[key] for key in ("format_reward", "answer_reward", "reward")) == wanted, response


# What the contract speaks of: numbers with separators, sign, decimals, currency, unit, full stop; an invented question.
_NUMBERS = st.builds(
    lambda value, places, separators: f"{value / 10**places:{',' if separators else ''}.{places}f}",
    st.integers(-10_000_000, 10_000_000),
    st.integers(0, 2),
    st.booleans(),
)
_LINES = st.builds(
    "".join,
    st.tuples(st.sampled_from(["", " ", "$", " $"]), _NUMBERS, st.sampled_from(["", ".", " eggs", " ", " kg."])),
)
_WORK = st.sampled_from(["", "2+3 = 5\n", "He has #### of them\n", "#### 7\nno, wait\n", "48/2 = <<48/2=24>>24 so\n"])
_TAILS = st.sampled_from(["", "\n", "\nQuestion: how many?\nAnswer: #### 3", "\n\nQuestion: 3 + 4?"])


@settings(max_examples=300, deadline=None)
@given(work=_WORK, line=_LINES, tail=_TAILS, truth=_NUMBERS, same=st.booleans())
def test_ex07_within_its_contract(work: str, line: str, tail: str, truth: str, same: bool) -> None:
    """On responses of the kinds that the stub names the solution and the library's grader give the same rewards."""
    if same:
        truth = "".join(c for c in line if c.isdigit() or c in ",.-").rstrip(".")
    response = f"{work}####{line}{tail}"
    plain, library = both("ex07", "gsm8k_reward_fn")
    assert plain(response, truth) == library(response, truth), (response, truth)


def test_ex08_by_hand_and_on_random_records() -> None:
    items = [
        graded("A", "x", 1.0, tokens=4),
        graded("B", "y", 0.0, format_reward=1.0, tokens=8, finish_reason="length"),
    ]
    plain, library = both("ex08", "compute_metrics")
    wanted = {"accuracy": 0.5, "format_accuracy": 1.0, "trunc_rate": 0.5, "avg_gen_len": 6.0}
    assert plain(items) == wanted
    assert {key: library(items).as_dict()[key] for key in wanted} == wanted
    generator = torch.Generator().manual_seed(0)
    many = []
    for i in range(42):  # three samples of each problem: the library weighs problems, not samples, alike
        a, b, c, length = torch.randint(0, 2, (4,), generator=generator).tolist()
        many.append(
            graded(
                str(i // 3),
                "t",
                float(a),
                format_reward=float(a or b),
                lenient=float(a or c),
                tokens=i,
                finish_reason="length" if length else "stop",
            )
        )
    theirs = library(many).as_dict()
    assert plain(many) == pytest.approx({key: theirs[key] for key in wanted})


# --- ex10: accumulation


def test_ex10_by_hand() -> None:
    masks = [torch.tensor([[True, True, False, False]]), torch.ones(1, 4, dtype=torch.bool)]

    def parts() -> list:
        return [torch.tensor([[-3.0, -3, -8, -8]]).requires_grad_(), torch.full((1, 4), -0.5).requires_grad_()]

    for function in both("ex10", "token_mean_loss"):
        log_probs = parts()
        loss = sum(function(part, mask, 6) for part, mask in zip(log_probs, masks, strict=True))
        loss.backward()
        assert loss.item() == pytest.approx(8 / 6)
        for part, mask in zip(log_probs, masks, strict=True):
            torch.testing.assert_close(part.grad, -mask.float() / 6)
    log_probs = parts()
    assert solution("ex10").accumulate_gradients(list(zip(log_probs, masks, strict=True))) == pytest.approx(8 / 6)
    torch.testing.assert_close(log_probs[0].grad, -masks[0].float() / 6)


# --- ex11: chunks


def test_ex11_by_hand() -> None:
    hidden, weight = torch.tensor([[0.0], [math.log(3)]]), torch.tensor([[0.0], [1.0]])
    for function in both("ex11", "chunked_log_probs"):
        for chunk_size in (1, 2, 5):
            found = function(hidden, weight, torch.tensor([1, 1]), chunk_size)
            assert [round(x, 4) for x in found["log_probs"].tolist()] == [-0.6931, -0.2877]
            assert [round(x, 4) for x in found["token_entropy"].tolist()] == [0.6931, 0.5623]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 50])
def test_ex11_values_and_gradients(dtype: torch.dtype, chunk_size: int) -> None:
    found = []
    for function in both("ex11", "chunked_log_probs"):
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(7, 5, generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(11, 5, generator=generator).to(dtype).requires_grad_()
        labels = torch.randint(0, 11, (7,), generator=generator)
        result = function(hidden, weight, labels, chunk_size)
        assert result["log_probs"].dtype == torch.float32 and not result["token_entropy"].requires_grad
        (result["log_probs"] * torch.arange(1.0, 8.0)).sum().backward()
        found.append((result["log_probs"], result["token_entropy"], hidden.grad, weight.grad))
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **near)


# --- ex12: selection


def test_ex12_by_hand() -> None:
    shown = ["A x*", "B y", "A x*", "A z*", "A v*", "B w*", "C y", "A x"]
    items = [graded(text[0], text[2], 1.0 if text.endswith("*") else 0.0) for text in shown]
    for function in both("ex12", "select_samples"):
        kept = function(items, max_per_question=2)
        assert [f"{item.problem.id} {item.generation.text}" for item in kept] == ["A x", "A z", "B w"]
        assert list(function([])) == [] == list(function([items[1]]))


@settings(max_examples=150, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(st.sampled_from("ABC"), st.sampled_from(["x", "y", " x", "z\n"]), st.sampled_from([0.0, 1.0])),
        max_size=14,
    ),
    cap=st.sampled_from([None, 1, 2, 3]),
)
def test_ex12_on_random_samples(drawn: list, cap: int | None) -> None:
    items = [graded(*one) for one in drawn]
    plain, library = both("ex12", "select_samples")
    assert list(plain(items, cap)) == list(library(items, cap))


# --- ex13: the batches, and the training loop on one example


def test_ex13_batches_are_the_library_s() -> None:
    examples = [Example((5,), (6, 0)), Example((5, 7), (6, 8, 0))]
    ids, labels, mask = solution("ex13").make_batch(examples, 0)
    batch = collate(examples, pad_id=0)
    assert labels.tolist() == [[6, 0, 0, 0], [7, 6, 8, 0]]
    assert mask.tolist() == [[True, True, False, False], [False, True, True, True]]
    for mine, theirs in zip((ids, labels, mask), (batch.input_ids, batch.labels, batch.response_mask), strict=True):
        assert torch.equal(mine, theirs)


def test_ex13_does_not_depend_on_how_a_batch_is_cut() -> None:
    """As the library's loop promises (tests/test_training.py): weights and losses of every cut are one batch's."""
    examples = [Example((5,), (6, 0)), Example((5, 7), (6, 8, 0)), Example((1, 2, 3), (4, 0))]
    found = []
    for size in (1, 2, 3):
        model = TinyLM(9)
        losses = solution("ex13").train(
            model, examples, 0, epochs=2, batch_size=2, microbatch_size=size, learning_rate=0.3
        )
        found.append((torch.tensor(losses), *(p.detach() for p in model.parameters())))
    assert len(found[0][0]) == 4
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


# --- ex14 and ex15: advantages, and the clipped loss


def test_ex14_by_hand() -> None:
    for function in both("ex14", "compute_group_normalized_rewards"):
        arguments = (lambda response, truth: {"reward": float(response == truth)}, list("50005505"), ["5"] * 8, 4)
        advantages, rewards, metadata = function(*arguments)
        assert rewards.tolist() == [1, 0, 0, 0, 1, 1, 0, 1] and isinstance(metadata, dict)
        assert advantages.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5, 0.5, 0.5, -1.5, 0.5], rel=1e-4)
        plain = function(*arguments, normalize_by_std=False)[0]
        assert plain.tolist() == [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, -0.75, 0.25]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(-8, 8), min_size=3, max_size=3), min_size=1, max_size=4), st.booleans())
def test_ex14_on_random_rewards(groups: list, by_std: bool) -> None:
    texts = [str(reward / 4) for group in groups for reward in group]
    arguments = (lambda response, truth: {"reward": float(response)}, texts, texts, 3, 0.1, by_std)
    mine, theirs = (function(*arguments) for function in both("ex14", "compute_group_normalized_rewards"))
    assert torch.allclose(mine[0], theirs[0], atol=1e-5) and torch.equal(mine[1], theirs[1])


def test_ex15_by_hand() -> None:
    old = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
    policy = old + torch.tensor([1.5, 0.5]).log()
    for function in both("ex15", "compute_grpo_clip_loss"):
        loss, metadata = function(torch.tensor([[1.0], [-1.0]]), policy, old, 0.2)
        assert torch.allclose(loss, torch.tensor([[-1.2, -0.5], [1.5, 0.8]]))
        assert metadata["is_clipped"].tolist() == [[True, False], [False, True]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))
def test_ex15_on_random_tokens(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    old, moved, advantages = (torch.randn(rows, n, generator=generator) for n in (columns, columns, 1))
    found = []
    for function in both("ex15", "compute_grpo_clip_loss"):
        policy = (old + moved).requires_grad_()
        loss, metadata = function(advantages, policy, old, 0.2)
        loss.sum().backward()
        found.append((loss.detach(), policy.grad, metadata["is_clipped"]))
    assert all(torch.allclose(a.double(), b.double()) for a, b in zip(*found, strict=True))
