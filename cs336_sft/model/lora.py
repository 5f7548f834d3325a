"""LoRA and QLoRA: a small trained update over frozen weights, with peft and bitsandbytes.

    model, tokenizer = load_model_and_tokenizer(source)
    model = add_adapter(model, AdapterConfig(r=8, alpha=16), seed=0)     # then train_sft as with any model

An adapter's folder (the ``final`` of a run) holds the small matrices alone and names the model that they belong to;
``load_model_and_tokenizer`` takes it like any other, and ``merge_adapter`` turns it into an ordinary model folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError
from cs336_sft.model.lora_config import AdapterConfig
from cs336_sft.utils.files import read_json, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Written beside peft's own file, which says neither that the weights below were in 4 bits nor, in words that hold on
# another machine, which model it was.
ADAPTER_FILE = "adapter.json"
PEFT_FILE = "adapter_config.json"


def add_adapter(model: PreTrainedModel, config: AdapterConfig, *, seed: int = 0) -> PeftModel:
    """Freeze the model and put a fresh adapter over it. Its output does not change before the first step.

    Args:
        model: loaded with ``load_quantized`` for ``config.quantize``. It is changed, and part of the result.
        seed: of the random half of the adapter (A); the other half (B) is 0.

    Returns:
        A model whose trained parameters are the adapter's, in float32.

    Raises:
        ConfigError: peft is missing, a target is no layer of the model, or ``quantize`` does not agree with how the
            model was loaded.

    >>> from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
    >>> adapted = add_adapter(load_model_and_tokenizer(embedded_model_path())[0], AdapterConfig(r=4, alpha=8))
    >>> sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    81408
    """
    _demand("peft", "lora")
    import torch
    from peft import LoraConfig, get_peft_model

    if config.quantize != is_quantized(model):
        raise ConfigError(
            f"AdapterConfig.quantize is {config.quantize}, but the model's weights are "
            f"{'not ' if config.quantize else ''}in 4 bits",
            "load it with load_quantized for a QLoRA adapter, and with load_model_and_tokenizer for LoRA",
        )
    layers = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "in_features")}
    if missing := [name for name in config.targets if name not in layers]:
        raise ConfigError(
            f"AdapterConfig.targets names {missing[0]!r}, which is no linear layer of the model",
            f"choose from {', '.join(sorted(layers))}",
        )
    peft_config = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, peft_config)
    return adapted.eval()


def load_quantized(
    source: str | Path, *, compute_dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model whose linear layers (the output head left out) are in 4 bits: NF4 with double quantization.

    Args:
        source: a folder or hub name, as for ``load_model_and_tokenizer``.
        compute_dtype: to which weights are unpacked for each product; the other weights have it too. Default:
            bfloat16 on a GPU, float32 on a CPU.
        device: where it lies from now on; default: the GPU if there is one.

    Raises:
        ConfigError: bitsandbytes is missing or too old for the device; also as ``load_model_and_tokenizer``.
    """
    _demand("bitsandbytes", "qlora")
    import torch
    from transformers import BitsAndBytesConfig

    from cs336_sft.model.loading import best_device, load_model_and_tokenizer

    device = torch.device(device or best_device())
    if device.type == "cuda" and device.index is None:  # accelerate compares the number
        device = torch.device("cuda", torch.cuda.current_device())
    compute_dtype = compute_dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    model, tokenizer = load_model_and_tokenizer(
        source, dtype=compute_dtype, device_map={"": device}, quantization_config=settings
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On some CPUs bitsandbytes repacks the weights at the first evaluation, for a kernel without a backward
            # pass, and never back: training after an evaluation would then fail.
            module.support_avx512bf16_for_cpu = False
    return model, tokenizer


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether the model's linear layers are in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def is_adapter_folder(source: str | Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model.

    >>> is_adapter_folder("no-such-folder")
    False
    """
    return (Path(source).expanduser() / PEFT_FILE).is_file()


def note_base(folder: str | Path, base: str | Path, config: AdapterConfig) -> None:
    """Write into an adapter's folder which model it belongs to: ``embedded``, ``smollm2``, a folder or a hub name."""
    base = Path(base).resolve() if Path(base).is_dir() else base
    write_json(Path(folder) / ADAPTER_FILE, {"base": str(base), **config.to_dict()})


def adapter_base(folder: str | Path) -> tuple[str | Path, bool]:
    """The model that an adapter belongs to, and whether it was trained over 4-bit weights.

    Raises:
        ConfigError: the folder does not say.
    """
    folder = Path(folder).expanduser()
    if (folder / ADAPTER_FILE).is_file():
        from cs336_sft.experiments.profiles import get_profile, with_model

        noted = read_json(folder / ADAPTER_FILE)
        # ``embedded`` and ``smollm2`` lie elsewhere on each machine; a profile knows where.
        return with_model(get_profile("tiny"), noted["base"]).model_source(), noted["quantize"]
    base = read_json(folder / PEFT_FILE).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{folder} does not say which model it belongs to", f"name it in {PEFT_FILE}")
    return base, False


def load_adapted(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    dequantize: bool = False,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """An adapter over its model, frozen, in evaluation mode; and the tokenizer of the adapter's folder.

    Args:
        dequantize: unpack the 4-bit weights of a QLoRA run, as they are, into ``dtype``.

    Raises:
        ConfigError: peft (for QLoRA: bitsandbytes) is missing, or the model is not there.
    """
    _demand("peft", "lora")
    import torch
    from peft import PeftModel

    from cs336_sft.model.loading import load_model_and_tokenizer, load_tokenizer

    if not (Path(folder).expanduser() / "adapter_model.safetensors").is_file():
        raise ConfigError(
            f"{folder} has no adapter_model.safetensors (a pickled adapter can run code when it is loaded)",
            "save the adapter with save_pretrained(folder), which writes safetensors",
        )
    base, quantized = adapter_base(folder)
    if quantized:
        model, _ = load_quantized(base, compute_dtype=dtype, device=device)
        if dequantize:
            model = model.dequantize(dtype=dtype or torch.float32)
    else:
        model, _ = load_model_and_tokenizer(base, dtype=dtype, device=device)
    adapted = PeftModel.from_pretrained(model, str(Path(folder).expanduser()), is_trainable=False)
    return adapted.eval(), load_tokenizer(folder)


def merge_adapter(folder: str | Path, out: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Add an adapter to its model's weights, ``W + (alpha / r) B A``, and write an ordinary model folder.

    The weights of a QLoRA run are unpacked from 4 bits first, because it is those that the adapter was trained over;
    added to the original weights it belongs to another model.

    Args:
        out: a folder that is new or empty.
        dtype: in which to add and to write; float32 if left out, since bfloat16 rounds a small update away.

    Raises:
        ConfigError: ``folder`` holds no adapter, or ``out`` is not empty.
    """
    from cs336_sft.training.checkpoints import replace_folder

    out = Path(out)
    if not is_adapter_folder(folder):
        raise ConfigError(f"{folder} holds no adapter ({PEFT_FILE})", "give the final folder of a run with --lora")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already", "choose a new folder")
    adapted, tokenizer = load_adapted(folder, dtype=dtype, device="cpu", dequantize=True)
    merged = adapted.merge_and_unload()
    out.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    replace_folder(out, write)
    return out


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The frozen model below the adapter, for comparisons; a model without an adapter as it is."""
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            yield model
    else:
        yield model


def adapter_facts(model: torch.nn.Module) -> dict[str, Any]:
    """What tells one adapter from another: part of a run's identity. Empty for a model without one."""
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


def _demand(package: str, extra: str) -> None:
    # peft imports bitsandbytes too, which says on every CPU that an optional faster kernel is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if find_spec(package) is None:
        raise ConfigError(f"the package {package} is not installed", f"pip install 'cs336-sft[{extra}]'")
