"""The vLLM sampler and its engine around a vLLM of ours: order, seeds, errors, staleness, what a failure keeps.

The vLLM here computes nothing; what real vLLM computes is tested by `make test-vllm`.
"""

from __future__ import annotations

import copy
import os
import sys
from contextlib import closing
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from cs336_sft.errors import (
    ConfigError,
    ContextLengthError,
    CourseError,
    DataError,
    EngineDiedError,
    StaleEngineError,
)
from cs336_sft.evaluation import handout
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.generation import make_sampler as samplers
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.generation.vllm_backend import engine as vllm_engine
from cs336_sft.generation.vllm_backend import runtime as vllm_runtime
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import VLLMEngine, engine_settings, sampling_params, start_engine
from cs336_sft.generation.vllm_backend.runtime import environment, placement
from cs336_sft.generation.vllm_backend.sampler import VLLMSampler
from cs336_sft.generation.vllm_backend.weights import EXTENSION
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.model.loading import embedded_model_path
from cs336_sft.prompts import get_template
from cs336_sft.utils import distributed as processes


class FakeParams(SimpleNamespace):
    """vLLM's SamplingParams."""

    def clone(self) -> FakeParams:
        return copy.copy(self)


@pytest.fixture(autouse=True)
def fake_vllm(monkeypatch) -> None:
    """The names that the engine imports from vLLM."""
    module, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    module.SamplingParams = FakeParams
    params.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final only")
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)


class FakeLLM:
    """Answers each request with ``answer``, last request first; dies after ``life`` of them. It is its own engine."""

    def __init__(self, answer=(5, 6, 0), reason="stop", stop_reason=None, life=10**9, eos=0, length=512) -> None:
        self.answer, self.reason, self.stop_reason, self.life = answer, reason, stop_reason, life
        self.calls: list = []
        self.params: list[FakeParams] = []
        self.pending: dict[str, FakeParams] = {}
        self.loaded: list[str] = []
        self.model_config = SimpleNamespace(hf_config=random_config(eos), max_model_len=length, dtype=torch.float32)
        self.llm_engine = self.model_executor = self
        self.engine_core = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.output_processor = SimpleNamespace(request_states=self.pending)
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(worker_extension_cls=EXTENSION, world_size=1)
        )

    def add_request(self, request_id, prompt, params) -> None:
        assert request_id not in self.pending, "vLLM refuses a second request of that name"
        self.pending[request_id] = params
        self.params.append(params)

    def has_unfinished_requests(self) -> bool:
        return bool(self.pending)

    def step(self) -> list:
        if self.life == 0:
            raise RuntimeError("no more")
        self.life -= 1
        request_id, params = self.pending.popitem()
        completions = [
            SimpleNamespace(
                token_ids=list(self.answer),
                finish_reason=self.reason,
                stop_reason=self.stop_reason,
                text="vLLM's own text",
                logprobs=[{t: SimpleNamespace(logprob=-t - 0.5), 1: None} for t in self.answer]
                if getattr(params, "logprobs", None) is not None
                else None,
                index=index,
            )
            for index in range(getattr(params, "n", 1))
        ]
        return [SimpleNamespace(request_id=request_id, finished=True, outputs=completions)]

    def abort_request(self, ids, internal) -> None:
        assert internal
        for request_id in ids:
            del self.pending[request_id]

    def collective_rpc(self, method, kwargs) -> None:
        assert method == "load_policy"
        self.loaded = [name for name, _ in kwargs["weights"]]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return not self.pending

    def sleep(self, level) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self) -> None:
        self.calls.append("wake")

    def get_tokenizer(self):
        return self.tokenizer


@pytest.fixture
def make(tokenizer, random_model, monkeypatch):
    """A sampler around a `FakeLLM`, whose model has the shape of ``random_model``."""
    monkeypatch.setattr(vllm_engine, "expected_shapes", lambda config: config.shapes)
    monkeypatch.setattr(vllm_runtime, "forget_engine", lambda distributed_before: None)
    shapes = {name: tuple(parameter.shape) for name, parameter in random_model.named_parameters()}

    def make(llm: FakeLLM | None = None, **config) -> VLLMSampler:
        llm = llm or FakeLLM()
        llm.model_config.hf_config.shapes = shapes
        return VLLMSampler("nowhere", tokenizer, VLLMConfig(**config), engine=VLLMEngine(llm))

    return make


def random_config(eos) -> SimpleNamespace:
    return SimpleNamespace(eos_token_id=eos)


SAMPLED = SamplingConfig(max_new_tokens=8, temperature=1.0, num_samples=2, seed=3)


def test_results_come_in_the_order_of_prompts_and_samples(make, tokenizer) -> None:
    results = make().generate(["Tom has", "a", "12"], SAMPLED)
    assert [[(g.prompt, g.sample) for g in samples] for samples in results] == [
        [(prompt, 0), (prompt, 1)] for prompt in ("Tom has", "a", "12")
    ]
    assert results[0][0].text == tokenizer.decode([5, 6]) and results[0][0].finish_reason == "stop"
    assert results[0][0].logprobs is None and results[0][0].entropies is None


def seeds(make, prompts, sampling) -> list[int]:
    llm = FakeLLM()
    make(llm).generate(prompts, sampling)
    return [params.seed for params in llm.params]


def test_each_sample_has_its_own_seed_which_its_neighbours_do_not_change(make) -> None:
    found = seeds(make, ["Tom has", "a"], SAMPLED)
    assert len(set(found)) == 4 and all(0 <= seed < 2**63 for seed in found)
    assert seeds(make, ["a", "x", "Tom has"], SAMPLED)[4:] == found[:2]
    assert seeds(make, ["a", "a"], SAMPLED) == found[2:] * 2
    one = SamplingConfig(max_new_tokens=8, temperature=1.0, seed=3)
    assert seeds(make, ["Tom has"], one) == found[:1]
    other = SamplingConfig(max_new_tokens=8, temperature=1.0, num_samples=2, seed=4)
    assert not set(seeds(make, ["Tom has", "a"], other)) & set(found)


def test_what_vllm_is_asked_for() -> None:
    sampling = SamplingConfig(
        max_new_tokens=9, temperature=0.7, top_p=0.9, min_new_tokens=2, stop=("##",), record_entropy=True
    )
    assert vars(sampling_params(sampling, (0, 7), seed=5)) == {
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
        "max_tokens": 9,
        "min_tokens": 2,
        "stop": ["##"],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "detokenize": True,
        "ignore_eos": True,
        "stop_token_ids": [0, 7],
        "logprobs": 0,
    }
    plain = sampling_params(SamplingConfig(), (0,), seed=5)
    assert (plain.temperature, plain.stop, plain.detokenize, plain.logprobs) == (0.0, None, False, None)


def test_one_result_for_each_request(make) -> None:
    llm = FakeLLM()
    make(llm).generate(["a"], SAMPLED)
    assert {params.output_kind for params in llm.params} == {"final only"}


def test_log_probabilities_are_those_of_the_chosen_tokens(make) -> None:
    sampling = SamplingConfig(max_new_tokens=8, record_entropy=True)
    assert make().generate(["a"], sampling)[0][0].logprobs == (-5.5, -6.5, -0.5)


def test_end_of_text_ids_are_the_models_and_new_with_each_policy(make, random_model) -> None:
    llm = FakeLLM(eos=[7, 0])
    sampler = make(llm)
    sampler.generate(["a"], SamplingConfig(max_new_tokens=8))
    random_model.generation_config = GenerationConfig(eos_token_id=[0, 9])
    sampler.update_weights(random_model)
    ((g,),) = sampler.generate(["a"], SamplingConfig(max_new_tokens=8))
    assert [params.stop_token_ids for params in llm.params] == [[0, 7], [0, 9]]
    llm.answer = (5, 9)
    ((h,),) = sampler.generate(["a"], SamplingConfig(max_new_tokens=8, stop=("never",)))
    assert h.text == g.text[: len(h.text)] and (h.finish_reason, h.stop_reason) == ("stop", None)


def test_stop_string_is_cut_by_the_rule_of_the_hugging_face_sampler(make, tokenizer) -> None:
    ids = tuple(tokenizer("Tom has", add_special_tokens=False)["input_ids"])
    assert tokenizer.decode(ids[-1:]) == " has", "the stop string is to lie within the last token"
    llm = FakeLLM(ids, "stop", "h")
    sampling = SamplingConfig(max_new_tokens=8, stop=("h",))
    ((g,),) = make(llm).generate(["a"], sampling)
    assert (g.token_ids, g.stop_reason, g.finish_reason) == (ids, "h", "stop")
    assert g.text == "Tom h"
    llm.stop_reason = "text"  # which our decoding does not show: vLLM's own cut is taken
    ((g,),) = make(llm).generate(["a"], SamplingConfig(stop=("text",)))
    assert (g.stop_reason, g.text) == ("text", "vLLM's own text")


def test_the_limit_has_no_stop_reason(make) -> None:
    ((g,),) = make(FakeLLM((5,) * 8, "length")).generate(["a"], SamplingConfig(max_new_tokens=8))
    assert (g.finish_reason, g.stop_reason, len(g.token_ids)) == ("length", None, 8)


# What can't be served is refused before anything runs


def test_every_prompt_must_fit_the_engine_with_max_new_tokens(make) -> None:
    llm = FakeLLM(length=64)
    with pytest.raises(ContextLengthError, match="1 of 2 .*prompt 1.*max_model_len of 64.*raise max_model_len to at "):
        make(llm).generate(["a", "a b c d e f g h i j k l m n o p"], SamplingConfig(max_new_tokens=40))
    with pytest.raises(ContextLengthError, match="1 of 1.*shorten the prompts"):
        make(llm).generate(["a b c d e f g h" * 20], SamplingConfig(max_new_tokens=1))
    assert llm.params == []


def test_other_input(make, tokenizer) -> None:
    sampler = make()
    assert isinstance(sampler, Sampler) and sampler.generate([], SAMPLED) == []
    with pytest.raises(DataError, match="prompt 0 is empty"):
        sampler.generate([""], SAMPLED)
    with pytest.raises(ConfigError, match="list of strings"):
        sampler.generate("abc", SAMPLED)
    with pytest.raises(ConfigError, match="id 0.*is 7"):
        make(FakeLLM(eos=7))
    make(FakeLLM(eos=[7, 0]))


# Versions of the policy


def test_training_after_a_sync_makes_the_engine_stale(make, random_model) -> None:
    llm = FakeLLM()
    sampler = make(llm)
    assert sampler.policy_version == 0
    sampler.generate(["a"], SAMPLED)  # the weights it was started with
    sampler.update_weights(random_model)
    assert llm.loaded == [name for name, _ in random_model.named_parameters()] and llm.calls == ["reset"]
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


def test_a_sync_that_fails_leaves_the_engine_unusable_until_one_succeeds(make, random_model, monkeypatch) -> None:
    llm = FakeLLM()
    sampler = make(llm)
    monkeypatch.setattr(llm, "collective_rpc", lambda method, kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.update_weights(random_model)
    assert sampler.policy_version == 0
    with pytest.raises(StaleEngineError, match="cut short"):
        sampler.generate(["a"], SAMPLED)
    monkeypatch.undo()
    llm.model_config.hf_config.shapes.pop("model.norm.weight")
    with pytest.raises(ConfigError, match=r"model.norm.weight is \(64,\) in the policy, missing in the engine"):
        sampler.update_weights(random_model)


def test_an_engine_that_keeps_old_results_is_an_error(make, random_model, monkeypatch) -> None:
    llm = FakeLLM()
    sampler = make(llm)
    monkeypatch.setattr(llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(CourseError, match="prefix cache"):
        sampler.update_weights(random_model)


def test_an_engine_without_the_extension_takes_no_weights(random_model) -> None:
    llm = FakeLLM()
    llm.vllm_config.parallel_config.worker_extension_cls = ""
    with pytest.raises(ConfigError, match=r"without the extension.*init_vllm"):
        handout.load_policy_into_vllm_instance(random_model, llm)


def test_the_end_of_text_of_a_new_policy_is_checked_too(make, random_model) -> None:
    random_model.config.eos_token_id = 7
    with pytest.raises(ConfigError, match="id 0.*is 7"):
        make().update_weights(random_model)


# Sleep, end, death


def test_sleep_after_every_generate(make, random_model) -> None:
    llm = FakeLLM()
    sampler = make(llm, sleep=True)
    for _ in range(2):
        sampler.generate(["a"], SAMPLED)
    sampler.sleep()
    assert llm.calls == [("sleep", 1), "wake", ("sleep", 1)]
    sampler.update_weights(random_model)
    assert llm.calls[3:] == ["wake", "reset"]
    llm.calls.clear()
    make(llm).generate(["a"], SAMPLED)
    assert llm.calls == []


def test_closed(make) -> None:
    llm = FakeLLM()
    with make(llm) as sampler:
        pass
    sampler.close()
    assert llm.calls == ["shutdown"]
    with pytest.raises(CourseError, match="closed"):
        sampler.generate(["a"], SAMPLED)


def test_death_keeps_what_was_finished(make, problems, tmp_path) -> None:
    sampler = make(FakeLLM(life=3))
    with pytest.raises(EngineDiedError, match=r"after 3 of 6 requests \(RuntimeError: no more\)") as caught:
        sampler.generate(["a", "b", "c"], SAMPLED)
    assert caught.value.finished == 3
    kept = [[g is not None for g in samples] for samples in caught.value.generations]
    assert kept == [[False, False], [False, True], [True, True]]
    with pytest.raises(StaleEngineError, match="failed: RuntimeError"):
        sampler.generate(["a"], SAMPLED)

    path = tmp_path / "runs" / "generations.jsonl"
    with pytest.raises(EngineDiedError, match="kept in .*generations.partial.jsonl"):
        evaluate(make(FakeLLM(life=5)), problems, get_template("gsm8k"), gsm8k_reward_fn, SamplingConfig(), path=path)
    assert not path.exists()
    graded = read_generations(path.with_suffix(".partial.jsonl"))
    assert [item.problem.id for item in graded] == [problem.id for problem in problems[-5:]]


def test_a_request_that_the_engine_gave_up_is_no_result(make) -> None:
    with pytest.raises(EngineDiedError, match="'abort'"):
        make(FakeLLM(reason="abort")).generate(["a"], SamplingConfig())


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_the_engine_ready(make, monkeypatch) -> None:
    """In the engine's step, and between two steps in code of ours."""
    llm = FakeLLM()
    sampler = make(llm)
    for owner, name in ((llm, "step"), (sampler, "_generation")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                sampler.generate(["a", "b"], SAMPLED)
        assert not llm.pending
        sampler.generate(["a"], SAMPLED)


def test_ctrl_c_keeps_what_was_finished(make, monkeypatch) -> None:
    llm = FakeLLM()
    step = llm.step
    monkeypatch.setattr(llm, "step", lambda: step() if len(llm.pending) > 1 else interrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        make(llm).generate(["a"], SAMPLED)
    ((first, second),) = caught.value.generations
    assert first is None and second.sample == 1


def test_a_request_that_is_refused_takes_the_others_with_it(monkeypatch) -> None:
    llm = FakeLLM()
    engine = VLLMEngine(llm)
    good = ((1, 2), FakeParams())
    with pytest.raises(AttributeError), closing(engine.run([good, ((3,), None)])) as finished:
        list(finished)
    assert not llm.pending
    assert [number for number, _ in engine.run([good, good])] == [1, 0]


# The handout's functions on the same engine


def evaluate_handout(llm, tokenizer, path=None, **params):
    llm.tokenizer = tokenizer
    params = FakeParams(max_tokens=8, **params)
    return handout.evaluate_vllm(llm, gsm8k_reward_fn, ["a", "b", "c"], params, ground_truths=["5"] * 3, path=path)


def test_evaluate_vllm_leaves_no_requests_in_the_students_engine(tokenizer, monkeypatch) -> None:
    llm = FakeLLM()
    with monkeypatch.context() as patch:
        patch.setattr(llm, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluate_handout(llm, tokenizer)
    assert not llm.pending
    llm.add_request("1", None, FakeParams())  # left by an interrupted llm.generate of the student's own
    found = evaluate_handout(llm, tokenizer, n=2)
    assert [(g.generation.prompt, g.generation.sample) for g in found.graded] == [
        (prompt, sample) for prompt in "abc" for sample in (0, 1)
    ]
    with pytest.raises(ConfigError, match="max_tokens is None"):
        handout.evaluate_vllm(llm, gsm8k_reward_fn, ["a"], FakeParams(max_tokens=None), ground_truths=["5"])


# Settings, and a machine without vLLM


def test_settings() -> None:
    gpu = engine_settings("folder", VLLMConfig(max_model_len=9000, sleep=True), cpu=False)
    assert gpu["dtype"] == "bfloat16" and gpu["enable_sleep_mode"] and not gpu["enforce_eager"]
    assert "kv_cache_memory_bytes" not in gpu and "enable_chunked_prefill" not in gpu
    cpu = engine_settings("folder", VLLMConfig(max_model_len=9000, sleep=True), cpu=True)
    assert cpu["max_num_batched_tokens"] == 9000 and cpu["kv_cache_memory_bytes"] == 2**30
    assert not cpu["enable_chunked_prefill"], "seeded sampling of a prompt in pieces crashes on a CPU"
    assert "enable_sleep_mode" not in cpu


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_model_len", 0), ("gpu_memory_utilization", 1.5), ("kv_cache_memory_bytes", 0.5), ("dtype", "int8")],
)
def test_settings_out_of_range(field, value) -> None:
    with pytest.raises(ConfigError, match=f"VLLMConfig.{field}"):
        VLLMConfig(**{field: value})


def test_where_an_engine_goes() -> None:
    with environment({"CUDA_VISIBLE_DEVICES": "5"}), pytest.raises(ConfigError, match="GPU 1 was asked for"):
        placement(True, 1)


@pytest.fixture
def started(monkeypatch) -> list[dict]:
    """A vLLM that notes what each engine is started with: its arguments, and the environment at that moment."""
    engines: list[dict] = []

    class LLM:
        def __init__(self, **settings) -> None:
            record = {"settings": settings, "environment": dict(os.environ), "ended": False}
            engines.append(record)
            parallel = SimpleNamespace(worker_extension_cls=settings["worker_extension_cls"], world_size=1)
            core = SimpleNamespace(shutdown=lambda: record.update(ended=True))
            self.llm_engine = SimpleNamespace(
                vllm_config=SimpleNamespace(parallel_config=parallel), engine_core=core, has_unfinished_requests=bool
            )
            hf_config = SimpleNamespace(eos_token_id=0)
            self.model_config = SimpleNamespace(max_model_len=512, dtype=torch.float32, hf_config=hf_config)

    monkeypatch.setattr(vllm_runtime, "import_vllm", lambda: SimpleNamespace(LLM=LLM))
    monkeypatch.setattr(vllm_runtime, "on_cpu", lambda: False)
    monkeypatch.setattr(vllm_runtime, "check_no_engine_here", lambda: None)
    monkeypatch.setattr(sys.modules["vllm"], "envs", SimpleNamespace(disable_envs_cache=lambda: None), raising=False)
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


def test_an_engine_on_another_gpu_sees_that_one_and_nothing_of_the_launcher(started, random_model, tmp_path) -> None:
    """The number counts the GPUs that this process sees."""
    random_model.save_pretrained(tmp_path)
    with environment(LAUNCHED | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}):
        llm = handout.init_vllm(str(tmp_path), "cuda:2", seed=1)
        assert {name: os.environ[name] for name in LAUNCHED} == LAUNCHED, "the trainer's own are back"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    assert started[0]["environment"]["CUDA_VISIBLE_DEVICES"] == "6" and started[0]["settings"]["seed"] == 1
    assert started[0]["settings"]["max_model_len"] == 512, "the model's own context"
    assert started[0]["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert not LAUNCHED.keys() & started[0]["environment"].keys()
    llm.close()
    assert started[0]["ended"]


def test_beside_one_trainer_the_engine_is_in_its_process_beside_several_in_its_own(started, monkeypatch) -> None:
    start_engine("folder", VLLMConfig(max_model_len=512))
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with environment(LAUNCHED):
        start_engine("folder", VLLMConfig(max_model_len=512))
    assert [e["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"] for e in started] == ["0", "1"]
    assert [e["environment"].get("CUDA_VISIBLE_DEVICES") for e in started] == [
        os.environ.get("CUDA_VISIBLE_DEVICES")
    ] * 2


def test_end_of_text_ids_of_the_folder_are_read_before_an_engine_starts(
    started, tokenizer, random_model, tmp_path
) -> None:
    random_model.generation_config = GenerationConfig(eos_token_id=[0, 9])
    random_model.save_pretrained(tmp_path)
    sampler = VLLMSampler(tmp_path, tokenizer)
    assert sampler.eos_ids == (0, 9) and len(started) == 1
    (tmp_path / "generation_config.json").unlink()
    assert VLLMSampler(tmp_path, tokenizer).eos_ids == (0,)
    random_model.config.eos_token_id = 7
    random_model.config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="id 0.*is 7"):
        VLLMSampler(tmp_path, tokenizer)
    assert len(started) == 2


def test_without_vllm_the_error_names_the_remedies(random_model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(vllm_runtime, "vllm_version", lambda: None)
    with pytest.raises(ConfigError, match=r"not installed.*cs336-sft\[vllm\].*make test-vllm.*--sampler hf"):
        samplers.make_sampler("vllm", random_model, tokenizer, source=embedded_model_path())
    with pytest.raises(ConfigError, match="give source"):
        samplers.make_sampler("vllm", random_model, tokenizer)


def test_an_old_vllm_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(vllm_runtime.metadata, "version", lambda name: "0.7.2")
    with pytest.raises(ConfigError, match=r"0\.7\.2 is too old.*0\.25"):
        vllm_runtime.import_vllm()


def test_make_sampler(random_model, tokenizer) -> None:
    with samplers.make_sampler("hf", random_model, tokenizer, batch_size=3) as sampler:
        assert sampler.batch_size == 3
    with pytest.raises(ConfigError, match="no model"):
        samplers.make_sampler("hf", None, tokenizer)
    with pytest.raises(ConfigError, match="choose one of hf, vllm"):
        samplers.make_sampler("tgi", random_model, tokenizer)


def test_random_states_and_threads_come_back() -> None:
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.set_num_threads
    with pytest.raises(ZeroDivisionError), vllm_runtime.process_kept():
        torch.manual_seed(7)
        torch.set_num_threads = print
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), state) and torch.set_num_threads is threads
