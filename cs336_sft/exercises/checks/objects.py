"""Small models and tokenizers that checks hand to the learner's functions."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch


class TinyLM(torch.nn.Module):
    """A causal language model of a few hundred random weights, which sees only what stands before.

    ``logits[t] = head @ tanh(embedding[t] + mix @ mean(embedding[:t + 1]))``

    >>> list(TinyLM(5, hidden=3)(torch.tensor([[1, 2]])).logits.shape)
    [1, 2, 5]
    """

    def __init__(self, vocabulary: int, hidden: int = 6, *, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, rows in (("embedding", vocabulary), ("mix", hidden), ("head", vocabulary)):
            weight = torch.randn(rows, hidden, generator=generator) * scale
            self.register_parameter(name, torch.nn.Parameter(weight))
        self.config = SimpleNamespace(vocab_size=vocabulary, hidden_size=hidden)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> SimpleNamespace:
        embedded = self.embedding[input_ids]  # [B, T, H]
        embedded = embedded if attention_mask is None else embedded * attention_mask.unsqueeze(-1)
        counts = torch.arange(1, input_ids.shape[-1] + 1, dtype=embedded.dtype).unsqueeze(-1)  # [T, 1]
        mean = embedded.cumsum(dim=-2) / counts
        hidden = torch.tanh(embedded + mean @ self.mix)
        return SimpleNamespace(logits=hidden @ self.head.T)  # [B, T, V]


class TrainedLM(TinyLM):
    """A model whose copies are one object, as in training: each copy has the weights of what was copied last."""

    shared = TinyLM(5)

    def __deepcopy__(self, memo: dict[int, Any]) -> TinyLM:
        self.shared.load_state_dict(self.state_dict())
        self.shared.zero_grad()
        return self.shared


def word_tokenizer(
    words: tuple[str, ...],
    *,
    eos: str = "<eos>",
    pad: str = "<pad>",
    bos: str | None = None,
    blanks: bool = False,
    limit: int | None = None,
) -> Any:
    """Build a Hugging Face tokenizer whose tokens are words and signs.

    Args:
        words: the vocabulary, in the order of the ids.
        eos, pad: tokens of the vocabulary (may be the same).
        bos: a token that is put in front of every text, but for ``add_special_tokens=False``; or None.
        blanks: each blank is a token; otherwise they are dropped.
        limit: the tokens that a model reads at most, which is no limit of a text.

    >>> tokenizer = word_tokenizer(("<pad>", "<eos>", "?", "2", "+"))
    >>> tokenizer(["2 + 2"], add_special_tokens=False)["input_ids"]
    [[3, 4, 3]]
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    # Words and signs: "4" next to "2" is the word "42".
    inner.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\w+|\s|[^\w\s]+" if blanks else r"\w+|[^\w\s]+"), "removed", invert=True
    )
    if bos is not None:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, words.index(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, pad_token=pad, bos_token=bos, unk_token="?", model_max_length=limit
    )
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # as if said before
    return tokenizer


def random_microbatch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vary shape, size, targets (maybe none, some sure: 0) and what stands in .grad.

    >>> [tensor.shape for tensor in random_microbatch(3)]
    [torch.Size([3, 1]), torch.Size([3, 1])]
    """
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = draw.choice([(1, 1), (3, 1), (1, 4), (2, 5), (4, 9)])
    log_probs = (-torch.rand(shape, generator=generator).sub(0.3).relu() * draw.choice([0.01, 3, 150])).requires_grad_()
    if seed % 2:
        log_probs.grad = torch.ones(shape)
    return log_probs, torch.rand(shape, generator=generator) > draw.choice([0.2, 0.6, 1.0])
