"""What `HFSampler` hangs into ``generate`` of transformers: choosing a token, stop strings, a clean state around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, TopPLogitsWarper

from cs336_sft.generation.response_text import find_completed_stop
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.seeded_noise import gumbel
from cs336_sft.logprobs import compute_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ChooseToken(LogitsProcessor):
    """Turns raw scores ``[B, V]`` into scores whose argmax is the chosen token, and records what was asked for.

    The recorded numbers are of the model itself: temperature 1, before top-p and before end-of-text is forbidden.
    """

    def __init__(self, keys: torch.Tensor, eos_id: int, sampling: SamplingConfig) -> None:
        self.keys = keys  # int64 [B]
        self.eos_id = eos_id
        self.sampling = sampling
        self.top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 and sampling.temperature > 0 else None
        self.position = 0
        self.logprobs: list[torch.Tensor] = []  # one [B] a step
        self.entropies: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raw = scores
        if self.position < self.sampling.min_new_tokens:
            scores = scores.clone()
            scores[:, self.eos_id] = -torch.inf
        if self.sampling.temperature > 0:
            scores = scores / self.sampling.temperature
            if self.top_p is not None:
                scores = self.top_p(input_ids, scores)
            scores = scores + gumbel(self.keys, self.position, scores.shape[-1])
        if self.sampling.record_entropy:
            chosen = scores.argmax(-1, keepdim=True)
            self.logprobs.append(raw.log_softmax(-1).gather(-1, chosen).squeeze(-1))
            self.entropies.append(compute_entropy(raw))
        self.position += 1
        return scores


class StopStrings(StoppingCriteria):
    """Ends a row at the token that completes a stop string; remembers how many tokens that took.

    transformers has a StopStringCriteria of its own; it counts strings that were complete before ``min_new_tokens``,
    and does not say which string it found.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_length: int, eos_id: int, sampling: SamplingConfig):
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        self.eos_id = eos_id
        self.sampling = sampling
        # Only the tail needs decoding: a token holds at least one byte, and a character at most four.
        self.window = max(len(s.encode()) for s in sampling.stop) + 8
        self.ended: dict[int, int | None] = {}  # row -> generated tokens at the stop string, None: end-of-text

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: object) -> torch.Tensor:
        length = input_ids.shape[1] - self.prompt_length
        tails = input_ids[:, -min(self.window, length) :].tolist()
        for row, tail in enumerate(tails):
            if row in self.ended:
                continue
            if tail[-1] == self.eos_id:
                self.ended[row] = None
            elif length > self.sampling.min_new_tokens and find_completed_stop(
                self.tokenizer, tail, self.sampling.stop
            ):
                self.ended[row] = length
        done = [self.ended.get(row) is not None for row in range(len(tails))]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


@contextmanager
def evaluating(model: PreTrainedModel, generation_config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode, inference mode, and our generation settings alone; all put back afterwards.

    ``generate`` fills every field that we leave open from ``model.generation_config`` (a repetition penalty, a list
    of end-of-text ids, ...), so that one has to go for the time being. A wrapped model (PEFT) holds it twice.
    """
    training = [module for module in model.modules() if module.training]
    holders = [module for module in model.modules() if "generation_config" in vars(module)]
    saved = [holder.generation_config for holder in holders]
    model.eval()
    for holder in holders:
        holder.generation_config = generation_config
    try:
        with torch.inference_mode():
            yield
    finally:
        for holder, config in zip(holders, saved, strict=True):
            holder.generation_config = config
        for module in training:
            module.training = True  # module by module: parts that were frozen in evaluation mode stay there
