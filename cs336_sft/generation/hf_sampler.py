"""The sampler that runs everywhere: ``generate`` of transformers, made independent of batch order and batch size.

Sampling is greedy search over ``logits / T + noise``, with keyed noise (`seeded_noise`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TopPLogitsWarper,
)

from cs336_sft.errors import ConfigError
from cs336_sft.generation.response_text import (
    check_context,
    decode_response,
    encode_prompts,
    end_of_text_ids,
    find_completed_stop,
    response_text,
)
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.seeded_noise import gumbel, row_key
from cs336_sft.logprobs import compute_entropy
from cs336_sft.model.loading import evaluation_mode
from cs336_sft.model.shape import context_length
from cs336_sft.records import Generation


class _Row(NamedTuple):
    prompt_index: int
    sample: int
    prompt_ids: tuple[int, ...]


class HFSampler(AbstractContextManager):
    """Continues prompts with a Hugging Face causal language model, on the device where the model is.

    The model is used in place: training it further needs no `update_weights`. ``batch_size`` counts rows (prompts times
    samples) generated together; by default 32 on a CPU, 64 elsewhere.
    Raises ConfigError: the tokenizer has no end-of-text token, or the model's configuration names only other ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None = None,
        *,
        progress: bool = False,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"HFSampler.batch_size is {batch_size}", "give at least 1")
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.progress = progress
        self.update_weights(model)

    def update_weights(self, model: PreTrainedModel) -> None:
        """Use this model from now on. The model itself is kept, not a copy."""
        self.eos_ids = end_of_text_ids(self.tokenizer, model.config, getattr(model, "generation_config", None))
        self.model = model

    def __exit__(self, *exception: object) -> None:
        """Do nothing: samplers with an engine of their own end it here."""

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """Generate ``sampling.num_samples`` continuations of each prompt, in order.

        Equal prompts get equal samples. Raises before anything runs DataError (a prompt is empty) or ContextLengthError
        (the longest prompt and max_new_tokens exceed the model's context).
        """
        encoded = encode_prompts(self.tokenizer, prompts)
        if not encoded:
            return []
        check_context(encoded, sampling.max_new_tokens, context_length(self.model.config))
        rows = [_Row(i, sample, ids) for i, ids in enumerate(encoded) for sample in range(sampling.num_samples)]
        rows.sort(key=lambda row: -len(row.prompt_ids))  # little padding; too large a batch fails at once, not late

        results: list[list[Generation | None]] = [[None] * sampling.num_samples for _ in prompts]
        batch_size = self.batch_size or (32 if self.model.device.type == "cpu" else 64)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(self.eos_ids),
            pad_token_id=self.eos_ids[0],  # the attention mask marks padding, the id does not matter
        )
        with (
            _only_settings_of(config, self.model),
            evaluation_mode(self.model),
            torch.inference_mode(),
            tqdm(total=len(rows), unit="row", disable=None if self.progress else True) as bar,
        ):
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                for row, generation in zip(batch, self._generate_batch(batch, prompts, config, sampling), strict=True):
                    results[row.prompt_index][row.sample] = generation
                bar.update(len(batch))
        return results

    def _generate_batch(
        self, batch: list[_Row], prompts: Sequence[str], config: GenerationConfig, sampling: SamplingConfig
    ) -> list[Generation]:
        device, width = self.model.device, len(batch[0].prompt_ids)  # the longest
        # Left padding: [B, width]. The mask comes from the lengths, because padding and end-of-text share an id.
        padding = [width - len(row.prompt_ids) for row in batch]
        ids = [[self.eos_ids[0]] * pad + list(row.prompt_ids) for pad, row in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        keys = [row_key(sampling.seed, row.prompt_ids, row.sample) for row in batch]

        choose = _ChooseToken(torch.tensor(keys, device=device), self.eos_ids, sampling)
        stop_strings = _StopStrings(self.tokenizer, width, self.eos_ids, sampling)
        output = self.model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=config,
            logits_processor=LogitsProcessorList([choose]),
            stopping_criteria=StoppingCriteriaList([stop_strings] if sampling.stop else []),
        )
        new_ids = output[:, width:].tolist()
        steps = len(new_ids[0])
        logprobs = entropies = [None] * len(batch)
        if sampling.record_entropy:  # B lists of `steps` numbers each
            logprobs, entropies = (torch.stack(x[:steps], 1).tolist() for x in (choose.logprobs, choose.entropies))
        generations = []
        for i, row in enumerate(batch):
            to_end_of_text = next((n for n, token in enumerate(new_ids[i], 1) if token in self.eos_ids), None)
            length = stop_strings.ended.get(i) or to_end_of_text
            kept = new_ids[i][:length]  # what follows is padding; all of it where the row did not end by itself
            text, stop_reason = decode_response(self.tokenizer, kept), None
            if length is not None:
                text, stop_reason = response_text(self.tokenizer, kept, self.eos_ids, sampling.stop)
            generations.append(
                Generation(
                    prompt=prompts[row.prompt_index],
                    token_ids=tuple(kept),
                    text=text,
                    finish_reason="length" if length is None else "stop",
                    stop_reason=stop_reason,
                    sample=row.sample,
                    logprobs=logprobs[i] and tuple(logprobs[i][:length]),
                    entropies=entropies[i] and tuple(entropies[i][:length]),
                )
            )
        return generations


class _ChooseToken(LogitsProcessor):
    """Turns raw scores ``[B, V]`` into scores whose argmax is the chosen token, and records it by the raw ones."""

    def __init__(self, keys: torch.Tensor, eos_ids: Sequence[int], sampling: SamplingConfig) -> None:
        self.keys = keys  # int64 [B]
        self.eos_ids = list(eos_ids)
        self.sampling = sampling
        self.top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 and sampling.temperature > 0 else None
        self.position = 0
        self.logprobs: list[torch.Tensor] = []  # one [B] a step
        self.entropies: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raw = scores
        if self.position < self.sampling.min_new_tokens:
            scores = scores.clone()
            scores[:, self.eos_ids] = -torch.inf
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


class _StopStrings(StoppingCriteria):
    """Ends a row at the token that completes a stop string; remembers how many tokens that took."""

    # transformers' StopStringCriteria counts strings that were complete before `min_new_tokens`, too.

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_length: int, eos_ids: Sequence[int], sampling: SamplingConfig
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        self.eos_ids = eos_ids
        self.sampling = sampling
        # Only the tail needs decoding: a token holds at least one byte, and a character at most four.
        self.window = max((len(s.encode()) for s in sampling.stop), default=0) + 8
        self.ended: dict[int, int | None] = {}  # row -> generated tokens at the stop string, None: end-of-text

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: object) -> torch.Tensor:
        length, stop = input_ids.shape[1] - self.prompt_length, self.sampling.stop
        tails = input_ids[:, -min(self.window, length) :].tolist()
        for row, tail in enumerate(tails):
            if row in self.ended:
                continue
            if tail[-1] in self.eos_ids:
                self.ended[row] = None
            elif length > self.sampling.min_new_tokens and find_completed_stop(self.tokenizer, tail, stop):
                self.ended[row] = length
        done = [self.ended.get(row) is not None for row in range(len(tails))]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


@contextmanager
def _only_settings_of(config: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's own generation settings, and restore them afterwards."""
    # `generate` fills every field that we leave open from them. A wrapped model (PEFT) holds them twice.
    holders = [module for module in model.modules() if "generation_config" in vars(module)]
    saved = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield
    finally:
        for holder, own in zip(holders, saved, strict=True):
            holder.generation_config = own
