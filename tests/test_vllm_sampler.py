"""The vLLM sampler around an engine of ours: order, errors, staleness, what is kept when the engine dies.

The engine here computes nothing; what real vLLM computes is tested by `make test-vllm`.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from cs336_sft.errors import (
    ConfigError,
    ContextLengthError,
    CourseError,
    DataError,
    EngineDiedError,
    EngineMismatchError,
    StaleEngineError,
)
from cs336_sft.evaluation.evaluate import evaluate, read_generations
from cs336_sft.generation import make_sampler as samplers
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.generation.seeded_noise import row_key
from cs336_sft.generation.vllm_backend import runtime as vllm_runtime
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import engine_settings, run_all, start_engine
from cs336_sft.generation.vllm_backend.parity import Parity, check, compare
from cs336_sft.generation.vllm_backend.runtime import environment, placement
from cs336_sft.generation.vllm_backend.sampler import VLLMSampler, check_engine_context
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.prompts import get_template
from cs336_sft.utils import distributed as processes


class FakeEngine:
    """Answers each request with ``answer``, last request first; dies after ``life`` of them."""

    def __init__(self, answer=(5, 6, 0), reason="stop", stop_reason=None, life=10**9, eos=0) -> None:
        self.answer, self.reason, self.stop_reason, self.life = answer, reason, stop_reason, life
        self.llm = SimpleNamespace(model_config=SimpleNamespace(hf_config=SimpleNamespace(eos_token_id=eos)))
        self.max_model_len, self.dtype = 512, torch.float32
        self.waiting: list = []
        self.calls: list = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def submit(self, requests, sampling, eos_id) -> None:
        self.calls.append(("submit", len(requests), eos_id))
        self.waiting += requests

    def step(self) -> list:
        if self.life == 0:
            raise RuntimeError("no more")
        self.life -= 1
        request = self.waiting.pop()
        sample = SimpleNamespace(
            token_ids=list(self.answer),
            finish_reason=self.reason,
            stop_reason=self.stop_reason,
            text="vLLM's own text",
            logprobs=None,
            index=0,
        )
        self.keys = [*getattr(self, "keys", []), request.key]
        return [SimpleNamespace(request_id=str(request.number), finished=True, outputs=[sample])]

    def take_records(self) -> dict:
        return {(number, position): (-float(number), position + 0.5) for number in range(99) for position in range(9)}

    def load_policy(self, tensors) -> None:
        self.calls.append(("load", len(tensors)))

    def greedy(self, prompts, max_new_tokens) -> list:
        return [((1,) * max_new_tokens, (-1.0,) * max_new_tokens) for _ in prompts]

    def sleep(self, level) -> None:
        self.calls.append(("sleep", level))

    def wake(self, tags=None) -> None:
        self.calls.append(("wake", tags))

    def abort_all(self) -> None:
        self.waiting.clear()

    def close(self) -> None:
        self.calls.append(("close",))


@pytest.fixture
def make(tokenizer):
    def make(*engines: FakeEngine, **config) -> VLLMSampler:
        return VLLMSampler("nowhere", tokenizer, VLLMConfig(**config), engines=engines or [FakeEngine()])

    return make


SAMPLED = SamplingConfig(max_new_tokens=8, temperature=1.0, n=2, seed=3)


def test_results_come_in_the_order_of_prompts_and_samples(make, tokenizer) -> None:
    engines = FakeEngine(), FakeEngine()
    results = make(*engines).generate(["Tom has", "a", "12"], SAMPLED)
    assert [[(g.prompt, g.sample) for g in samples] for samples in results] == [
        [(prompt, 0), (prompt, 1)] for prompt in ("Tom has", "a", "12")
    ]
    assert results[0][0].text == tokenizer.decode([5, 6]) and results[0][0].finish_reason == "stop"
    assert [engine.calls for engine in engines] == [[("submit", 3, 0)]] * 2, "dealt among the copies"
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    keys = {key for engine in engines for key in engine.keys}
    assert {row_key(3, ids, 0), row_key(3, ids, 1)} < keys and len(keys) == 6


@pytest.mark.parametrize("include", [True, False])
def test_stop_string_is_cut_by_the_rule_of_the_hugging_face_sampler(make, tokenizer, include) -> None:
    ids = tuple(tokenizer("Tom has", add_special_tokens=False)["input_ids"])
    assert tokenizer.decode(ids[-1:]) == " has", "the stop string is to lie within the last token"
    engine = FakeEngine(ids, "stop", "h")
    sampling = SamplingConfig(max_new_tokens=8, stop=("h",), include_stop_str_in_output=include)
    ((g,),) = make(engine).generate(["a"], sampling)
    assert (g.token_ids, g.stop_reason, g.finish_reason) == (ids, "h", "stop")
    assert g.text == ("Tom h" if include else "Tom ")


def test_the_limit_has_no_stop_reason(make) -> None:
    ((g,),) = make(FakeEngine((5,) * 8, "length")).generate(["a"], SamplingConfig(max_new_tokens=8))
    assert (g.finish_reason, g.stop_reason, len(g.token_ids)) == ("length", None, 8)


def test_records_go_to_their_samples(make) -> None:
    sampling = SamplingConfig(max_new_tokens=8, temperature=1.0, n=2, record_entropy=True)
    results = make().generate(["a", "b"], sampling)
    assert results[1][0].logprobs == (-2.0,) * 3 and results[1][0].entropies == (0.5, 1.5, 2.5)


# What can't be served is refused before anything runs


def test_every_prompt_must_fit_the_engine_with_the_whole_limit(make) -> None:
    engine = FakeEngine()
    engine.max_model_len = 64
    with pytest.raises(ContextLengthError, match="1 of 2 prompts .*prompt 1.*raise max_model_len to at least"):
        make(engine).generate(["a", "a b c d e f g h i j k l m n o p"], SamplingConfig(max_new_tokens=40))
    assert engine.calls == []
    with pytest.raises(ContextLengthError, match="2 of 2.*shorten the prompts"):
        check_engine_context([(1,) * 70, (1,) * 80], 1, 64)
    check_engine_context([(1,) * 60], 4, 64)


def test_other_input(make, tokenizer) -> None:
    sampler = make()
    assert isinstance(sampler, Sampler) and sampler.generate([], SAMPLED) == []
    with pytest.raises(DataError, match="prompt 0 is empty"):
        sampler.generate([""], SAMPLED)
    with pytest.raises(ConfigError, match="list of strings"):
        sampler.generate("abc", SAMPLED)
    with pytest.raises(ConfigError, match="leave out one"):
        sampler.generate(["a"], SamplingConfig(min_new_tokens=1, stop=("x",), record_entropy=True))
    with pytest.raises(ConfigError, match="id 0.*is 7"):
        make(FakeEngine(eos=7))
    make(FakeEngine(eos=[7, 0]))


# Versions of the policy


def test_training_after_a_sync_makes_the_engine_stale(make, random_model) -> None:
    sampler = make()
    assert sampler.policy_version == 0
    sampler.generate(["a"], SAMPLED)  # the weights it was started with
    sampler.update_weights(random_model)
    sampler.generate(["a"], SAMPLED)
    optimizer = torch.optim.AdamW(random_model.parameters(), fused=True)
    random_model(torch.tensor([[1, 2]])).logits.square().mean().backward()
    sampler.generate(["a"], SAMPLED)
    optimizer.step()
    with pytest.raises(StaleEngineError, match=r"policy version 1.*was changed since.*update_weights"):
        sampler.generate(["a"], SAMPLED)
    with pytest.raises(StaleEngineError):
        sampler.generate([], SAMPLED)
    sampler.update_weights(random_model)
    assert sampler.policy_version == 2
    sampler.generate(["a"], SAMPLED)
    sampler.mark_stale()
    with pytest.raises(StaleEngineError, match="said to have changed"):
        sampler.generate(["a"], SAMPLED)


def test_a_sync_that_fails_leaves_the_engine_unusable_until_one_succeeds(make, random_model, monkeypatch) -> None:
    engine = FakeEngine()
    sampler = make(engine)
    monkeypatch.setattr(engine, "load_policy", lambda tensors: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.update_weights(random_model)
    assert sampler.policy_version == 0
    with pytest.raises(StaleEngineError, match="cut short"):
        sampler.generate(["a"], SAMPLED)
    monkeypatch.undo()
    sampler.update_weights(random_model)
    sampler.generate(["a"], SAMPLED)


def test_the_end_of_text_of_a_new_policy_is_checked_too(make, random_model) -> None:
    random_model.config.eos_token_id = 7
    with pytest.raises(ConfigError, match="id 0.*is 7"):
        make().update_weights(random_model)


def test_parity_check_after_each_sync(make, random_model) -> None:
    with pytest.raises(EngineMismatchError, match="not the model's"):
        make(check_parity=True).update_weights(random_model)


# Sleep, end, death


def test_sleep_and_wake(make, random_model) -> None:
    engine = FakeEngine()
    sampler = make(engine, sleep=True)
    sampler.sleep()
    sampler.sleep()
    sampler.generate(["a"], SAMPLED)
    assert engine.calls == [("sleep", 1), ("wake", None), ("submit", 2, 0)]
    engine.calls.clear()
    sampler.sleep(level=2)
    with pytest.raises(StaleEngineError, match="dropped by sleep"):
        sampler.generate(["a"], SAMPLED)
    sampler.update_weights(random_model)
    sampler.generate(["a"], SAMPLED)
    names = [call[:2] if call[0] != "load" else "load" for call in engine.calls]
    assert names == [("sleep", 2), ("wake", ["weights"]), "load", ("wake", ["kv_cache"]), ("submit", 2)]
    with pytest.raises(ConfigError, match="level 3"):
        sampler.sleep(level=3)
    with pytest.raises(ConfigError, match="sleep=True"):
        make().sleep()


def test_auto_sleep(make) -> None:
    engine = FakeEngine()
    sampler = make(engine, auto_sleep=True)
    for _ in range(2):
        sampler.generate(["a"], SAMPLED)
    assert [call[0] for call in engine.calls] == ["submit", "sleep", "wake", "submit", "sleep"]


def test_closed(make) -> None:
    engine = FakeEngine()
    with make(engine) as sampler:
        pass
    sampler.close()
    assert engine.calls == [("close",)]
    with pytest.raises(CourseError, match="closed"):
        sampler.generate(["a"], SAMPLED)


def test_death_keeps_what_was_finished(make, problems, tmp_path) -> None:
    sampler = make(FakeEngine(life=3))
    with pytest.raises(EngineDiedError, match=r"after 3 of 6 samples \(RuntimeError: no more\)") as caught:
        sampler.generate(["a", "b", "c"], SAMPLED)
    assert caught.value.finished == 3
    kept = [[g is not None for g in samples] for samples in caught.value.generations]
    assert kept == [[False, False], [False, True], [True, True]]
    with pytest.raises(StaleEngineError, match="failed: RuntimeError"):
        sampler.generate(["a"], SAMPLED)

    engine = FakeEngine(life=5)
    path = tmp_path / "runs" / "generations.jsonl"
    with pytest.raises(EngineDiedError, match="kept in .*generations.partial.jsonl"):
        evaluate(make(engine), problems, get_template("gsm8k"), gsm8k_reward_fn, SamplingConfig(), path=path)
    assert not path.exists()
    graded = read_generations(path.with_suffix(".partial.jsonl"))
    assert [item.problem.id for item in graded] == [problem.id for problem in problems[-5:]]


def test_a_request_that_the_engine_gave_up_is_no_result(make) -> None:
    with pytest.raises(EngineDiedError, match="'abort'"):
        make(FakeEngine(reason="abort")).generate(["a"], SamplingConfig())


def test_ctrl_c_leaves_the_engine_ready(make, monkeypatch) -> None:
    engine = FakeEngine()
    sampler = make(engine)

    def interrupt() -> list:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sampler.generate(["a"], SAMPLED)
    assert not engine.busy
    sampler.generate(["a"], SAMPLED)


def test_run_all_steps_only_engines_with_work() -> None:
    idle, busy = FakeEngine(life=0), FakeEngine()
    busy.waiting = [SimpleNamespace(number=0, key=0)]
    assert len(list(run_all([idle, busy]))) == 1


# Parity


def greedy_by(model, tokenizer):
    def greedy(prompts, max_new_tokens):
        results = []
        for ids in prompts:
            new, logprobs = [], []
            for _ in range(max_new_tokens):
                with torch.no_grad():
                    row = model(torch.tensor([[*ids, *new]])).logits[0, -1].log_softmax(-1)
                new.append(int(row.argmax()))
                logprobs.append(float(row.max()))
            results.append((new, logprobs))
        return results

    return greedy


def test_parity_of_the_model_with_itself_and_with_another(random_model, tokenizer) -> None:
    prompts = [(5, 6, 7), (8, 9)]
    greedy = greedy_by(random_model, tokenizer)
    random_model.train()
    parity = compare(greedy, random_model, prompts, 6)
    assert random_model.training
    assert (parity.prompts, parity.identical_prompts, parity.tokens, parity.identical_tokens) == (2, 2, 12, 12)
    assert parity.largest_gap == 0 and parity.largest_error < 1e-5
    check(parity, torch.float32)
    with torch.no_grad():
        random_model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    other = compare(lambda *_: [((3,) * 6, (-2.0,) * 6)] * 2, random_model, prompts, 6)
    assert other.identical_tokens < 12 and other.largest_gap > 0
    with pytest.raises(EngineMismatchError, match=r"of 12 greedy tokens agree"):
        check(other, torch.float32)


def test_rounding_of_half_precision_is_let_through() -> None:
    parity = Parity(4, 3, 64, 63, largest_gap=0.05, largest_error=0.2, mean_error=0.02)
    check(parity, torch.bfloat16)
    with pytest.raises(EngineMismatchError):
        check(parity, torch.float32)


# Settings, and a machine without vLLM


def test_settings() -> None:
    gpu = engine_settings("folder", VLLMConfig(max_model_len=9000, auto_sleep=True), cpu=False)
    assert gpu["dtype"] == "bfloat16" and gpu["enable_sleep_mode"] and not gpu["enforce_eager"]
    assert "kv_cache_memory_bytes" not in gpu and "enable_chunked_prefill" not in gpu
    cpu = engine_settings("folder", VLLMConfig(max_model_len=9000, sleep=True), cpu=True)
    assert cpu["max_num_batched_tokens"] == 9000 and cpu["kv_cache_memory_bytes"] == 2**30
    assert "enable_sleep_mode" not in cpu


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_model_len", 0),
        ("gpu_memory_utilization", 1.5),
        ("tensor_parallel_size", 0),
        ("dtype", "int8"),
        ("devices", (0, 0)),
    ],
)
def test_settings_out_of_range(field, value) -> None:
    with pytest.raises(ConfigError, match=f"VLLMConfig.{field}"):
        VLLMConfig(**{field: value})


def test_where_engines_go() -> None:
    assert not VLLMConfig().separate and VLLMConfig().device_groups() == [None]
    assert not VLLMConfig(devices=(0,)).separate and VLLMConfig(devices=(1,)).separate
    assert VLLMConfig(data_parallel_size=3).device_groups() == [(0,), (1,), (2,)]
    assert VLLMConfig(tensor_parallel_size=2, devices=(2, 3)).device_groups() == [(2, 3)]
    with environment({"CUDA_VISIBLE_DEVICES": "5"}), pytest.raises(ConfigError, match="GPU 1 was asked for"):
        placement(True, (1,))
    with environment({"CUDA_VISIBLE_DEVICES": ""}):
        assert "CUDA_VISIBLE_DEVICES" not in placement(True, (1,))


@pytest.fixture
def started(monkeypatch) -> list[dict]:
    """A vLLM that notes what each engine is started with: its arguments, and the environment at that moment."""
    engines: list[dict] = []

    class LLM:
        def __init__(self, **settings) -> None:
            engines.append({"settings": settings, "environment": dict(os.environ)})
            parallel = SimpleNamespace(worker_extension_cls=settings["worker_extension_cls"], world_size=1)
            core = SimpleNamespace(shutdown=lambda: None)
            self.llm_engine = SimpleNamespace(
                vllm_config=SimpleNamespace(parallel_config=parallel), engine_core=core, has_unfinished_requests=bool
            )
            hf_config = SimpleNamespace(eos_token_id=0)
            self.model_config = SimpleNamespace(max_model_len=512, dtype=torch.float32, hf_config=hf_config)

    monkeypatch.setattr(vllm_runtime, "import_vllm", lambda: SimpleNamespace(LLM=LLM))
    monkeypatch.setattr(vllm_runtime, "on_cpu", lambda: False)
    monkeypatch.setattr(vllm_runtime, "check_no_engine_here", lambda: None)
    monkeypatch.setattr(vllm_runtime, "read_environment_again", lambda: None)
    return engines


# What torchrun gives to the first of two trainers.
LAUNCHED = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "ROLE_NAME": "default",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RUN_ID": "none",
}


def test_copies_of_an_engine_see_their_own_gpus_and_nothing_of_the_launcher(started, tokenizer, random_model, tmp_path):
    """Two copies on two GPUs each, of the four that this process sees: numbers count those."""
    random_model.save_pretrained(tmp_path)
    config = VLLMConfig(tensor_parallel_size=2, data_parallel_size=2, devices=(3, 1, 0, 2))
    with environment(LAUNCHED | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}):
        with VLLMSampler(tmp_path, tokenizer, config) as sampler:
            assert len(sampler.engines) == 2
        assert {name: os.environ[name] for name in LAUNCHED} == LAUNCHED, "the trainer's own are back"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    assert [engine["environment"]["CUDA_VISIBLE_DEVICES"] for engine in started] == ["7,5", "4,6"]
    for engine in started:
        assert engine["settings"]["tensor_parallel_size"] == 2
        assert "data_parallel_size" not in engine["settings"], "each is an engine of its own, not a rank of vLLM's"
        assert engine["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
        assert not LAUNCHED.keys() & engine["environment"].keys()


def test_beside_one_trainer_the_engine_is_in_its_process_beside_several_in_its_own(started, monkeypatch) -> None:
    start_engine("folder", VLLMConfig(max_model_len=512))
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with environment(LAUNCHED):
        start_engine("folder", VLLMConfig(max_model_len=512))
    assert [e["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"] for e in started] == ["0", "1"]
    assert [e["environment"].get("CUDA_VISIBLE_DEVICES") for e in started] == [
        os.environ.get("CUDA_VISIBLE_DEVICES")
    ] * 2


def test_without_vllm_the_error_names_the_remedies(random_model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(vllm_runtime, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed.*cs336-sft\[vllm\].*make test-vllm.*--sampler hf"):
        samplers.make_sampler("vllm", random_model, tokenizer)


def test_an_old_vllm_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(vllm_runtime, "find_spec", lambda name: SimpleNamespace(origin="vllm/__init__.py"))
    monkeypatch.setattr(vllm_runtime.metadata, "version", lambda name: "0.7.2")
    with pytest.raises(ConfigError, match=r"0\.7\.2 is too old.*0\.25"):
        vllm_runtime.import_vllm()


def test_make_sampler(random_model, tokenizer, tmp_path) -> None:
    with samplers.make_sampler("hf", random_model, tokenizer, batch_size=3) as sampler:
        assert sampler.batch_size == 3
    with pytest.raises(ConfigError, match="no model"):
        samplers.make_sampler("hf", None, tokenizer)
    with pytest.raises(ConfigError, match="choose one of hf, vllm"):
        samplers.make_sampler("tgi", random_model, tokenizer)
    samplers.save_for_engine(torch.compile(random_model), tmp_path)
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, random_model.model.embed_tokens.weight)


def test_random_states_and_threads_come_back() -> None:
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.set_num_threads
    with pytest.raises(ZeroDivisionError), vllm_runtime.process_kept():
        torch.manual_seed(7)
        torch.set_num_threads = print
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), state) and torch.set_num_threads is threads
