"""Evaluation end to end with a scripted sampler, the file it writes, and scores at a lower limit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cs336_sft.errors import ConfigError, DataError, RewardFunctionError
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.evaluation.generations_file import read_generations, write_generations
from cs336_sft.evaluation.truncation import rescore_at_limit
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import get_reward_fn, gsm8k_reward_fn
from cs336_sft.prompts import get_template
from cs336_sft.records import Generation
from cs336_sft.utils.files import read_jsonl, write_jsonl

TEMPLATE = get_template("gsm8k")


class Scripted:
    """Answers the first problem in the format, the second only readably, and rambles on for the others."""

    def __init__(self, problems):
        self.finals = {TEMPLATE.prompt(p): (i, p.final) for i, p in enumerate(problems)}
        self.seen = None

    def generate(self, prompts, sampling):
        self.seen = (list(prompts), sampling)
        return [[self._one(prompt, sample) for sample in range(sampling.num_samples)] for prompt in prompts]

    def _one(self, prompt, sample):
        index, final = self.finals[prompt]
        text = [f" It is {final}.\n#### {final}", f" So the answer is {final}."][index] if index < 2 else " and so on"
        finish = "stop" if index < 2 else "length"
        return Generation(prompt, (index + 1, 9, 0), text, finish, None, sample, (-0.5, -1.5, -1.0), (1.0, 2.0, 3.0))

    def update_weights(self, model): ...


def test_evaluate_grades_each_generation_against_its_problem(problems, tmp_path) -> None:
    sampler = Scripted(problems)
    path = tmp_path / "deep" / "generations.jsonl"
    sampling = SamplingConfig(max_new_tokens=3, temperature=1.0, num_samples=2)
    evaluation = evaluate(sampler, problems, TEMPLATE, gsm8k_reward_fn, sampling, path=path)
    assert sampler.seen == ([TEMPLATE.prompt(p) for p in problems], sampling)
    assert [g.problem for g in evaluation.graded] == [p for p in problems for _ in range(2)]
    assert [g.generation.sample for g in evaluation.graded[:4]] == [0, 1, 0, 1]
    metrics = evaluation.metrics
    assert (metrics.n, metrics.n_problems) == (24, 12)
    assert metrics.accuracy == pytest.approx(1 / 12)
    assert metrics.format_accuracy == pytest.approx(1 / 12)
    assert metrics.accuracy_lenient == pytest.approx(2 / 12)
    assert metrics.trunc_rate == pytest.approx(10 / 12)
    assert metrics.entropy == 2.0
    assert len(path.read_text().splitlines()) == 24


def test_reward_function_gets_response_and_reference(problems) -> None:
    seen = []

    def reward_fn(response, reference):
        seen.append((response, reference))
        return {"format_reward": 1.0, "answer_reward": 0.0, "reward": 0.0}

    lenient = []
    evaluate(Scripted(problems), problems[:2], TEMPLATE, reward_fn, SamplingConfig(),
             lenient_fn=lambda *call: lenient.append(call) or 1.0)  # fmt: skip
    # Each reference is graded once before anything is generated.
    references = [("", "6"), ("", "14")]
    assert sorted(seen[:2]) == sorted(lenient[:2]) == sorted(references)
    assert seen[2:] == lenient[2:] == [(" It is 6.\n#### 6", "6"), (" So the answer is 14.", "14")]


@pytest.mark.parametrize("style", ["gsm8k", "r1_zero", "question_only"])
def test_a_reference_that_cannot_be_graded_is_found_before_generating(problems, style) -> None:
    sampler = Scripted(problems)
    bad = [*problems[:2], replace(problems[2], final="x+1", id="made/3")]
    with pytest.raises(DataError, match=r"reference 'x\+1' of made/3 can't be graded"):
        evaluate(sampler, bad, TEMPLATE, get_reward_fn(style), SamplingConfig())
    assert sampler.seen is None


def fails_on_the_third(response, reference):
    if "so on" in response:
        raise ZeroDivisionError("a student's mistake")
    return gsm8k_reward_fn(response, reference)


def test_a_reward_function_that_raises_loses_no_generation(problems, tmp_path) -> None:
    path = tmp_path / "g.jsonl"
    sampling = SamplingConfig(temperature=1.0, num_samples=2)
    with pytest.raises(RewardFunctionError, match=r"sample 0 of .*ZeroDivisionError: a student's.*ungraded") as caught:
        evaluate(Scripted(problems), problems, TEMPLATE, fails_on_the_third, sampling, path=path)
    assert problems[2].id in str(caught.value) and not path.exists()
    expected = evaluate(Scripted(problems), problems, TEMPLATE, gsm8k_reward_fn, sampling, path=path).graded
    assert caught.value.ungraded == [(item.problem, item.generation) for item in expected]


def test_raw_generations_are_on_disk_while_they_are_graded_and_replaced_then(problems, tmp_path) -> None:
    path = tmp_path / "g.jsonl"
    raw = tmp_path / "g.jsonl.ungraded"

    def interrupted(response, reference):
        if response:
            raise KeyboardInterrupt
        return gsm8k_reward_fn(response, reference)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Scripted(problems), problems, TEMPLATE, interrupted, SamplingConfig(), path=path)
    assert [p.name for p in tmp_path.iterdir()] == [raw.name]
    kept = dict(read_jsonl(raw)).values()
    evaluation = evaluate(Scripted(problems), problems, TEMPLATE, gsm8k_reward_fn, SamplingConfig(), path=path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert [row["text"] for row in kept] == [graded.generation.text for graded in evaluation.graded]
    stored = dict(read_jsonl(path)).values()
    assert [{name: row[name] for name in before} for row, before in zip(stored, kept, strict=True)] == list(kept)


@pytest.mark.parametrize("rewards", [{}, {"format_reward": 1.0, "answer_reward": 1.0}, {"reward": None}])
def test_rewards_that_are_not_there_are_an_error_before_generating(problems, rewards) -> None:
    sampler = Scripted(problems)
    with pytest.raises(DataError, match="can't be graded: (KeyError|TypeError)"):
        evaluate(sampler, problems, TEMPLATE, lambda *_: rewards, SamplingConfig())
    assert sampler.seen is None


def test_without_a_lenient_function_the_strict_reward_counts(problems) -> None:
    bad = [replace(problems[0], final="x+1")]

    def reward_fn(response, reference):
        return dict.fromkeys(("format_reward", "answer_reward", "reward"), float(reference == "x+1"))

    evaluation = evaluate(Scripted(problems), bad, TEMPLATE, reward_fn, SamplingConfig(), lenient_fn=None)
    assert evaluation.metrics.accuracy_lenient == 1.0


def test_no_problems(problems) -> None:
    with pytest.raises(DataError, match="no problems"):
        evaluate(Scripted(problems), [], TEMPLATE, gsm8k_reward_fn, SamplingConfig())


def without_tokenwise(graded):
    return [replace(g, generation=replace(g.generation, logprobs=None, entropies=None)) for g in graded]


def test_file_holds_everything_but_the_tokenwise_numbers(problems, tmp_path) -> None:
    path = tmp_path / "g.jsonl"
    evaluation = evaluate(Scripted(problems), problems, TEMPLATE, gsm8k_reward_fn, SamplingConfig(), path=path)
    assert list(read_generations(path)) == without_tokenwise(evaluation.graded)
    row = json.loads(path.read_text().splitlines()[0])
    assert (row["mean_logprob"], row["mean_entropy"]) == (-1.0, 2.0)
    assert (row["id"], row["final"], row["token_ids"]) == ("fixture/2x3", "6", [1, 9, 0])


def test_hostile_text_survives_the_file(problems, tmp_path) -> None:
    graded = evaluate(Scripted(problems), problems[:1], TEMPLATE, gsm8k_reward_fn, SamplingConfig()).graded[0]
    text = 'line\nbreak \u2028 \x00 "quote" \\ é \ufffd \ud800 \r\n{"id": 1}'
    item = replace(graded, generation=replace(graded.generation, text=text, logprobs=None, entropies=None))
    path = tmp_path / "g.jsonl"
    write_generations(path, [item, item])
    assert read_generations(path) == (item, item)


def test_file_is_moved_into_place_in_one_step(tmp_path, monkeypatch) -> None:
    path = tmp_path / "g.jsonl"
    write_jsonl(path, [{"a": 1}])

    def killed(source, target):
        assert source.parent == tmp_path  # a move between file systems would be a copy
        assert source.read_text() == '{"a": 2}\n'
        raise KeyboardInterrupt

    monkeypatch.setattr("cs336_sft.utils.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, [{"a": 2}])
    assert path.read_text() == '{"a": 1}\n'


def test_file_appears_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "g.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_jsonl(path, [{"a": 2}, {"a": float("nan")}])
    assert path.read_text() == '{"a": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["g.jsonl"]  # no temporary file stays behind


GOOD = {
    "id": "x", "template": "", "question": "q", "answer": "#### 1", "final": "1", "prompt": "p", "sample": 0,
    "text": "t", "token_ids": [1, 0], "finish_reason": "stop", "stop_reason": None,
    "format_reward": 1.0, "answer_reward": 1.0, "reward": 1.0, "lenient": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2"),
        ("[1]", "not a JSON object"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "token_ids"}), "no field 'token_ids'"),
        (json.dumps(GOOD | {"token_ids": [1, "2"]}), "token_ids"),
        (json.dumps(GOOD | {"token_ids": [1, True]}), "token_ids"),
        (json.dumps(GOOD | {"reward": "1"}), "reward"),
        (json.dumps(GOOD | {"reward": True}), "reward"),
        (json.dumps(GOOD | {"finish_reason": "eos"}), "finish_reason"),
    ],
)
def test_bad_line_names_file_and_line(tmp_path, line, complaint) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        read_generations(path)
    assert "bad.jsonl, line 2" in str(caught.value) and complaint in str(caught.value)


def test_a_blank_last_line_is_no_line(tmp_path) -> None:
    (tmp_path / "g.jsonl").write_text("\ufeff" + json.dumps(GOOD) + "\r\n\r\n")
    assert len(read_generations(tmp_path / "g.jsonl")) == 1


def test_missing_or_undecodable_file(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl can't be read: No such file"):
        read_generations(tmp_path / "none.jsonl")
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b'{"id": "\xff\xfe"}\n')
    with pytest.raises(DataError, match="line 1"):
        read_generations(path)


def shortish(response, reference):
    """A grader that the length changes: right while the text has an even number of characters."""
    right = float(len(response) % 2 == 0)
    return {"format_reward": float(len(response) < 30), "answer_reward": right, "reward": right}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stop", [(), ("a", "##")])
def test_rescoring_equals_generating_at_the_lower_limit(random_model, tokenizer, problems, temperature, stop) -> None:
    sampler = HFSampler(random_model, tokenizer)
    sampling = SamplingConfig(max_new_tokens=24, temperature=temperature, stop=stop, record_entropy=True, seed=4)

    def at(limit):
        config = replace(sampling, max_new_tokens=limit)
        return evaluate(sampler, problems, TEMPLATE, shortish, config).graded

    long = at(24)
    for limit in (1, 9, 24):
        rescored = rescore_at_limit(long, limit, tokenizer, shortish)
        expected = at(limit)
        assert without_tokenwise(rescored) == without_tokenwise(expected)
        assert [len(g.generation.entropies) for g in rescored] == [len(g.generation.entropies) for g in expected]


def test_rescoring_cannot_look_beyond_a_cut(random_model, tokenizer, problems) -> None:
    graded = evaluate(
        HFSampler(random_model, tokenizer), problems[:2], TEMPLATE, shortish, SamplingConfig(max_new_tokens=5)
    ).graded
    with pytest.raises(ConfigError, match="cut off after 5 tokens"):
        rescore_at_limit(graded, 6, tokenizer, shortish)
    with pytest.raises(ConfigError, match="limit is 0"):
        rescore_at_limit(graded, 0, tokenizer, shortish)
    assert rescore_at_limit(graded, 5, tokenizer, shortish) == graded
