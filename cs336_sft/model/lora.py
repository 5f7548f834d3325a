"""LoRA and QLoRA: a small trained update over frozen weights, with peft and bitsandbytes.

An adapter's folder (the ``final`` of a run) holds the small matrices alone and names the model that they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError
from cs336_sft.model.loading import ADAPTER_FILE, PEFT_FILE, is_adapter_folder, load_adapted, require_package
from cs336_sft.utils.files import replace_folder, write_json
from cs336_sft.utils.validation import check_counts, check_field, check_flags, fields_to_dict, is_number

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# All linear layers of a block, by the names that Qwen2, Llama and OLMo 2 use. Adapting the attention alone is known
# to be worse (Dettmers et al., "QLoRA", 2023, section 4).
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterConfig:
    """A low-rank adapter (Hu et al., "LoRA", 2021): ``W x`` becomes ``W x + (alpha / r) B A x``; A and B are trained.

    A is ``[r, in]``, B is ``[out, r]`` and starts at 0, so training starts at the model.

    >>> AdapterConfig(r=8, alpha=16).scaling
    2.0
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0  # fraction of the adapter's inputs that is dropped in training
    targets: tuple[str, ...] = LINEAR_LAYERS  # names of the layers that get an adapter
    quantize: bool = False  # frozen weights in 4 bits (NF4, double quantization; Dettmers et al., "QLoRA", 2023)

    def __post_init__(self) -> None:
        check_counts(self, "r")
        check_field(is_number(self.alpha) and self.alpha > 0, self, "alpha", "give a positive number")
        in_range = is_number(self.dropout) and 0 <= self.dropout < 1
        check_field(in_range, self, "dropout", "give a number from 0 to below 1")
        names = isinstance(self.targets, tuple) and all(isinstance(name, str) and name for name in self.targets)
        remedy = f"give a tuple of layer names, such as {LINEAR_LAYERS[:2]}"
        check_field(names and len(self.targets) > 0, self, "targets", remedy)
        check_flags(self, "quantize")

    @property
    def scaling(self) -> float:
        """Return the factor on the product of the two small matrices."""
        return self.alpha / self.r


def add_adapter(model: PreTrainedModel, config: AdapterConfig, *, seed: int = 0) -> PeftModel:
    """Freeze the model and put a new adapter over it, which changes no output yet.

    The model is changed, and part of the result. ``seed`` is that of A's random numbers.
    Raises ConfigError: peft is missing, a target is no layer of the model or is a tied head, or ``quantize`` does not
    agree with how the model was loaded.

    >>> from cs336_sft.model.loading import load_model_and_tokenizer
    >>> adapted = add_adapter(load_model_and_tokenizer("embedded")[0], AdapterConfig(r=4, alpha=8))
    >>> sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    81408
    """
    require_package("peft", "lora")
    import torch
    from peft import LoraConfig, get_peft_model

    if config.quantize != is_quantized(model):
        state = "not in 4 bits" if config.quantize else "in 4 bits"
        problem = f"AdapterConfig.quantize is {config.quantize}, but the model's weights are {state}"
        raise ConfigError(problem, "load it with load_quantized for QLoRA, with load_model_and_tokenizer for LoRA")
    _check_targets(model, config.targets)
    peft_config = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return get_peft_model(model, peft_config).eval()


def _check_targets(model: PreTrainedModel, targets: tuple[str, ...]) -> None:
    """Refuse names of no linear layer, and a head that is tied to the embedding."""
    layers = {name.rsplit(".", 1)[-1]: m for name, m in model.named_modules() if hasattr(m, "in_features")}
    embedding = model.get_input_embeddings().weight
    tied = {name for name, module in layers.items() if module.weight is embedding}
    choice = sorted(layers.keys() - tied)
    for name in targets:
        if name not in choice:
            what = "is no linear layer of the model"
            if name in tied:
                what = "shares its matrix with the embedding: merged, the update would change both"
            raise ConfigError(f"AdapterConfig.targets names {name!r}, which {what}", f"choose from {', '.join(choice)}")


def is_quantized(model: torch.nn.Module) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def save_base_name(folder: str | Path, base: str | Path, config: AdapterConfig) -> None:
    """Write into an adapter's folder which model it belongs to: a name or a folder."""
    base = Path(base).resolve() if Path(base).is_dir() else base
    write_json(Path(folder) / ADAPTER_FILE, {"base": str(base), **fields_to_dict(config)})


def merge_adapter(folder: str | Path, out: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write ``W + (alpha / r) B A`` as an ordinary model folder, new or empty.

    The weights of a QLoRA run are unpacked from 4 bits first, because the adapter was trained over those. The default
    ``dtype`` is float32: bfloat16 rounds a small update away.
    Raises ConfigError: ``folder`` holds no adapter, or ``out`` is not empty.
    """
    out = Path(out)
    if not is_adapter_folder(folder):
        raise ConfigError(f"{folder} holds no adapter ({PEFT_FILE})", "give the final folder of a run with --lora")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already", "choose a new folder")
    adapted, tokenizer = load_adapted(folder, dtype=dtype, device="cpu", dequantize=True)
    merged = adapted.merge_and_unload()
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(out, lambda new: [part.save_pretrained(new) for part in (merged, tokenizer)])
    return out


def adapter_facts(model: torch.nn.Module) -> dict[str, Any]:
    """Describe a model's adapter, if it has one, as part of a run's identity."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return {}
    config = next(iter(configs.values()))
    return {
        "adapter.r": config.r,
        "adapter.alpha": config.lora_alpha,
        "adapter.dropout": config.lora_dropout,
        "adapter.targets": sorted(config.target_modules),
        "adapter.quantize": is_quantized(model),
    }
