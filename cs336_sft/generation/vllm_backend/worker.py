"""What runs inside vLLM's worker: taking new weights, and handing out recorded numbers.

vLLM mixes `PolicySync` into its own worker class (``worker_extension_cls``), so that ``collective_rpc`` can call it.
All use of vLLM's internals for the weights is in this module; ``make test-vllm`` compares its result with Hugging
Face's outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EXTENSION = "cs336_sft.generation.vllm_backend.worker.PolicySync"


class PolicySync:
    """The methods that a worker gets."""

    def load_policy(self, path: str | None = None, weights: Iterable[tuple[str, torch.Tensor]] | None = None) -> None:
        """Replace all weights, by tensors (an engine in the trainer's process) or from a folder of safetensors."""
        load_policy_on_worker(self, path, weights)

    def take_records(self) -> list[tuple[list[int], list[int], list[list[float]]]]:
        """What `KeyedSampling` has recorded since the last call; plain numbers, which any channel carries."""
        from cs336_sft.generation.vllm_backend.logits_processor import KeyedSampling

        records = []
        for processor in self.model_runner.input_batch.logitsprocs.all:  # type: ignore[attr-defined]
            if isinstance(processor, KeyedSampling):
                records += processor.take_records()
        return records


def load_policy_on_worker(
    worker: Any, path: str | None = None, weights: Iterable[tuple[str, torch.Tensor]] | None = None
) -> None:
    """`PolicySync.load_policy` for a worker without it; in the trainer's process a function can be sent."""
    if weights is not None:
        worker.reload_weights(weights_iterator=iter(weights))
    else:
        worker.reload_weights(weights_path=path)
    if worker.device.type == "cpu":
        # On a CPU the output head multiplies with a packed copy of its weight. With tied embeddings nobody loads that
        # weight by its own name, so nobody packs it anew: the head would go on with the old one, without any error.
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        for module in worker.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def forget_reloads() -> None:
    """Let go of what vLLM remembers of reloaded layers: it would keep a closed engine's weights alive for ever."""
    from vllm.model_executor.model_loader.reload import layerwise

    # A dictionary with weak keys, whose values hold the weight loaders, which are methods of those very layers.
    layerwise.LAYERWISE_INFO.clear()
