"""Code that runs inside vLLM's worker and takes new weights.

vLLM mixes `PolicySync` into its own worker class (``worker_extension_cls``), so that ``collective_rpc`` can call it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EXTENSION = "cs336_sft.generation.vllm_backend.worker.PolicySync"


class PolicySync:
    """The method that a worker gets; the attributes that it uses are the worker's."""

    def load_policy(self, path: str | None = None, weights: Iterable[tuple[str, torch.Tensor]] | None = None) -> None:
        """Replace all weights, by those of a folder or by the given ones."""
        self.reload_weights(weights_path=path, weights_iterator=None if weights is None else iter(weights))
        if self.device.type == "cpu":
            # On a CPU the output head multiplies with a packed copy of its weight. With tied embeddings that weight is
            # not loaded by a name of its own, so its copy is not renewed: the head would silently go on with the old.
            from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

            for module in self.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)
