"""The sampler that runs everywhere: ``generate`` of transformers, made independent of batch order and batch size.

    sampler = HFSampler(model, tokenizer)
    generations = sampler.generate(prompts, SamplingConfig(max_new_tokens=160, temperature=1.0, n=4, seed=0))

Sampling is greedy search over ``logits / T + noise``, with noise keyed by seed, prompt, sample and position
(`keyed_noise`): a sample does not change with the prompts beside it. In float32 this is exact up to logits that lie
within rounding error of each other; in bfloat16 rounding errors are larger and such near-ties come up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from cs336_sft.errors import ConfigError
from cs336_sft.generation.hf_hooks import ChooseToken, StopStrings, evaluating
from cs336_sft.generation.prompt_checks import check_context, check_end_of_text, encode_prompts
from cs336_sft.generation.response_text import StopMatch, decode_response, find_completed_stop
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.seeded_noise import row_key
from cs336_sft.records import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Row:
    """One sample of one prompt; a batch is a list of rows."""

    prompt_index: int
    sample: int
    prompt_ids: tuple[int, ...]


class HFSampler:
    """Continues prompts with a Hugging Face causal language model, on whatever device it lies.

    Prompts are tokenized without special tokens, as in training, and padded on the left. Generation ends at the
    tokenizer's end-of-text token, the one that fine-tuning appends; other ids that the model's own configuration may
    list as end-of-text are ordinary tokens here.

    Args:
        model: the model; used in place, so training it further needs no `update_weights`.
        tokenizer: its tokenizer. Its padding settings are neither used nor changed.
        batch_size: rows (prompts times samples) generated together. Default: 32 on a CPU, where larger batches of
            a small model run slower (the key-value cache outgrows the processor's), 64 elsewhere.
        progress: show a progress bar over rows.

    Raises:
        ConfigError: the tokenizer has no end-of-text token, or the model's configuration names another one.
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
        check_end_of_text(self.tokenizer, getattr(model.config, "eos_token_id", None))
        self.model = model

    def close(self) -> None:
        """Nothing to end here; samplers with an engine of their own end it."""

    def __enter__(self) -> HFSampler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """``sampling.n`` continuations of each prompt, in the order of the prompts.

        The same prompt twice in the list gives the same samples twice; ask for ``n=2`` to get different ones. The
        samples of ``n=2`` are the first two of ``n=4``.

        Raises:
            DataError: an empty prompt.
            ContextLengthError: the longest prompt and the limit together exceed the model's context; nothing ran.
        """
        encoded = encode_prompts(self.tokenizer, prompts)
        if not encoded:
            return []
        check_context(encoded, sampling.max_new_tokens, getattr(self.model.config, "max_position_embeddings", None))
        rows = [_Row(i, sample, ids) for i, ids in enumerate(encoded) for sample in range(sampling.n)]
        rows.sort(key=lambda row: -len(row.prompt_ids))  # little padding; too large a batch fails at once, not late

        results: list[list[Generation | None]] = [[None] * sampling.n for _ in prompts]
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,  # the mask below marks padding, the id does not matter
        )
        with (
            evaluating(self.model, config),
            tqdm(total=len(rows), unit="row", disable=None if self.progress else True) as bar,
        ):
            batch_size = self.batch_size or (32 if self.model.device.type == "cpu" else 64)
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                for row, generation in zip(batch, self._generate_batch(batch, prompts, config, sampling), strict=True):
                    results[row.prompt_index][row.sample] = generation
                bar.update(len(batch))
        return results

    def _generate_batch(
        self, batch: list[_Row], prompts: Sequence[str], config: GenerationConfig, sampling: SamplingConfig
    ) -> list[Generation]:
        device = self.model.device
        eos_id = self.tokenizer.eos_token_id
        width = max(len(row.prompt_ids) for row in batch)
        # Left padding: [B, width]. The mask comes from the lengths, because padding and end-of-text share an id.
        padding = [width - len(row.prompt_ids) for row in batch]
        ids = [[eos_id] * pad + list(row.prompt_ids) for pad, row in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        keys = [row_key(sampling.seed, row.prompt_ids, row.sample) for row in batch]

        choose = ChooseToken(torch.tensor(keys, device=device), eos_id, sampling)
        stop_strings = StopStrings(self.tokenizer, width, eos_id, sampling) if sampling.stop else None
        output = self.model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=config,
            logits_processor=LogitsProcessorList([choose]),
            stopping_criteria=StoppingCriteriaList([stop_strings] if stop_strings else []),
        )
        new_ids = output[:, width:].tolist()
        steps = len(new_ids[0])
        logprobs = torch.stack(choose.logprobs[:steps], 1).tolist() if sampling.record_entropy else None
        entropies = torch.stack(choose.entropies[:steps], 1).tolist() if sampling.record_entropy else None

        generations = []
        for i, row in enumerate(batch):
            stopped_at = stop_strings.ended.get(i) if stop_strings else None
            length, finished = _response_length(new_ids[i], eos_id, stopped_at)
            kept = new_ids[i][:length]
            text = decode_response(self.tokenizer, kept)
            match: StopMatch | None = None
            if stopped_at is not None:
                match = find_completed_stop(self.tokenizer, kept, sampling.stop)
                text = match.cut(text, sampling.include_stop_str_in_output) if match else text
            generations.append(
                Generation(
                    prompt=prompts[row.prompt_index],
                    token_ids=tuple(kept),
                    text=text,
                    finish_reason="stop" if finished else "length",
                    stop_reason=match.stop if match else None,
                    sample=row.sample,
                    logprobs=tuple(logprobs[i][:length]) if logprobs is not None else None,
                    entropies=tuple(entropies[i][:length]) if entropies is not None else None,
                )
            )
        return generations


def _response_length(new_ids: list[int], eos_id: int, stopped_at: int | None) -> tuple[int, bool]:
    """How many of a row's ids are its response, and whether it ended by itself. What follows is padding."""
    if stopped_at is not None:
        return stopped_at, True
    if eos_id in new_ids:
        return new_ids.index(eos_id) + 1, True
    return len(new_ids), False
