"""The sampler for GPUs: vLLM with the same interface as the Hugging Face one.

Prompts are tokenized and responses decoded here, so both samplers see the same tokens and cut texts by the same rule.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cs336_sft.errors import CourseError, EngineDiedError, StaleEngineError
from cs336_sft.generation.response_text import (
    check_context,
    decode_response,
    encode_prompts,
    end_of_text_ids,
    response_text,
)
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.seeded_noise import row_key
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import VLLMEngine, chosen_logprobs, collect, sampling_params, start_engine
from cs336_sft.generation.vllm_backend.weights import WeightWatch, policy_tensors
from cs336_sft.model.loading import check_model_source
from cs336_sft.model.output_head import unwrapped
from cs336_sft.records import Generation


class VLLMSampler(AbstractContextManager):
    """Continues prompts with vLLM, whose random numbers are its own, with a seed for each sample.

    It holds a copy of the weights, so a model that is trained further has to be given to `update_weights` again. It
    records log-probabilities but no entropies. ``source`` is the folder or hub name of the weights to start with;
    ``policy_version`` counts the calls of `update_weights`. ``engine`` is a running one, instead of one started here.
    """

    def __init__(
        self,
        source: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        config: VLLMConfig | None = None,
        *,
        progress: bool = False,
        engine: VLLMEngine | None = None,
    ) -> None:
        self.tokenizer, self.config, self.progress = tokenizer, config or VLLMConfig(), progress
        configs = _configurations(check_model_source(source)) if engine is None else (engine.hf_config, None)
        self.eos_ids = end_of_text_ids(tokenizer, *configs)
        self.policy_version = 0
        self._watch: WeightWatch | None = None
        self._outdated: str | None = None  # why the engine must not generate, apart from what the watch notices
        self._asleep = False
        self._engine: VLLMEngine | None = engine or self._start(source, configs[0])

    def _start(self, source: str | Path, config: PretrainedConfig) -> VLLMEngine:
        # vLLM looks for stop strings with a tokenizer of its own: give it ours, and the configuration that it expects.
        with tempfile.TemporaryDirectory(prefix="cs336-tokenizer-") as folder:
            self.tokenizer.save_pretrained(folder)
            config.save_pretrained(folder)
            return start_engine(source, self.config, tokenizer=folder)

    @property
    def engine(self) -> VLLMEngine:
        """Return the running engine. CourseError: the sampler is closed."""
        if self._engine is None:
            raise CourseError("this sampler is closed", "make a new one")
        return self._engine

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """Generate ``sampling.num_samples`` continuations of each prompt, in order.

        Raises ContextLengthError (a prompt and max_new_tokens together exceed ``max_model_len``), StaleEngineError (the
        model of the last `update_weights` was trained since), or EngineDiedError, with the finished generations.
        """
        encoded = encode_prompts(self.tokenizer, prompts)
        engine, reason = self.engine, self._outdated
        if reason is None and self._watch is not None and (changed := self._watch.changed()) is not None:
            reason = f"the model was changed since (parameter {changed})"
        if reason is not None:
            problem = f"the engine holds policy version {self.policy_version}: {reason}"
            raise StaleEngineError(problem, "call update_weights(model) before generating")
        if not encoded:
            return []
        # vLLM by itself would cut the response short and call it "length".
        check_context(encoded, sampling.max_new_tokens, engine.max_model_len, "max_model_len")
        self.wake()
        numbers = [(index, sample) for index in range(len(prompts)) for sample in range(sampling.num_samples)]
        requests = []
        for index, sample in numbers:
            # vLLM gives equal samples to equal prompts with equal seeds, and reads -1 as "no seed".
            seed = row_key(sampling.seed, encoded[index], sample) & (2**63 - 1)
            requests.append((encoded[index], sampling_params(sampling, self.eos_ids, seed)))
        results: list[list[Generation | None]] = [[None] * sampling.num_samples for _ in prompts]

        def store(number: int, output: Any) -> None:
            index, sample = numbers[number]
            results[index][sample] = self._generation(output, prompts[index], sample, sampling)
            bar.update()

        try:
            with tqdm(total=len(numbers), unit="sample", disable=not self.progress) as bar:
                collect(engine, requests, store, results)
        except EngineDiedError as error:
            self._outdated = f"it failed: {type(error.__cause__).__name__}"
            raise
        if self.config.sleep:
            self.sleep()
        return results

    def _generation(self, output: Any, prompt: str, sample: int, sampling: SamplingConfig) -> Generation:
        (completion,) = output.outputs
        reason, ids = completion.finish_reason, tuple(completion.token_ids)
        if reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with {reason!r}")
        text, stop_reason = decode_response(self.tokenizer, ids), None
        if reason == "stop":
            text, stop_reason = response_text(self.tokenizer, ids, self.eos_ids, sampling.stop)
            if stop_reason is None and ids[-1] not in self.eos_ids:
                # Found across characters that decode differently piece by piece: vLLM's own cut.
                stop_reason, text = str(completion.stop_reason), completion.text
        return Generation(prompt, ids, text, reason, stop_reason, sample, chosen_logprobs(completion))

    def update_weights(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model into the engine. ConfigError: they do not fit."""
        engine, inner = self.engine, unwrapped(model)
        eos_ids = end_of_text_ids(self.tokenizer, inner.config, getattr(inner, "generation_config", None))
        self.wake()
        watch = WeightWatch(model)
        tensors = policy_tensors(model)
        self._outdated = "a weight sync was cut short"
        with torch.no_grad():
            engine.load_policy(tensors)
        self._outdated, self._watch, self.eos_ids = None, watch, eos_ids
        self.policy_version += 1

    def sleep(self) -> None:
        """Free the key-value cache and move the weights to the host's memory."""
        if not self._asleep:
            self.engine.llm.sleep(level=1)
            self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            self.engine.llm.wake_up()
            self._asleep = False

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __exit__(self, *exception: object) -> None:
        self.close()


def _configurations(source: str | Path) -> tuple[PretrainedConfig, GenerationConfig | None]:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    try:
        return config, GenerationConfig.from_pretrained(source)
    except OSError:  # it has none
        return config, None
