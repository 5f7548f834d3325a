"""Loading models, tokenizers and adapters: safetensors only, no code from the folder, no surprise downloads.

What the libraries raise becomes one line with a remedy here, and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError
from cs336_sft.utils.files import read_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# Ours stands next to peft's, which does not say whether the weights below were in 4 bits.
ADAPTER_FILE, PEFT_FILE = "adapter.json", "adapter_config.json"


def embedded_model_path() -> Path:
    """Return the folder of the base model that the package ships."""
    return Path(__file__).parents[1] / "assets" / "tiny-base"


def resolve_source(source: str | Path) -> str | Path:
    """Turn ``embedded`` and the names of ``cs336-sft fetch`` into folders.

    Raises CourseError: the model was not fetched yet.

    >>> resolve_source("Qwen/Qwen2.5-Math-1.5B"), resolve_source("embedded") == embedded_model_path()
    ('Qwen/Qwen2.5-Math-1.5B', True)
    """
    if source == "embedded":
        return embedded_model_path()
    from cs336_sft.data.download import ARTIFACT_NAMES, fetched_folder

    return fetched_folder(source) if source in ARTIFACT_NAMES else source


def looks_like_path(source: str) -> bool:
    """Tell whether a name means a folder, perhaps misspelt, and not a hub model.

    >>> [looks_like_path(s) for s in ("runs/x/checkpoint", "./model", "/models/x", "Qwen/Qwen2.5-Math-1.5B")]
    [True, True, True, False]
    """
    path = Path(source)
    if path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.endswith("/") or "\\" in source:
        return True
    return source.count("/") > 1 or ("/" in source and (path.parent.exists() or source.startswith("runs/")))


def check_model_source(source: str | Path) -> str:
    """Return the source as the loader takes it: a model folder or a hub name.

    A folder that is not there never becomes a request to the hub. Raises ConfigError: no such folder, no
    ``config.json``, or weights only as pickles, which can run code when loaded.
    """
    source = resolve_source(source)
    if not isinstance(source, Path) and not looks_like_path(source):
        return source
    folder = Path(source).expanduser()
    remedy = "give a folder with config.json and *.safetensors, or a hub name such as Qwen/Qwen2.5-Math-1.5B"
    if not folder.is_dir():
        what = f"{source} is a file, not a model folder" if folder.exists() else f"no model folder {source}"
        raise ConfigError(what, remedy)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{source} has no config.json, so it is not a model folder", remedy)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        if pickles:
            problem = f"{source} has its weights only as a pickle ({pickles[0]}), which can run code when it is loaded"
            raise ConfigError(problem, "save the model with save_pretrained(folder), which writes safetensors")
        raise ConfigError(f"{source} has no *.safetensors file", remedy)
    return str(folder)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub name, with a pad token."""
    from transformers import AutoTokenizer

    source = resolve_source(source)
    name = str(source)
    if isinstance(source, Path) or looks_like_path(source):
        name = str(Path(source).expanduser())
        if not Path(name).is_dir():
            raise ConfigError(f"no tokenizer folder {source}", "give a folder with tokenizer.json, or a hub name")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(f"no tokenizer could be read from {source} ({_reason(error)})", _remedy(name)) from error
    # transformers makes an empty tokenizer of a folder that has the configuration of a model alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids) or not tokenizer("1", add_special_tokens=False)["input_ids"]:
        raise ConfigError(f"{source} has no tokenizer: its vocabulary is empty", "save its tokenizer there as well")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model_and_tokenizer(
    source: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None, **loading: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model in evaluation mode, and its tokenizer.

    ``source`` is a folder, a hub name, the folder of an adapter, ``embedded``, or ``smollm2``. The weights are in
    float32 on the CPU by default; ``loading`` are further arguments of ``from_pretrained``.
    Raises ConfigError: see ``check_model_source``; also a damaged or incomplete model, or an unreachable hub.

    >>> model, tokenizer = load_model_and_tokenizer("embedded")
    >>> model.dtype, model.training, tokenizer.pad_token
    (torch.float32, False, '<|endoftext|>')
    """
    if is_adapter_folder(source):
        return load_adapted(source, dtype=dtype, device=device)
    name = check_model_source(source)
    tokenizer = load_tokenizer(name)
    model = _load_weights(name, source, dtype, loading)
    vocabulary = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= vocabulary:
        tokenizer.pad_token = tokenizer.eos_token  # a pad token that was added without a row of the embedding
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return (model if device is None else model.to(device)).eval(), tokenizer


def load_quantized(
    source: str | Path, *, compute_dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model with its linear layers, but not the head, in 4 bits (NF4).

    ``compute_dtype``, to which weights are unpacked for each product, is bfloat16 on a GPU and float32 on a CPU by
    default. Raises ConfigError: bitsandbytes is missing; also as ``load_model_and_tokenizer``.
    """
    require_package("bitsandbytes", "qlora")
    import torch
    from transformers import BitsAndBytesConfig

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


def load_adapted(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    dequantize: bool = False,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load an adapter over its model, frozen, in evaluation mode, and their tokenizer.

    ``dequantize`` unpacks the 4-bit weights of a QLoRA run, as they are, into ``dtype``.
    Raises ConfigError: peft (for QLoRA: bitsandbytes) is missing, or the model is not there.
    """
    require_package("peft", "lora")
    import torch
    from peft import PeftModel

    folder = Path(folder).expanduser()
    if not (folder / "adapter_model.safetensors").is_file():
        problem = f"{folder} has no adapter_model.safetensors (a pickled adapter can run code when it is loaded)"
        raise ConfigError(problem, "save the adapter with save_pretrained(folder), which writes safetensors")
    base, quantized = _adapter_base(folder)
    if quantized:
        model, tokenizer = load_quantized(base, compute_dtype=dtype, device=device)
        if dequantize:
            model = model.dequantize(dtype=dtype or torch.float32)
    else:
        model, tokenizer = load_model_and_tokenizer(base, dtype=dtype, device=device)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except Exception as error:
        problem = f"the adapter {folder} could not be loaded over {base} ({_reason(error)})"
        raise ConfigError(problem, f"check that {PEFT_FILE} names the model that it was trained over") from error
    if (folder / "tokenizer_config.json").is_file():  # peft's own output has none
        tokenizer = load_tokenizer(folder)
    return adapted.eval(), tokenizer


def is_adapter_folder(source: str | Path) -> bool:
    """Tell whether a folder holds an adapter rather than a whole model."""
    return (Path(source).expanduser() / PEFT_FILE).is_file()


def _adapter_base(folder: Path) -> tuple[str, bool]:
    """Read which model an adapter belongs to, and whether that was in 4 bits."""
    if (folder / ADAPTER_FILE).is_file():
        stored = read_json(folder / ADAPTER_FILE)
        return stored["base"], stored["quantize"]
    base = read_json(folder / PEFT_FILE).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{folder} does not say which model it belongs to", f"name it in {PEFT_FILE}")
    return base, False


def _make_saveable(settings: GenerationConfig) -> None:
    """Correct generation settings that transformers loads but refuses to save."""
    try:
        settings.validate(strict=True)
    except ValueError as error:
        if settings.do_sample:
            problem = f"the model's generation settings are invalid, so it can't be saved ({_reason(error)})"
            raise ConfigError(problem, "correct its generation_config.json") from error
        settings.do_sample = True  # many models of the hub have a temperature without it: their authors mean sampling
        _make_saveable(settings)


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Put a model into evaluation mode, and restore each module's mode on leaving.

    >>> import torch
    >>> with evaluation_mode(torch.nn.Dropout()) as model:
    ...     model.training
    False
    """
    # `model.train(model.training)` would switch parts that were frozen in evaluation mode to training.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model
    finally:
        for module in training:
            module.training = True


def require_package(package: str, extra: str) -> None:
    # peft imports bitsandbytes too, which says on every CPU that an optional faster kernel is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if find_spec(package) is None:
        raise ConfigError(f"the package {package} is not installed", f"pip install 'cs336-sft[{extra}]'")


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def quiet_libraries() -> None:
    """Switch off transformers' progress bars and notices for this process."""
    from transformers.utils import logging as notices

    notices.set_verbosity_error()
    notices.disable_progress_bar()


def _load_weights(name: str, source: str | Path, dtype: torch.dtype | None, loading: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype or torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **loading,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what transformers and its optional packages raise has no common type
        raise ConfigError(f"no model could be loaded from {source} ({_reason(error)})", _remedy(name)) from error
    if missing := sorted(report["missing_keys"]):  # a tied head is not missing
        problem = f"{source} lacks weights that the model needs, such as {missing[0]} ({len(missing)} in all)"
        raise ConfigError(problem, "save the whole model again with save_pretrained, or download it again")
    _make_saveable(model.generation_config)
    return model


def _reason(error: Exception) -> str:
    """Return an error's kind and first line, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.startswith("You set `ignore_mismatched_sizes`"):
        text = "weights have other shapes than config.json says"
    elif text.endswith("is invalid:") and len(lines) > 1:
        text = lines[1].lstrip("- ")
    known = isinstance(error, OSError | ValueError)  # whose text says enough
    return (text if known and text else f"{type(error).__name__}: {text}").rstrip(".: ")


def _remedy(name: str) -> str:
    if Path(name).exists():
        return "check the folder and its config.json, install what the error names, or save the model again"
    return "check the name and the connection to the hub, or give the folder of a downloaded copy"
