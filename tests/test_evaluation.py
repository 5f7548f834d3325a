"""Evaluation end to end with a scripted sampler, the file it writes, and scores at a lower limit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.evaluate import evaluate, read_generations, rescore_at_limit, write_generations, write_jsonl
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.prompts import get_template
from cs336_sft.records import Generation

TEMPLATE = get_template("gsm8k")


class Scripted:
    """Answers the first problem in the format, the second only readably, and rambles on for the others."""

    def __init__(self, problems):
        self.finals = {TEMPLATE.prompt(p): (i, p.final) for i, p in enumerate(problems)}
        self.seen = None

    def generate(self, prompts, sampling):
        self.seen = (list(prompts), sampling)
        return [[self._one(prompt, sample) for sample in range(sampling.n)] for prompt in prompts]

    def _one(self, prompt, sample):
        index, final = self.finals[prompt]
        text = [f" It is {final}.\n#### {final}", f" So the answer is {final}."][index] if index < 2 else " and so on"
        finish = "stop" if index < 2 else "length"
        return Generation(prompt, (index + 1, 9, 0), text, finish, None, sample, (-0.5, -1.5, -1.0), (1.0, 2.0, 3.0))

    def update_weights(self, model): ...


def test_evaluate_grades_each_generation_against_its_problem(problems, tmp_path) -> None:
    sampler = Scripted(problems)
    path = tmp_path / "deep" / "generations.jsonl"
    sampling = SamplingConfig(max_new_tokens=3, temperature=1.0, n=2)
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
    assert seen == lenient == [(" It is 6.\n#### 6", "6"), (" So the answer is 14.", "14")]


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

    monkeypatch.setattr("cs336_sft.evaluation.evaluate.os.replace", killed)
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
        ("", "line 2"),
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


def test_missing_or_undecodable_file(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
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
        return evaluate(
            sampler, problems, TEMPLATE, shortish, config, lenient_fn=lambda r, _: float(len(r) % 3 == 0)
        ).graded

    long = at(24)
    for limit in (1, 9, 24):
        rescored = rescore_at_limit(long, limit, tokenizer, shortish, lenient_fn=lambda r, _: float(len(r) % 3 == 0))
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
