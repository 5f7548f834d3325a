"""Other ways to the log-probabilities and the entropy of a label, for ``logprobs_frontier.py``.

Each is a function ``(hidden [N, H], weight [V, H], labels [N]) -> (log_probs [N] or None, entropy [N] or None, mean
negative log-likelihood)`` that autograd can go back through. Packages are imported when a peer is made; what is missing
raises, and the benchmark notes the reason. verl is taken file by file, since importing the package starts Ray.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import ModuleSpec

import torch
import torch.nn.functional as F

Result = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]
Peer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Result]


def peers(on_gpu: bool) -> dict[str, Callable[[], Peer]]:
    """Name -> maker."""
    found: dict[str, Callable[[], Peer]] = {
        "student fp32": lambda: student(upcast=True),
        "TRL selective_log_softmax + entropy": trl_full,
        "TRL chunked head": trl_chunked,
        "verl torch": verl_torch,
        "torch linear_cross_entropy (loss only)": torch_linear_cross_entropy,
    }
    if on_gpu:
        found |= {
            "student fp32, logits from a float32 product": lambda: student(upcast=True, wide_product=True),
            "student bf16": lambda: student(upcast=False),
            "verl Triton": verl_triton,
            "Liger scaled CE (torch path)": liger_scaled,
            "Liger fused linear CE (loss only)": liger_fused,
            "cut-cross-entropy (loss only)": lambda: cut_cross_entropy("cce"),
            "cut-cross-entropy compiled (loss only)": lambda: cut_cross_entropy("torch_compile"),
        }
    return found


def versions() -> dict[str, str | None]:
    """Of the packages compared."""
    found = {}
    for name in ("torch", "triton", "trl", "verl", "liger-kernel", "cut-cross-entropy", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


class _WideProduct(torch.autograd.Function):
    """bfloat16 operands, float32 logits; gradients as autograd would make them, from logit gradients in bfloat16."""

    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(hidden, weight)
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):
        hidden, weight = ctx.saved_tensors
        gradient = gradient.to(hidden.dtype)
        return gradient @ weight, gradient.T @ hidden


def student(*, upcast: bool, wide_product: bool = False) -> Peer:
    """The version of the notes, from the logits on; in half precision the logits are rounded, then upcast."""

    def run(hidden, weight, labels) -> Result:
        logits = _WideProduct.apply(hidden, weight) if wide_product else hidden @ weight.T
        if upcast:
            logits = logits.float()
        log_probs = F.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            probs = torch.softmax(logits, dim=-1)
            log_p = torch.log_softmax(logits, dim=-1)
            entropy = -(probs * log_p).sum(dim=-1)
        return log_probs, entropy, -log_probs.mean()

    return run


def trl_full() -> Peer:
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    def run(hidden, weight, labels) -> Result:
        logits = (hidden @ weight.T).unsqueeze(0)
        log_probs = selective_log_softmax(logits, labels.unsqueeze(0)).squeeze(0)
        with torch.no_grad():
            entropy = entropy_from_logits(logits).squeeze(0)
        return log_probs, entropy, -log_probs.mean()

    return run


def trl_chunked() -> Peer:
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    def run(hidden, weight, labels) -> Result:
        log_probs, entropy, *_ = ChunkedLogProbFunction.apply(
            hidden, weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs", "entropy")
        )
        return log_probs, entropy.detach(), -log_probs.mean()

    return run


def _verl_file(path: str) -> types.ModuleType:
    """One module of verl, without its package's own imports."""
    root = importlib.util.find_spec("verl")
    if root is None:
        raise ModuleNotFoundError("No module named 'verl'")
    folder = root.submodule_search_locations[0]
    for name in ("verl", "verl.utils", "verl.utils.kernel", "verl.utils.experimental"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [folder + name.removeprefix("verl").replace(".", "/")]
            package.__spec__ = ModuleSpec(name, None, is_package=True)
            package.__spec__.submodule_search_locations = package.__path__
            sys.modules[name] = package
    device = types.ModuleType("verl.utils.device")
    device.is_cuda_available = torch.cuda.is_available()
    device.get_device_name = lambda: "cuda" if device.is_cuda_available else "cpu"
    device.get_device_capability = lambda index=0: torch.cuda.get_device_capability(index)
    device.get_torch_device = lambda: torch.cuda
    sys.modules["verl.utils.device"] = device
    return importlib.import_module(path)


def verl_torch() -> Peer:
    module = _verl_file("verl.utils.experimental.torch_functional").FusedLinearForPPO()

    def run(hidden, weight, labels) -> Result:
        log_probs, entropy = module(hidden.unsqueeze(0), weight, labels.unsqueeze(0))
        return log_probs.squeeze(0), entropy.squeeze(0).detach(), -log_probs.mean()

    return run


def verl_triton() -> Peer:
    function = _verl_file("verl.utils.kernel.linear_cross_entropy").linear_cross_entropy

    def run(hidden, weight, labels) -> Result:
        log_probs, entropy = function(hidden, weight, labels, 1.0, "none", None)
        # Its backward has no form without a gradient of the entropy; this one is zero.
        return log_probs, entropy.detach(), -log_probs.mean() + 0.0 * entropy.sum()

    return run


def torch_linear_cross_entropy() -> Peer:
    """PyTorch's own, from 2.13 on: no log-probabilities, no entropy, and a loss in the dtype of its operands."""
    options = torch.nn.LinearCrossEntropyOptions()

    def run(hidden, weight, labels) -> Result:
        return None, None, F.linear_cross_entropy(hidden, weight, labels, options=options)

    return run


def liger_scaled() -> Peer:
    # Its path in PyTorch: the one for Hopper needs NVIDIA's CuTe DSL.
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import _FusedLinearPPOFallbackFunction

    def run(hidden, weight, labels) -> Result:
        nll, entropy = _FusedLinearPPOFallbackFunction.apply(hidden, weight, labels, 1.0, -100, True)
        return -nll, entropy.detach(), nll.mean()

    return run


def liger_fused() -> Peer:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    def run(hidden, weight, labels) -> Result:
        found = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, labels)
        return None, None, found[0] if isinstance(found, tuple) else found

    return run


def cut_cross_entropy(kind: str) -> Peer:
    from cut_cross_entropy import linear_cross_entropy

    def run(hidden, weight, labels) -> Result:
        return None, None, linear_cross_entropy(hidden, weight, labels, impl=kind)

    return run
