"""Small live objects that checks hand to the learner's functions, and the plain descriptions they are built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch


@dataclass(frozen=True)
class Opaque:
    """Stands for a value that can't be sent: only its type is known."""

    kind: str

    def __repr__(self) -> str:
        return f"Opaque(kind={self.kind!r})"


@dataclass(frozen=True)
class TokenizerSpec:
    """A word-level Hugging Face tokenizer whose tokens a person can read.

    Attributes:
        words: the vocabulary, in the order of the ids.
        eos, pad: tokens of the vocabulary (may be the same).
        bos: a token that the tokenizer puts in front of every text unless told ``add_special_tokens=False``; or None.
    """

    words: tuple[str, ...]
    eos: str = "<eos>"
    pad: str = "<pad>"
    bos: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A causal language model of a few hundred weights: embedding, running mean, head.

    Attributes:
        weights: ``embedding [V, H]``, ``mix [H, H]`` and ``head [V, H]``, float32 or float64.
    """

    weights: dict[str, torch.Tensor] = field(hash=False)


def model_spec(vocabulary: int, hidden: int = 6, *, seed: int = 0, scale: float = 1.0) -> ModelSpec:
    """A random model.

    >>> list(model_spec(5, hidden=3).weights["head"].shape)
    [5, 3]
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    return ModelSpec(
        {"embedding": normal(vocabulary, hidden), "mix": normal(hidden, hidden), "head": normal(vocabulary, hidden)}
    )


class TinyLM(torch.nn.Module):
    """``logits[t] = head @ tanh(embedding[t] + mix @ mean(embedding[:t + 1]))``: it sees only what stands before."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, torch.nn.Parameter(weight.clone()))
        self.config = SimpleNamespace(vocab_size=self.embedding.shape[0], hidden_size=self.embedding.shape[1])
        self.train()

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> SimpleNamespace:
        embedded = self.embedding[input_ids]  # [B, T, H]
        counts = torch.arange(1, input_ids.shape[-1] + 1, dtype=embedded.dtype).unsqueeze(-1)  # [T, 1]
        mean = embedded.cumsum(dim=-2) / counts
        hidden = torch.tanh(embedded + mean @ self.mix)
        return SimpleNamespace(logits=hidden @ self.head.T)  # [B, T, V]


@lru_cache(maxsize=16)
def build_tokenizer(spec: TokenizerSpec) -> Any:
    """The tokenizer of a description.

    >>> tokenizer = build_tokenizer(TokenizerSpec(("<pad>", "<eos>", "?", "2", "+")))
    >>> tokenizer(["2 + 2"], add_special_tokens=False)["input_ids"]
    [[3, 4, 3]]
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(spec.words)}, unk_token="?"))
    # Words and signs, blanks dropped: "4" next to "2" is the word "42".
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True)
    if spec.bos is not None:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{spec.bos} $A", special_tokens=[(spec.bos, spec.words.index(spec.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=spec.eos, pad_token=spec.pad, bos_token=spec.bos, unk_token="?"
    )


def materialize(value: Any) -> Any:
    """The same tree with every description replaced by its live object."""
    if isinstance(value, TokenizerSpec):
        return build_tokenizer(value)
    if isinstance(value, ModelSpec):
        return TinyLM(value.weights)
    if isinstance(value, (list, tuple)):
        return type(value)(materialize(item) for item in value)
    if isinstance(value, dict):
        return {key: materialize(item) for key, item in value.items()}
    return value
