"""The sampler for GPUs: vLLM behind the same interface, and with the same samples, as the Hugging Face one.

    with VLLMSampler("runs/first/final", tokenizer, VLLMConfig(max_model_len=2048)) as sampler:
        generations = sampler.generate(prompts, SamplingConfig(max_new_tokens=512, temperature=1.0, n=4, seed=0))
        ...                             # optimizer steps
        sampler.update_weights(model)   # without it the next generate raises StaleEngineError

Prompts are tokenized here and go to the engine as ids; the answers come back as ids and are decoded here. So both
samplers see the same tokens, stop at the same end-of-text token, and cut their texts by the same rule. The samples are
the same up to rounding: equal in float32 on a CPU, but for near-ties on a GPU, whose kernels differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from cs336_sft.errors import ConfigError, ContextLengthError, CourseError, EngineDiedError, StaleEngineError
from cs336_sft.generation.prompt_checks import check_end_of_text, encode_prompts
from cs336_sft.generation.response_text import decode_response, find_completed_stop
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.seeded_noise import row_key
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import (
    EngineOutput,
    EngineRequest,
    VLLMEngine,
    finished_output,
    run_all,
    start_engine,
)
from cs336_sft.generation.vllm_backend.parity import Parity, check, compare
from cs336_sft.generation.vllm_backend.weights import WeightWatch, policy_tensors, unwrap
from cs336_sft.records import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PARITY_PROMPTS = (
    "Question: Tom has 3 boxes of 12 pencils. How many pencils does he have?\nAnswer:",
    "The capital of France is",
    "1, 2, 3, 4,",
    "Once upon a time",
)
_PARITY_TOKENS = 16


class VLLMSampler:
    """Continues prompts with vLLM.

    Differences to `HFSampler`: it holds a copy of the weights, so a model that is trained further has to be given to
    `update_weights` again; and the engine computes in its own data type (``config.dtype``). In float32 the samples are
    the same, up to logits that lie within rounding error of each other.

    Args:
        source: folder or hub name of the weights to start with.
        tokenizer: the one that training uses. Its end-of-text token ends a generation, whatever ``source`` says.
        config: the engine's settings.
        progress: show a progress bar over samples.
        engines: running engines, in place of ones started here.

    Attributes:
        policy_version: 0 for the weights of ``source``, one more after each `update_weights`.

    Raises:
        ConfigError: vLLM is missing or does not start; the tokenizer's end-of-text is not the model's.
        CourseError: another engine lives in this process.
    """

    def __init__(
        self,
        source: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        config: VLLMConfig | None = None,
        *,
        progress: bool = False,
        engines: Sequence[VLLMEngine] | None = None,
    ) -> None:
        self.tokenizer, self.config, self.progress = tokenizer, config or VLLMConfig(), progress
        check_end_of_text(tokenizer, None)
        self.engines: list[VLLMEngine] = list(engines or [])
        if not self.engines:
            self._start(source)
        self.policy_version = 0
        self._watch: WeightWatch | None = None
        self._outdated: str | None = None  # why the engine must not generate, beyond what the watch sees
        self._asleep = False
        try:
            check_end_of_text(tokenizer, getattr(self.engines[0].llm.model_config.hf_config, "eos_token_id", None))
        except ConfigError:
            self.close()
            raise

    def _start(self, source: str | Path) -> None:
        from transformers import AutoConfig

        from cs336_sft.model.loading import check_model_source

        source = check_model_source(source)
        # vLLM looks for stop strings with a tokenizer of its own: give it ours.
        with tempfile.TemporaryDirectory(prefix="cs336-tokenizer-") as folder:
            self.tokenizer.save_pretrained(folder)
            AutoConfig.from_pretrained(source, trust_remote_code=False).save_pretrained(folder)  # vLLM looks for it
            try:
                for devices in self.config.device_groups():
                    self.engines.append(start_engine(source, self.config, tokenizer=folder, devices=devices))
            except BaseException:
                self.close()
                raise

    # --- generation

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together that the engine can hold."""
        return self.engines[0].max_model_len

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """``sampling.n`` continuations of each prompt, in the order of the prompts; see `HFSampler.generate`.

        Raises:
            ContextLengthError: a prompt and the limit together exceed ``max_model_len``; nothing ran.
            StaleEngineError: the model of the last `update_weights` was trained since.
            EngineDiedError: the engine failed; the error carries the generations that were finished.
            ConfigError: ``record_entropy`` together with ``min_new_tokens`` and stop strings.
        """
        encoded = encode_prompts(self.tokenizer, prompts)
        self._check_open()
        self._check_fresh()
        if not encoded:
            return []
        check_engine_context(encoded, sampling.max_new_tokens, self.max_model_len)
        if sampling.record_entropy and sampling.min_new_tokens and sampling.stop:
            raise ConfigError(
                "record_entropy with min_new_tokens and stop strings: vLLM forbids end-of-text before the "
                "distribution can be recorded",
                "leave out one of the three, or use the Hugging Face sampler",
            )
        self.wake()
        n = sampling.n
        requests = [
            EngineRequest(index * n + sample, ids, row_key(sampling.seed, ids, sample))
            for index, ids in enumerate(encoded)
            for sample in range(n)
        ]
        results: list[list[Generation | None]] = [[None] * n for _ in prompts]
        outputs = self._run(requests, sampling, results, prompts)
        if sampling.record_entropy:
            self._add_records(outputs, results, prompts, sampling)
        if self.config.auto_sleep:
            self.sleep()
        return results

    def _run(
        self,
        requests: list[EngineRequest],
        sampling: SamplingConfig,
        results: list[list[Generation | None]],
        prompts: Sequence[str],
    ) -> list[EngineOutput]:
        """Run the requests and fill ``results`` as they finish."""
        outputs = []
        eos_id = self.tokenizer.eos_token_id
        try:
            for number, engine in enumerate(self.engines):
                engine.submit(requests[number :: len(self.engines)], sampling, eos_id)
            with tqdm(total=len(requests), unit="sample", disable=not self.progress) as bar:
                for output in map(finished_output, run_all(self.engines)):
                    index, sample = divmod(output.number, sampling.n)
                    results[index][sample] = self._generation(output, prompts[index], sample, sampling)
                    outputs.append(output)
                    bar.update()
        except KeyboardInterrupt:
            for engine in self.engines:
                engine.abort_all()
            raise
        except Exception as error:
            self._outdated = f"it failed: {type(error).__name__}"
            raise EngineDiedError(
                f"vLLM failed after {len(outputs)} of {len(requests)} samples ({type(error).__name__}: {error})",
                "start another engine (close this one first) and generate what is missing; "
                "the finished samples are in the error's `generations`",
                results,
            ) from error
        return outputs

    def _generation(self, output: EngineOutput, prompt: str, sample: int, sampling: SamplingConfig) -> Generation:
        text, stop_reason = decode_response(self.tokenizer, output.token_ids), None
        if output.reason == "stop" and output.token_ids[-1] != self.tokenizer.eos_token_id:
            stop_reason = str(output.stop_reason)
            match = find_completed_stop(self.tokenizer, output.token_ids, sampling.stop)
            if match is not None:
                text, stop_reason = match.cut(text, sampling.include_stop_str_in_output), match.stop
            else:  # found across characters that decode differently piece by piece: vLLM's own cut
                text = output.text if sampling.include_stop_str_in_output else output.text.removesuffix(stop_reason)
        return Generation(prompt, output.token_ids, text, output.reason, stop_reason, sample)

    def _add_records(
        self,
        outputs: list[EngineOutput],
        results: list[list[Generation | None]],
        prompts: Sequence[str],
        sampling: SamplingConfig,
    ) -> None:
        records = {}
        for engine in self.engines:
            records |= engine.take_records()
        for output in outputs:
            index, sample = divmod(output.number, sampling.n)
            values = [records[output.number, position] for position in range(len(output.token_ids))]
            results[index][sample] = replace(
                results[index][sample],
                logprobs=tuple(logprob for logprob, _ in values),
                entropies=tuple(entropy for _, entropy in values),
            )

    # --- weights

    def update_weights(self, model: PreTrainedModel) -> None:
        """Copy the model's weights into the engine; ``model`` may be compiled, wrapped by accelerate, or a PEFT model.

        Raises:
            ConfigError: the model does not fit the engine's, or its end-of-text is not the tokenizer's.
            EngineMismatchError: ``config.check_parity`` is on and the engine's outputs are not the model's.
        """
        self._check_open()
        check_end_of_text(self.tokenizer, getattr(unwrap(model).config, "eos_token_id", None))
        if self._asleep:
            self._each(lambda engine: engine.wake(["weights"]))
        watch = WeightWatch(model)
        tensors = policy_tensors(model)
        self._outdated = "a weight sync was cut short"
        with torch.no_grad():
            self._each(lambda engine: engine.load_policy(tensors))
        if self._asleep:
            self._each(lambda engine: engine.wake(["kv_cache"]))
            self._asleep = False
        self._outdated, self._watch = None, watch
        self.policy_version += 1
        if self.config.check_parity:
            for engine in self.engines:
                check(self._parity(engine, model, _PARITY_PROMPTS, _PARITY_TOKENS), engine.dtype)

    def mark_stale(self) -> None:
        """Say that the policy has changed: `generate` raises until the next `update_weights`.

        Rarely needed: changes of the model that was given last are noticed by themselves.
        """
        self._outdated = "the policy was said to have changed"

    def parity(
        self, model: PreTrainedModel, prompts: Sequence[str] = _PARITY_PROMPTS, max_new_tokens: int = _PARITY_TOKENS
    ) -> Parity:
        """Compare greedy tokens and their log-probabilities with the model's own."""
        self._check_open()
        self.wake()
        return self._parity(self.engines[0], model, prompts, max_new_tokens)

    def _parity(
        self, engine: VLLMEngine, model: PreTrainedModel, prompts: Sequence[str], max_new_tokens: int
    ) -> Parity:
        return compare(engine.greedy, unwrap(model), encode_prompts(self.tokenizer, prompts), max_new_tokens)

    def _check_fresh(self) -> None:
        changed = self._watch.changed() if self._watch is not None else None
        if self._outdated is not None or changed is not None:
            raise StaleEngineError(
                f"the engine holds policy version {self.policy_version}: "
                + (self._outdated or f"the model was changed since (parameter {changed})"),
                "call update_weights(model) before generating",
            )

    # --- memory

    def sleep(self, level: int = 1) -> None:
        """Free the card: the key-value cache goes, the weights move to the host (level 1) or go too (level 2).

        After level 2 the weights have to be pushed before the next `generate`. Needs ``VLLMConfig(sleep=True)``.
        On a CPU vLLM has no such mode: nothing is freed there.
        """
        self._check_open()
        if level not in (1, 2):
            raise ConfigError(f"sleep level {level}", "give 1 (weights to the host) or 2 (weights dropped)")
        if not self.config.can_sleep:
            raise ConfigError("this engine can't sleep", "start it with VLLMConfig(sleep=True)")
        if not self._asleep:
            self._each(lambda engine: engine.sleep(level))
            self._asleep = True
        if level == 2:
            self._outdated = "its weights were dropped by sleep(level=2)"

    def wake(self) -> None:
        """Take the memory again. `generate` and `update_weights` do it by themselves."""
        if self._asleep:
            self._each(lambda engine: engine.wake())
            self._asleep = False

    def _each(self, do: Callable[[VLLMEngine], None]) -> None:
        for engine in self.engines:
            do(engine)

    def _check_open(self) -> None:
        if not self.engines:
            raise CourseError("this sampler is closed", "make a new one")

    def close(self) -> None:
        """End the engine and give its memory back. A second call does nothing."""
        while self.engines:
            self.engines.pop().close()

    def __enter__(self) -> VLLMSampler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_engine_context(encoded: Sequence[Sequence[int]], max_new_tokens: int, max_model_len: int) -> None:
    """Every prompt must have room for the whole limit: vLLM would cut the answer short and call it ``length``.

    Raises:
        ContextLengthError: names how many prompts are too long and both values that can be changed.

    >>> check_engine_context([(1,) * 300, (1,) * 20], max_new_tokens=1024, max_model_len=1200)
    Traceback (most recent call last):
        ...
    cs336_sft.errors.ContextLengthError: 1 of 2 prompts (the longest is prompt 0, 300 tokens) with max_new_tokens=1024 exceed the engine's max_model_len=1200. Remedy: raise max_model_len to at least 1324, or lower max_new_tokens to at most 900.
    """  # noqa: E501
    lengths = [len(ids) for ids in encoded]
    longest = max(lengths)
    over = sum(length + max_new_tokens > max_model_len for length in lengths)
    if over:
        lower = (
            f"or lower max_new_tokens to at most {max_model_len - longest}"
            if longest < max_model_len
            else f"or shorten the prompts to less than {max_model_len} tokens"
        )
        raise ContextLengthError(
            f"{over} of {len(lengths)} prompts (the longest is prompt {lengths.index(longest)}, {longest} tokens) "
            f"with max_new_tokens={max_new_tokens} exceed the engine's max_model_len={max_model_len}",
            f"raise max_model_len to at least {longest + max_new_tokens}, {lower}",
        )
