"""The output head of many kinds of model, and what happens to their logits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.model.output_head import _AFTER, KNOWN_ARCHITECTURES, OutputHead, find_head_module, run_to_head

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
# name: (family, settings, expected factor, expected cap)
MODELS = {
    "Qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}, 1.0, None),
    "Qwen2, untied": ("Qwen2", {"tie_word_embeddings": False}, 1.0, None),
    "Gemma 2, soft cap": ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 0.7}, 1.0, 0.7),
    "Gemma 2, no cap": ("Gemma2", {"head_dim": 8, "final_logit_softcapping": None}, 1.0, None),
    "Granite, divided": ("Granite", {"logits_scaling": 8.0}, 0.125, None),
    "Cohere, multiplied": ("Cohere", {"logit_scale": 0.0625}, 0.0625, None),
    "Phi, bias": ("Phi", {"num_key_value_heads": 2, "tie_word_embeddings": False}, 1.0, None),
}


def make_model(family: str, **settings) -> transformers.PreTrainedModel:
    config = getattr(transformers, f"{family}Config")(**SIZES | settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).double()
    for parameter in model.parameters():  # large enough that a cap bends the logits and a bias shows
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, SIZES["vocab_size"], (2, 8), generator=generator)
    return SimpleNamespace(input_ids=ids[:, :-1], labels=ids[:, 1:], mask=torch.rand(2, 7, generator=generator) < 0.6)


def by_full_logits(model, batch):
    """What transformers' own logits give."""
    log_softmax = model(input_ids=batch.input_ids).logits.log_softmax(dim=-1)
    log_probs = log_softmax.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    return log_probs, -(log_softmax.exp() * log_softmax).sum(dim=-1).detach()


def gradients_of(model, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_like_full_logits(model, batch, atol=1e-9):
    expected, expected_entropy = by_full_logits(model, batch)
    wanted = gradients_of(model, (expected * batch.mask).sum())
    for mask in (None, batch.mask):
        result = get_response_log_probs(model, batch.input_ids, batch.labels, True, response_mask=mask)
        kept = torch.ones_like(batch.mask) if mask is None else mask
        assert torch.allclose(result["log_probs"], expected * kept, atol=atol, rtol=0)
        assert torch.allclose(result["token_entropy"], expected_entropy * kept, atol=atol, rtol=0)
        found = gradients_of(model, (result["log_probs"] * batch.mask).sum())
        assert found.keys() == wanted.keys() and wanted
        for name, gradient in wanted.items():
            assert torch.allclose(found[name], gradient, atol=atol * 10, rtol=1e-7), name


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_the_models_own_logits(name, batch):
    family, settings, scale, cap = MODELS[name]
    model = make_model(family, **settings)
    if name == "Phi, bias":
        assert find_head_module(model).bias.abs().max() > 0.1
    _, head = run_to_head(model, {"input_ids": batch.input_ids})
    assert head.is_linear and head.scale == pytest.approx(scale, rel=1e-6)
    assert head.cap == (None if cap is None else pytest.approx(cap, rel=1e-6))
    assert_like_full_logits(model, batch)


MOE = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "moe_k": 2,
    "num_experts_per_tok": 2,
    "moe_num_shared_experts": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "n_group": 1,
    "topk_group": 1,
}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28}
# What some architectures need beside SIZES to be built so small. None: a field that they don't have.
OWN_SIZES = {
    "codegen": {"rotary_dim": 4, "num_attention_heads": 4},
    "deepseek_v2": MOE | MLA | {"num_key_value_heads": 2},
    "deepseek_v3": MOE | MLA | {"num_key_value_heads": 2},
    "diffllama": {"num_key_value_heads": 2},
    "falcon": {"head_dim": None},
    "gemma3": {"text_config": SIZES | {"head_dim": 8}, "vision_config": VISION | {"patch_size": 14}},
    "gpt_neo": {"attention_types": [[["global"], 1]]},
    "gptj": {"rotary_dim": 4},
    "phi": {"num_key_value_heads": 2},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_next": MOE | {"num_hidden_layers": 4},
}


@pytest.mark.parametrize("kind", KNOWN_ARCHITECTURES)
def test_every_known_architecture_gives_its_own_logits(kind, batch):
    """What the table says of a family is what the installed transformers does."""
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    own = OWN_SIZES.get(kind, MOE if "moe" in kind or kind in ("gpt_oss", "mixtral", "minimax", "flex_olmo") else {})
    sizes = SIZES | {"head_dim": 8, "num_experts_per_tok": 2} | own
    config = transformers.CONFIG_MAPPING[kind](**{name: size for name, size in sizes.items() if size is not None})
    if kind in _AFTER:
        setattr(config, _AFTER[kind][1], 0.7)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    expected, entropy = by_full_logits(model, batch)
    found = get_response_log_probs(model, batch.input_ids, batch.labels, True)
    assert expected.isfinite().all() and expected.std() > 0.01
    assert torch.allclose(found["log_probs"], expected, atol=2e-5)
    assert torch.allclose(found["token_entropy"], entropy, atol=2e-5)


def test_an_architecture_that_is_not_known_is_refused(batch):
    model = make_model("Qwen2")
    model.config.model_type = "novel"
    with pytest.raises(ConfigError, match="the architecture 'novel'.*not known.*one of apertus"):
        get_response_log_probs(model, batch.input_ids, batch.labels)


def test_a_model_with_a_forward_of_its_own_is_refused(batch):
    class Changed(transformers.Qwen2ForCausalLM):
        def forward(self, input_ids, **kwargs):
            output = super().forward(input_ids, **kwargs)
            output.logits = output.logits.relu()
            return output

    class Renamed(transformers.Qwen2ForCausalLM):
        """Only the name is new: what FSDP does to a model's class."""

    with pytest.raises(ConfigError, match="Changed, with a forward of .*test_output_head"):
        get_response_log_probs(Changed(transformers.Qwen2Config(**SIZES)), batch.input_ids, batch.labels)
    assert_like_full_logits(Renamed(transformers.Qwen2Config(**SIZES)).double(), batch)


@pytest.mark.parametrize("id_", [61, -1])
def test_an_id_that_the_embedding_lacks_is_refused(id_, batch):
    batch.input_ids[1, 2] = id_
    with pytest.raises(DataError, match=f"input_ids holds {id_}, the model's vocabulary ends at 60"):
        get_response_log_probs(make_model("Qwen2"), batch.input_ids, batch.labels)


def test_prompt_tuning_is_refused(batch):
    peft = pytest.importorskip("peft", reason="needs peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ConfigError, match=r"\(2, 10\) positions for ids \(2, 7\).*without prompt tuning"):
        run_to_head(peft.get_peft_model(make_model("Qwen2").float(), config), {"input_ids": batch.input_ids})


def test_a_head_with_a_hook_runs_as_a_module(batch):
    model = make_model("Qwen2", tie_word_embeddings=False)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits * 0.5)
    assert not OutputHead(model.lm_head).is_linear
    assert_like_full_logits(model, batch)


@pytest.mark.parametrize("calls", [0, 2])
def test_a_head_that_is_not_called_once_is_refused(calls, batch):
    class Odd(transformers.Qwen2ForCausalLM):
        def forward(self, input_ids, **kwargs):
            hidden = self.model(input_ids).last_hidden_state
            for _ in range(calls):
                logits = self.lm_head(hidden)
            return SimpleNamespace(logits=logits if calls else hidden)

    Odd.forward.__module__ = transformers.Qwen2ForCausalLM.__module__
    with pytest.raises(ConfigError, match=f"called its output head {calls} times"):
        run_to_head(Odd(transformers.Qwen2Config(**SIZES)), {"input_ids": batch.input_ids})


def test_a_model_without_a_head_is_refused_by_name():
    with pytest.raises(ConfigError, match="Linear has no get_output_embeddings"):
        run_to_head(nn.Linear(1, 1), {})


def test_an_error_of_the_models_own_is_passed_on_and_the_head_restored(batch):
    model = make_model("Qwen2")
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        run_to_head(model, {"input_ids": batch.input_ids, "inputs_embeds": torch.zeros(2, 7, 16)})
    assert model(input_ids=batch.input_ids).logits.shape == (2, 7, 61)


class FourBit(nn.Module):
    """Stands for a quantised head: keeps its weight in another form and is no ``torch.nn.Linear``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.abs().amax(dim=1, keepdim=True).detach() / 7
        self.codes = (linear.weight.detach() / self.scale).round().to(torch.int8)

    def forward(self, hidden):
        return hidden @ (self.codes * self.scale).T


def test_a_head_that_is_not_a_plain_matrix_runs_as_a_module(batch):
    model = make_model("Qwen2", tie_word_embeddings=False)
    model.set_output_embeddings(FourBit(model.lm_head))
    assert not OutputHead(find_head_module(model)).is_linear
    assert_like_full_logits(model, batch)


def test_a_subclass_of_linear_with_a_forward_of_its_own_is_not_taken_for_a_matrix():
    class Doubled(nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    assert OutputHead(nn.Linear(2, 3)).is_linear
    assert not OutputHead(Doubled(2, 3)).is_linear


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["lm_head"]])
def test_peft_models(targets, batch):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = make_model("Qwen2", tie_word_embeddings=False)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data = parameter.data.double()
    assert OutputHead(find_head_module(model)).is_linear == (targets != ["lm_head"])
    assert_like_full_logits(model, batch)


def test_distributed_data_parallel_models_exchange_gradients(batch, tmp_path):
    from torch import distributed

    bare = make_model("Qwen2")
    expected = gradients_of(bare, (by_full_logits(bare, batch)[0] * batch.mask).sum())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(bare)
        seen = []
        # Halves what is exchanged: gradients that went past DistributedDataParallel would stay whole.
        model.register_comm_hook(seen, halve)
        result = get_response_log_probs(model, batch.input_ids, batch.labels, response_mask=batch.mask)
        found = gradients_of(bare, result["log_probs"].sum())
        assert seen
    finally:
        distributed.destroy_process_group()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient / 2, atol=1e-9), name


def halve(seen, bucket):  # no annotations: PyTorch compares them with its classes, and here they would be strings
    seen.append(bucket.index())
    future = torch.futures.Future()
    future.set_result(bucket.buffer() / 2)
    return future


def test_a_compiled_model_is_unwrapped(batch):
    model = make_model("Qwen2")
    compiled = torch.compile(model, backend="eager")
    expected = get_response_log_probs(model, batch.input_ids, batch.labels)["log_probs"]
    assert torch.equal(get_response_log_probs(compiled, batch.input_ids, batch.labels)["log_probs"], expected)


def test_autocast_of_the_head_is_honoured(batch):
    """Operands in bfloat16 as the model has them, but float32 logits: nearer to the truth than the model's own."""
    model = make_model("Qwen2").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, head = run_to_head(model, {"input_ids": batch.input_ids})
        found = get_response_log_probs(model, batch.input_ids, batch.labels)["log_probs"]
    assert head.autocast == torch.bfloat16 and found.dtype == torch.float32
    operands = hidden.bfloat16().double(), model.lm_head.weight.bfloat16().double()
    expected = (operands[0] @ operands[1].T).log_softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert run_to_head(model, {"input_ids": batch.input_ids})[1].autocast is None
