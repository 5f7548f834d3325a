"""The sizes of a decoder-only transformer that decide its memory, and the length of any model's context.

What the course does not train, or a relative of it, is refused rather than estimated wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.model.loading import resolve_source

# model_type -> (biases on q, k, v where the configuration does not say, norms on q and k)
_FAMILIES: dict[str, tuple[bool, str]] = {
    "llama": (False, "none"),
    "mistral": (False, "none"),
    "smollm3": (False, "none"),
    "qwen2": (True, "none"),
    "qwen3": (False, "head"),
    "olmo2": (False, "full"),
}

# Names of the context's length, in the order of preference.
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")


def context_length(config: Any) -> int | None:
    """Read how many positions a model has (None: no limit), whatever their name.

    >>> from transformers import GPT2Config, MptConfig
    >>> context_length(GPT2Config(n_positions=64)), context_length(MptConfig(max_seq_len=32))
    (64, 32)
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    values = (getattr(config, name, None) for name in _CONTEXT)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


@dataclass(frozen=True)
class ModelShape:
    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # output head and embedding are one matrix
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = "none"  # or "head" (one norm of head_dim), "full" (one of all heads)

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Output and input width of the seven matrices of one layer."""
        h, i, q, kv = self.hidden, self.intermediate, self.q_width, self.kv_width
        attention = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q)}
        return attention | {"gate_proj": (i, h), "up_proj": (i, h), "down_proj": (h, i)}

    @property
    def layer_matrices(self) -> int:
        return self.layers * sum(rows * columns for rows, columns in self.linear_shapes.values())

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def vectors(self) -> int:
        """Entries of the biases and norms."""
        biases = (self.q_width + 2 * self.kv_width) * self.qkv_bias + self.hidden * self.output_bias
        biases += (2 * self.intermediate + self.hidden) * self.mlp_bias
        norms = {"none": 0, "head": 2 * self.head_dim, "full": self.q_width + self.kv_width}[self.qk_norm]
        return self.layers * (biases + norms + 2 * self.hidden) + self.hidden

    @property
    def parameters(self) -> int:
        """Count all numbers, a tied head once."""
        return self.layer_matrices + self.embedding * (1 if self.tied else 2) + self.vectors


_KNOWN = {
    shape.name: shape
    for shape in (
        ModelShape("Qwen/Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 64, 151_936, True, qkv_bias=True),
        ModelShape("Qwen/Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 128, 151_936, True, qkv_bias=True),
        ModelShape("Qwen/Qwen2.5-Math-1.5B", 1536, 8960, 28, 12, 2, 128, 151_936, True, qkv_bias=True),
        ModelShape("Qwen/Qwen2.5-7B", 3584, 18_944, 28, 28, 4, 128, 152_064, False, qkv_bias=True),
        ModelShape("allenai/OLMo-2-0425-1B", 2048, 8192, 16, 16, 16, 128, 100_352, False, qk_norm="full"),
        ModelShape("HuggingFaceTB/SmolLM2-135M-Instruct", 576, 1536, 30, 9, 3, 64, 49_152, True),
    )
}
KNOWN_SHAPES = tuple(_KNOWN)


def known_shape(name: str) -> ModelShape:
    """Return the shape of one of ``KNOWN_SHAPES``.

    >>> known_shape("Qwen/Qwen2.5-1.5B").parameters
    1543714304
    """
    if name not in _KNOWN:
        raise ConfigError(f"no shape is known for {name!r}", f"choose one of {', '.join(KNOWN_SHAPES)}")
    return _KNOWN[name]


def shape_from_config(config: Any, name: str | None = None) -> ModelShape:
    """Read the shape from a ``PretrainedConfig`` or the content of a ``config.json``.

    Raises ConfigError: an architecture that the estimate does not cover, or a size that is missing.

    >>> sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    >>> shape_from_config({"model_type": "llama", "vocab_size": 100, **sizes}).kv_heads
    4
    """
    values: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    kind = values.get("model_type")
    if kind not in _FAMILIES:
        problem = f"no memory estimate for the architecture {kind!r}"
        raise ConfigError(problem, f"measure it (--measure); estimates cover {', '.join(_FAMILIES)}")

    def size(field: str) -> int:
        value = values.get(field)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"the model's configuration has {field} = {value!r}", "give a whole number from 1")
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    bias, qk_norm = _FAMILIES[kind]
    attention_bias = bool(values.get("attention_bias", False))
    return ModelShape(
        name=name or values.get("_name_or_path") or str(kind),
        hidden=hidden,
        intermediate=size("intermediate_size"),
        layers=size("num_hidden_layers"),
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or hidden // heads,
        vocab=size("vocab_size"),
        tied=bool(values.get("tie_word_embeddings", False)),
        qkv_bias=bias or attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(values.get("mlp_bias", False)),
        qk_norm=qk_norm,
    )


# Models of `cs336-sft fetch`, known before they are fetched.
_FETCHED = {
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "qwen2.5-coder-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen2.5-coder-1.5b": "Qwen/Qwen2.5-1.5B",
}


def shape_of(source: str | Path) -> ModelShape:
    """Return the shape of a model folder, a known name or a fetched model.

    Raises ConfigError: no such folder or name, or an architecture that the estimate does not cover.

    >>> shape_of("embedded").parameters
    2652288
    """
    source = _FETCHED.get(source, source)
    if str(source) in _KNOWN:
        return known_shape(str(source))
    file = Path(resolve_source(source)).expanduser() / "config.json"
    if not file.is_file():
        remedy = f"give a model folder, a profile, or one of {', '.join(KNOWN_SHAPES)}"
        raise ConfigError(f"no config.json in {source}", remedy)
    try:
        return shape_from_config(json.loads(file.read_text(encoding="utf-8")), name=file.parent.name)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}: {error}", "save the model again with save_pretrained") from error
