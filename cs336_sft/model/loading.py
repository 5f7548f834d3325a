"""Loading a model and its tokenizer: safetensors only, no code from the model's folder, no surprise downloads."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError, CourseError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "tiny-base"


def embedded_model_path() -> Path:
    """The folder of the base model that the package ships.

    Raises:
        CourseError: the installation lacks it.

    >>> embedded_model_path().name
    'tiny-base'
    """
    folder = Path(str(resources.files("cs336_sft") / "assets" / EMBEDDED))
    if not (folder / "config.json").is_file():
        raise CourseError(
            f"the installed package has no embedded model ({folder})", "install cs336-sft again, from the repository"
        )
    return folder


def looks_like_path(source: str) -> bool:
    """Whether a name means a folder rather than a model on the hub (``organisation/name``).

    A hub name has at most one slash and no leading dot. What exists on disk is a path whatever it looks like, and so
    is a name inside a folder that exists: a misspelt ``runs/first/checkpoint`` must not become a download.

    >>> [looks_like_path(s) for s in ("runs/x/checkpoint", "./model", "/models/x", "Qwen/Qwen2.5-Math-1.5B")]
    [True, True, True, False]
    """
    path = Path(source)
    if path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.endswith("/") or "\\" in source:
        return True
    return source.count("/") > 1 or ("/" in source and (path.parent.exists() or source.startswith("runs/")))


def check_model_source(source: str | Path) -> str:
    """The source as the loader takes it: an existing folder with safetensors weights, or a hub name.

    A folder that is not there is an error here; it never becomes a request to the hub.

    Raises:
        ConfigError: no such folder, a file in place of a folder, no ``config.json``, or weights only as pickles
            (``.bin``, ``.pt``), which can run code when they are loaded.

    >>> check_model_source("Qwen/Qwen2.5-Math-1.5B")
    'Qwen/Qwen2.5-Math-1.5B'
    >>> check_model_source("./nowhere")
    Traceback (most recent call last):
        ...
    cs336_sft.errors.ConfigError: no model folder ./nowhere. Remedy: give a folder with config.json and *.safetensors, or a hub name such as Qwen/Qwen2.5-Math-1.5B.
    """  # noqa: E501
    if not isinstance(source, Path) and not looks_like_path(source):
        return source
    folder = Path(source).expanduser()
    remedy = "give a folder with config.json and *.safetensors, or a hub name such as Qwen/Qwen2.5-Math-1.5B"
    if not folder.exists():
        raise ConfigError(f"no model folder {source}", remedy)
    if not folder.is_dir():
        raise ConfigError(f"{source} is a file, not a model folder", remedy)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{source} has no config.json, so it is not a model folder", remedy)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        if pickles:
            raise ConfigError(
                f"{source} has its weights only as a pickle ({pickles[0]}), which can run code when it is loaded",
                "save the model with save_pretrained(folder), which writes safetensors",
            )
        raise ConfigError(f"{source} has no *.safetensors file", remedy)
    return str(folder)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name, with the end-of-text token as pad where it has no pad token.

    Raises:
        ConfigError: no such folder, or nothing that transformers can read as a tokenizer.
    """
    from transformers import AutoTokenizer

    if isinstance(source, Path) or looks_like_path(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"no tokenizer folder {source}", "give a folder with tokenizer.json, or a hub name")
        name = str(folder)
    else:
        name = source
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer could be read from {source} ({_first_line(error)})", _remedy(name)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model_and_tokenizer(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    **loading: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode and its tokenizer.

    Args:
        source: a folder with ``config.json`` and safetensors, a hub name, or the folder of an adapter, which is
            loaded over its model.
        dtype: of the weights, float32 if left out: training keeps fp32 master weights, and the shipped bf16 weights
            are exact in it.
        device: where to put the model; left where it was loaded (CPU) if None.
        loading: further arguments of ``from_pretrained``, such as ``quantization_config``.

    Raises:
        ConfigError: see :func:`check_model_source`; also a damaged file or a hub that can't be reached.

    >>> model, tokenizer = load_model_and_tokenizer(embedded_model_path())
    >>> model.dtype, model.training, tokenizer.pad_token
    (torch.float32, False, '<|endoftext|>')
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from cs336_sft.model.lora import is_adapter_folder, load_adapted

    if is_adapter_folder(source):
        return load_adapted(source, dtype=dtype, device=device)
    name = check_model_source(source)
    tokenizer = load_tokenizer(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype or torch.float32, use_safetensors=True, trust_remote_code=False, **loading
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"no model could be loaded from {source} ({_first_line(error)})", _remedy(name)) from error
    # The loss and the generation must agree on where an answer ends; a folder's two files can disagree.
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if device is not None:
        model = model.to(device)
    return model.eval(), tokenizer


def best_device() -> str:
    """``"cuda"`` where PyTorch sees such a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _remedy(name: str) -> str:
    if Path(name).exists():
        return "check that the folder is complete, or save it again with save_pretrained"
    return "check the name and the connection to the hub, or give the folder of a downloaded copy"
