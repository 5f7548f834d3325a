from __future__ import annotations

import copy
import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
import torch

from cs336_sft.data.batching import epoch_batches
from cs336_sft.errors import ConfigError, ContextLengthError, DataError, RunDirectoryError
from cs336_sft.prompts import get_template
from cs336_sft.records import Example, Problem
from cs336_sft.tokenization import make_examples
from cs336_sft.training import loop as training
from cs336_sft.training import session
from cs336_sft.training.checkpoints import fingerprint_weights, newest_checkpoint
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.distributed import SingleProcess
from cs336_sft.training.loop import train_sft
from cs336_sft.training.result import load_result, without_wall_clock
from cs336_sft.training.setup import fingerprint_problems
from cs336_sft.training.step import NonFiniteLossError, make_microbatches, make_optimizer, optimizer_step
from cs336_sft.utils.files import JsonLines, read_json

# For child processes: this package, wherever the tests are started.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(training.__file__).parents[2]), str(Path(__file__).parent)])
}
QUIET = SFTConfig(learning_rate=1e-3, max_steps=7, batch_size=4, checkpoint_every=3, eval_every=2, progress=False)


@pytest.fixture
def examples(problems, tokenizer):
    return make_examples(problems, get_template("question_only"), tokenizer)


@pytest.fixture
def make_model(random_model):
    """Fresh copies of one model, small enough for some dozens of steps a second."""
    return lambda: copy.deepcopy(random_model)


def checksum(model):
    """An evaluator that sees every weight."""
    return lambda step: {"checksum": sum(p.detach().double().sum().item() for p in model.parameters())}


def uneven_examples():
    rng = random.Random(0)
    ids = lambda n: tuple(rng.randrange(300) for _ in range(n))  # noqa: E731
    return [Example(ids(prompt), ids(response)) for prompt, response in [(3, 2), (9, 8), (1, 30), (20, 1), (0, 5)]]


# --- one step ---------------------------------------------------------------------------------------------------------


class Spy(torch.optim.SGD):
    """Keeps the gradients that a step was made with, and makes none."""

    def step(self):
        self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def gradients(model, examples, **settings):
    config = replace(QUIET, max_grad_norm=None, **settings)
    optimizer = Spy(model.parameters(), lr=0.0)
    order = SingleProcess().own_part(range(len(examples)), [len(example) for example in examples])
    microbatches = make_microbatches(examples, order, config.micro_batch_size, pad_id=0)
    record = optimizer_step(model.double(), optimizer, microbatches, config, 1, 0.0)
    return record, optimizer.gradients


def plain_gradients(model, examples, weigh):
    """The formula, example by example and without padding: sum over i of weight_i * NLL of response i."""
    model = model.double()
    for i, example in enumerate(examples):
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        log_probs = model(ids[:, :-1]).logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
        n = min(len(example.response_ids), log_probs.numel())
        (-log_probs[-n:].sum() * weigh(i)).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("cut", [{}, {"micro_batch_size": 1}, {"micro_batch_size": 2}, {"micro_batch_size": 3}])
def test_any_microbatches_give_the_gradient_of_the_plain_formula(make_model, cut):
    examples = uneven_examples()
    record, found = gradients(make_model(), examples, **cut)
    # The prompt of the last example is empty: nothing predicts its first token.
    assert record["target_tokens"] == 2 + 8 + 30 + 1 + 4
    expected = plain_gradients(make_model(), examples, weigh=lambda i: 1 / 45)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_the_handout_normalisation_is_the_handouts(make_model):
    """Sum over a response, mean over a microbatch, mean over microbatches; here of 2, 2 and 1, longest first."""
    examples = uneven_examples()
    record, found = gradients(
        make_model(),
        examples,
        normalization=json.loads('"handout"'),  # as from a configuration file
        normalize_constant=10.0,
        micro_batch_size=2,
    )
    of_microbatch = {2: 2, 3: 2, 1: 2, 0: 2, 4: 1}  # lengths 31, 21 | 17, 5 | 5
    expected = plain_gradients(make_model(), examples, weigh=lambda i: 1 / of_microbatch[i] / 3 / 10.0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    same, _ = gradients(make_model(), examples)
    assert record["loss"] == pytest.approx(same["loss"])  # reported per token, whatever was optimised


@pytest.mark.parametrize(("limit", "clipped"), [(1e-3, 1), (1e6, 0), (None, 0)])
def test_clipped_says_what_was_done_and_gradients_are_freed(make_model, limit, clipped):
    model, examples, config = make_model(), uneven_examples(), replace(QUIET, max_grad_norm=limit)
    microbatches = make_microbatches(examples, range(len(examples)), None, pad_id=0)
    record = optimizer_step(model, make_optimizer(model, config), microbatches, config, 1, 1e-4)
    assert record["clipped"] == clipped
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_process_without_a_sequence_has_no_microbatch():
    assert make_microbatches(uneven_examples(), [], None, pad_id=0) == []


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_everything_in_its_directory(make_model, tokenizer, examples, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = make_model()
    config = replace(QUIET, max_steps=None, epochs=6, learning_rate=3e-3, warmup=0.1, eval_every="log")
    result = train_sft(model, tokenizer, examples, config, tmp_path / "run", evaluator=checksum(model))
    metrics = pandas.DataFrame.from_records(result.metrics).set_index("step")
    assert metrics.loss.iloc[-3:].mean() < 0.6 * metrics.loss.iloc[:3].mean()
    assert (result.steps, result.interrupted, list(metrics.index)) == (18, False, list(range(1, 19)))
    assert [record["step"] for record in result.evaluations] == [0, 1, 2, 4, 8, 16, 18]
    assert metrics.lr.to_list()[:3] == pytest.approx([1.5e-3, 3e-3, 3e-3])
    assert (metrics.clipped == (metrics.grad_norm > 1.0)).all()
    assert metrics.clipped_share.iloc[-1] == pytest.approx(metrics.clipped.mean())
    # three steps are an epoch: every example once
    assert metrics.tokens.iloc[:3].sum() == sum(len(example) for example in examples)
    assert metrics.epoch.loc[[1, 3, 18]].to_list() == [1 / 3, 1.0, 6.0]
    with (tmp_path / "run/metrics.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == metrics.loss.to_list()
    session = read_json(tmp_path / "run/versions.json")["sessions"][0]
    assert torch.__version__.startswith(session["packages"]["torch"]) and session["device"] == "cpu"
    assert SFTConfig.from_dict({k: read_json(tmp_path / "run/config.json")[k] for k in config.to_dict()}) == config
    assert not model.training and (tmp_path / "run/generations").is_dir()
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run/final")
    assert fingerprint_weights(reloaded) == fingerprint_weights(model)
    assert AutoTokenizer.from_pretrained(tmp_path / "run/final").get_vocab() == tokenizer.get_vocab()
    assert load_result(tmp_path / "run") == result


def test_seconds_are_those_of_steps_and_evaluations(make_model, tokenizer, examples, tmp_path, monkeypatch, capsys):
    """By a clock that moves 2.5 seconds each time somebody looks at it."""
    ticks = itertools.count(0.25, 2.5)
    monkeypatch.setattr("cs336_sft.training.loop.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    model = make_model()
    result = train_sft(model, tokenizer, examples, QUIET, tmp_path, evaluator=checksum(model))
    assert {step["seconds"] for step in (*result.metrics, *result.evaluations)} == {2.5}
    assert all(step["tokens_per_second"] == step["tokens"] / 2.5 for step in result.metrics)
    assert "SFT" not in capsys.readouterr().err  # progress=False: no bar


def test_same_seed_same_run_and_evaluations_change_nothing(make_model, tokenizer, examples, tmp_path):
    def run(name, drop=0.0, **settings):
        model = make_model()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = drop
        evaluator = checksum(model)

        def noisy(step):
            torch.rand(17), random.random()
            return evaluator(step)

        torch.manual_seed(hash(name) % 1000)  # what happened before in the process does not matter
        result = train_sft(model, tokenizer, examples, replace(QUIET, **settings), tmp_path / name, evaluator=noisy)
        return without_wall_clock(result.metrics), fingerprint_weights(model)

    first = run("a", drop=0.2)
    assert run("b", drop=0.2) == first
    assert run("c", drop=0.2, eval_every=None, checkpoint_every="epoch") == first
    assert run("d", drop=0.2, seed=1)[0] != first[0]
    assert run("e", drop=0.0)[0] != first[0]


def test_the_callers_random_state_is_left_alone(make_model, tokenizer, examples, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_sft(make_model(), tokenizer, examples, replace(QUIET, max_steps=1), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_bf16_keeps_float32_weights_and_gives_the_model_back_clean(make_model, tokenizer, examples, tmp_path):
    model = make_model().bfloat16()
    before = model.forward
    config = replace(QUIET, mixed_precision="bf16", max_steps=2)
    mixed = train_sft(model, tokenizer, examples, config, tmp_path / "a")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert any((p.detach() != p.detach().bfloat16().float()).any() for p in model.parameters())
    assert model.forward == before and not hasattr(model, "_is_accelerate_prepared")
    full = make_model().bfloat16()  # another precision in the same process
    exact = train_sft(full, tokenizer, examples, replace(config, mixed_precision="no"), tmp_path / "b")
    assert mixed.metrics[0]["loss"] != exact.metrics[0]["loss"]
    assert mixed.metrics[0]["loss"] == pytest.approx(exact.metrics[0]["loss"], rel=2e-2)


def test_a_log_file_gets_no_progress_bar(make_model, tokenizer, examples, tmp_path, capfd):
    """stderr is no terminal here, as in CI or behind `2> log`; with one, or in a notebook, the bar is there."""
    train_sft(make_model(), tokenizer, examples, replace(QUIET, max_steps=2, progress=True), tmp_path)
    assert "step/s" not in capfd.readouterr().err


def test_gradient_checkpointing_changes_no_number(make_model, tokenizer, examples, tmp_path):
    runs = [
        train_sft(
            make_model(),
            tokenizer,
            examples,
            replace(QUIET, gradient_checkpointing=on, max_steps=3),
            tmp_path / str(on),
        )
        for on in (False, True)
    ]
    losses = [[record["loss"] for record in run.metrics] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# --- stopping and going on --------------------------------------------------------------------------------------------

# Forks children that train the same run; each kills itself with SIGKILL at another moment. Forking saves the seconds
# that importing torch takes. argv: folder with model and examples; prints one JSON object.
KILLER = """
    import json, os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from forked import exit_code_of
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from cs336_sft.training import checkpoints, loop as training, session
    from cs336_sft.utils import files as run_files
    from cs336_sft.records import Example
    from cs336_sft.training.config import SFTConfig

    folder = Path(sys.argv[1])
    examples = [Example(*map(tuple, pair)) for pair in json.loads((folder / "examples.json").read_text())]
    config = SFTConfig.from_dict(json.loads((folder / "config.json").read_text()))

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def train(run_dir, sabotage=None):
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")

        def evaluator(step):
            if sabotage == ("evaluation", step):
                die()
            return {"checksum": sum(p.detach().double().sum().item() for p in model.parameters())}

        if sabotage and sabotage[0] == "log line":
            append = run_files.JsonLines.append

            def half_a_line(self, record):
                if record["step"] == sabotage[1]:
                    with self.path.open("a") as file:
                        file.write(json.dumps(record)[:20])
                    die()
                append(self, record)

            run_files.JsonLines.append = half_a_line
        if sabotage and sabotage[0] == "checkpoint":
            save = checkpoints.save_file

            def half_a_file(tensors, path):
                save(tensors, path)
                if f"step-{sabotage[1]:08d}" in str(path):
                    path.write_bytes(path.read_bytes()[:1000])
                    die()

            checkpoints.save_file = half_a_file
        if sabotage and sabotage[0] == "final":
            assert callable(session.save_model)  # a name that is no longer there would kill nothing
            session.save_model = lambda *arguments: die()
        training.train_sft(model, tokenizer, examples, config, run_dir, evaluator=evaluator)

    moments = [("log line", 2), ("evaluation", 4), ("checkpoint", 6), ("log line", 5), ("final", 7)]
    codes = {"undisturbed": exit_code_of(train, folder / "undisturbed")}
    for moment in moments:
        codes[str(moment)] = exit_code_of(train, folder / "killed", moment)
    codes["last"] = exit_code_of(train, folder / "killed")
    print(json.dumps(codes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_five_moments_a_run_ends_with_the_same_bits(make_model, tokenizer, examples, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "examples.json").write_text(json.dumps([[e.prompt_ids, e.response_ids] for e in examples]))
    (tmp_path / "config.json").write_text(json.dumps(QUIET.to_dict()))
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert process.returncode == 0, process.stderr
    killed = -signal.SIGKILL
    assert list(json.loads(process.stdout).values()) == [0, killed, killed, killed, killed, killed, 0], process.stderr

    a, b = load_result(tmp_path / "undisturbed"), load_result(tmp_path / "killed")
    assert [record["step"] for record in b.metrics] == [1, 2, 3, 4, 5, 6, 7]
    assert [record["step"] for record in b.evaluations] == [0, 2, 4, 6, 7]
    assert without_wall_clock(a.metrics) == without_wall_clock(b.metrics)
    assert without_wall_clock(a.evaluations) == without_wall_clock(b.evaluations)
    for name in ("final", "checkpoints/step-00000007"):
        assert (a.run_dir / name / "model.safetensors").read_bytes() == (
            b.run_dir / name / "model.safetensors"
        ).read_bytes()
    sessions = read_json(b.run_dir / "versions.json")["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 0, 3, 3, 3, 7]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["step", "evaluation"])
def test_ctrl_c_keeps_a_checkpoint_and_the_same_call_goes_on(
    make_model, tokenizer, examples, tmp_path, monkeypatch, capfd, number, moment
):
    """With the very model in memory that was being trained, as when a cell of a notebook is run again."""
    model = make_model()
    undisturbed = train_sft(model, tokenizer, examples, QUIET, tmp_path / "a", evaluator=checksum(model))
    model, handlers = make_model(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    append, evaluator, finished = JsonLines.append, checksum(model), []

    def interrupting_append(self, record):
        append(self, record)
        if moment == "step" and record["step"] == 4 and "loss" in record:
            os.kill(os.getpid(), number)

    def interrupting_evaluator(step):
        if moment == "evaluation" and step == 4:
            os.kill(os.getpid(), number)
            finished.append(step)
        return evaluator(step)

    monkeypatch.setattr(JsonLines, "append", interrupting_append)
    stopped = train_sft(model, tokenizer, examples, QUIET, tmp_path / "b", evaluator=interrupting_evaluator)
    monkeypatch.undo()
    assert stopped.interrupted and stopped.steps == 4 and not finished
    assert [record["step"] for record in stopped.evaluations] == [0, 2]
    assert newest_checkpoint(tmp_path / "b/checkpoints").step == 4
    assert str(tmp_path / "b") in capfd.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert load_result(tmp_path / "b").interrupted and not (tmp_path / "b/final").exists()

    resumed = train_sft(model, tokenizer, examples, QUIET, tmp_path / "b", evaluator=evaluator)
    assert not resumed.interrupted
    assert without_wall_clock(resumed.metrics) == without_wall_clock(undisturbed.metrics)
    assert without_wall_clock(resumed.evaluations) == without_wall_clock(undisturbed.evaluations)


def test_a_failing_evaluator_costs_no_training(make_model, tokenizer, examples, tmp_path):
    def fail(step):
        if step == 4:
            raise RuntimeError("out of memory")
        return {}

    model = make_model()
    with pytest.raises(RuntimeError, match="out of memory"):
        train_sft(model, tokenizer, examples, QUIET, tmp_path, evaluator=fail)
    result = train_sft(model, tokenizer, examples, QUIET, tmp_path, evaluator=lambda step: {"x": float("nan")})
    assert [record["step"] for record in result.evaluations] == [0, 2, 4, 6, 7]
    assert result.evaluations[2]["x"] is None
    assert read_json(tmp_path / "versions.json")["sessions"][1]["from_step"] == 4


@pytest.mark.parametrize(("seconds", "saved"), [(60, [6]), (-1, [3, 6])])
def test_short_epochs_get_no_checkpoint_and_the_last_no_optimizer(
    make_model, tokenizer, examples, tmp_path, monkeypatch, seconds, saved
):
    monkeypatch.setattr(session, "WORTH_SAVING", seconds)
    config = SFTConfig(learning_rate=1e-3, batch_size=4, epochs=2, eval_every=None, progress=False)
    model, again = make_model(), make_model()
    train_sft(model, tokenizer, examples[:12], config, tmp_path)
    folders = sorted((tmp_path / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == [f"step-{step:08d}" for step in saved]
    with_optimizer = [folder for folder in folders if (folder / "optimizer.safetensors").exists()]
    assert with_optimizer == folders[:-1]
    (tmp_path / "result.json").unlink()  # as if it had been killed just before its end
    train_sft(again, tokenizer, examples[:12], config, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_finished_run_is_returned_without_training(make_model, tokenizer, examples, tmp_path, monkeypatch):
    model = make_model()
    first = train_sft(model, tokenizer, examples, QUIET, tmp_path)
    monkeypatch.setattr(training, "optimizer_step", None)
    for again in (model, make_model()):  # the trained model in memory, and the starting weights loaded anew
        assert train_sft(again, tokenizer, examples, QUIET, tmp_path) == first
        assert fingerprint_weights(again) == fingerprint_weights(model)


def test_another_run_in_the_directory_is_refused_with_the_fields_that_differ(make_model, tokenizer, examples, tmp_path):
    train_sft(make_model(), tokenizer, examples, replace(QUIET, max_steps=1), tmp_path)
    for refused, names in [
        ((make_model(), tokenizer, examples, replace(QUIET, max_steps=2, seed=1)), ["max_steps was 1, now 2", "seed"]),
        ((make_model(), tokenizer, examples[:-1], replace(QUIET, max_steps=1)), ["n_training_examples", "training_ex"]),
        ((make_model().bfloat16(), tokenizer, examples, replace(QUIET, max_steps=1)), ["starting_weights"]),
    ]:
        with pytest.raises(RunDirectoryError, match="another configuration") as error:
            train_sft(*refused, tmp_path)
        assert all(name in str(error.value) for name in names)
    train_sft(make_model(), tokenizer, examples, replace(QUIET, max_steps=1, keep_checkpoints=5), tmp_path)


def test_a_run_that_ran_out_of_memory_goes_on_with_smaller_microbatches(make_model, tokenizer, examples, tmp_path):
    """The memory settings and the cadence of evaluations may change; the session notes what did."""
    train_sft(make_model(), tokenizer, examples, QUIET, tmp_path / "whole")

    def fail(step):
        if step == 4:
            raise torch.OutOfMemoryError("out of memory")
        return {}

    with pytest.raises(torch.OutOfMemoryError):
        train_sft(make_model(), tokenizer, examples, QUIET, tmp_path / "run", evaluator=fail)
    smaller = replace(QUIET, micro_batch_size=1, gradient_checkpointing=True, eval_every=3)
    result = train_sft(make_model(), tokenizer, examples, smaller, tmp_path / "run", evaluator=lambda step: {})
    assert [record["step"] for record in result.evaluations] == [0, 2, 6, 7]
    sessions = read_json(tmp_path / "run/versions.json")["sessions"]
    assert "changed" not in sessions[0] and sessions[1]["from_step"] == 4
    assert sessions[1]["changed"] == {
        "eval_every": [2, 3],
        "gradient_checkpointing": [False, True],
        "micro_batch_size": [None, 1],
    }
    whole = load_result(tmp_path / "whole")
    assert [r["loss"] for r in result.metrics] == pytest.approx([r["loss"] for r in whole.metrics], rel=1e-4)


def test_the_handouts_microbatches_may_not_change(make_model, tokenizer, examples, tmp_path):
    config = replace(QUIET, normalization="handout", normalize_constant=20.0, max_steps=1)
    train_sft(make_model(), tokenizer, examples, config, tmp_path)
    with pytest.raises(RunDirectoryError, match="micro_batch_size was null, now 2"):
        train_sft(make_model(), tokenizer, examples, replace(config, micro_batch_size=2), tmp_path)


def test_a_model_that_cannot_be_saved_is_refused_before_the_first_step(make_model, tokenizer, examples, tmp_path):
    model = make_model()
    model.generation_config.temperature = 0.5  # without do_sample, which transformers refuses to save
    with pytest.raises(ConfigError, match="generation configuration can't be saved.*Remedy"):
        train_sft(model, tokenizer, examples, QUIET, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_identity_of_problems_includes_their_answers():
    problem = Problem("2 + 3?", "#### 5", "5")
    same, other = replace(problem), replace(problem, answer="2 + 3 = 5\n#### 5")
    assert fingerprint_problems([problem]) == fingerprint_problems([same]) != fingerprint_problems([other])


def test_nan_stops_the_run_and_names_the_examples(make_model, tokenizer, examples, tmp_path):
    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"step 2: loss nan.*those of step 1. Remedy: lower learning_rate"):
        train_sft(model, tokenizer, examples, replace(QUIET, learning_rate=1e36), tmp_path)
    assert all(parameter.grad is None for parameter in model.parameters())
    batch = epoch_batches([len(e) for e in examples], QUIET.batch_size, seed=QUIET.seed, epoch=0)[1]
    facts = read_json(tmp_path / "nonfinite.json")
    assert (facts["step"], tuple(facts["example_indices"])) == (2, batch)
    assert [record["step"] for record in load_result(tmp_path).metrics] == [1]


def test_the_error_names_the_step_whose_weights_are_left():
    assert "step 8: loss nan; the weights are those of step 7." in str(NonFiniteLossError(8, "loss nan"))


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "error", "text"),
    [
        (Example((1, 2), ()), DataError, "example 1 has no target token"),
        (Example((), (5,)), DataError, "example 1 has no target token"),
        (Example((1,), (2,) * 600), ContextLengthError, "example 1 has 601 tokens, the model's context is 512"),
        (Example((1,), (99999,)), DataError, "example 1 has the id 99999"),
        (Example((-100,), (1,)), DataError, "example 1 has the id -100"),
    ],
)
def test_examples_that_cannot_be_trained_on(random_model, tokenizer, tmp_path, example, error, text):
    with pytest.raises(error, match=text):
        train_sft(random_model, tokenizer, [Example((1,), (2,)), example], QUIET, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_examples(random_model, tokenizer, tmp_path):
    with pytest.raises(DataError, match="no training examples"):
        train_sft(random_model, tokenizer, [], QUIET, tmp_path)


def test_a_pad_token_that_the_model_lacks_is_refused_before_the_first_step(random_model, tokenizer, examples, tmp_path):
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"pad_token": "<pad>"})
    size = random_model.get_input_embeddings().num_embeddings
    with pytest.raises(ConfigError, match=f"pad id {other.pad_token_id} is beyond the model's {size} embeddings"):
        train_sft(random_model, other, examples, QUIET, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluator_may_not_overwrite_the_loops_fields(random_model, tokenizer, examples, tmp_path):
    with pytest.raises(ConfigError, match="'step'"):
        train_sft(random_model, tokenizer, examples, QUIET, tmp_path, evaluator=lambda step: {"step": 1.0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "3e-4"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("max_steps", 0),
        ("batch_size", True),
        ("micro_batch_size", -1),
        ("warmup", 1.0),
        ("warmup", -1),
        ("warmup", True),
        ("schedule", "cosin"),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", [0.9, 0.95]),
        ("max_grad_norm", 0.0),
        ("seed", -1),
        ("mixed_precision", "fp16"),
        ("normalization", "mean"),
        ("normalize_constant", 0),
        ("eval_every", 0),
        ("eval_every", "epoch"),
        ("eval_every", ()),
        ("eval_every", (4, 0)),
        ("checkpoint_every", None),
        ("keep_checkpoints", 0),
        ("gradient_checkpointing", 1),
        ("progress", None),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_a_remedy(field, value):
    with pytest.raises(ConfigError) as error:
        SFTConfig(**{field: value})
    assert f"SFTConfig.{field} is {value!r}. Remedy: " in str(error.value)


def test_dicts_round_trip_and_a_misspelt_field_names_the_nearest():
    config = SFTConfig(betas=(0.8, 0.9), warmup=0.1, eval_every=(1, 8))
    assert SFTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="no field 'micro_batchsize'. Remedy: write 'micro_batch_size'"):
        SFTConfig.from_dict({"micro_batchsize": 1})
    with pytest.raises(ConfigError, match="no field 'x'. Remedy: choose from learning_rate, epochs"):
        SFTConfig.from_dict({"x": 1})


def test_subclasses_of_the_configuration_name_themselves():
    @dataclass(frozen=True)
    class Wider(SFTConfig):
        template: str = "gsm8k"

    assert Wider.from_dict({"template": "r1_zero", "betas": [0.8, 0.9]}) == Wider(template="r1_zero", betas=(0.8, 0.9))
    with pytest.raises(ConfigError, match="Wider.epochs is 0"):
        Wider(epochs=0)
    with pytest.raises(ConfigError, match="Wider has no field 'templat'. Remedy: write 'template'"):
        Wider.from_dict({"templat": "r1_zero"})
