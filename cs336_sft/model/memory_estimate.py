"""How much memory a training step takes: an estimate from a model's shape, term by term and moment by moment.

Weights, gradients and states: Rajbhandari et al. 2020, "ZeRO", section 3. Activations: Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", section 4. The peak is a moment, not a sum. Not in it:
the CUDA context (about half a GB), scratch space of kernels, and fragmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cs336_sft.errors import ConfigError
from cs336_sft.model.shape import ModelShape
from cs336_sft.utils.validation import check_choice, check_counts

Precision = Literal["fp32", "mixed", "bf16"]
MethodName = Literal["naive", "naive_with_graph", "log_softmax", "logsumexp", "chunked", "one_pass"]
Adapter = Literal["none", "lora", "qlora"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
METHODS: tuple[str, ...] = get_args(MethodName)
ADAPTERS: tuple[str, ...] = get_args(Adapter)

# Bytes of one parameter as (weight, gradient, AdamW's two states), and of one activation.
_PARAMETER_BYTES = {"fp32": (4, 4, 8), "mixed": (4, 4, 8), "bf16": (2, 2, 4)}
_ACTIVATION_BYTES = {"fp32": 4, "mixed": 2, "bf16": 2}
# float32 tensors [positions, V] that are alive at once, at the worst moment of the forward and of the backward.
_LOGITS_COPIES = {
    "naive": (5, 3),  # logits, the loss's log-softmax, softmax, log-softmax, their product
    "naive_with_graph": (5, 5),
    "log_softmax": (3, 3),
    "logsumexp": (2, 5),  # autograd makes softmax and gradients again: no better in the backward
    "chunked": (2, 5),  # of one chunk
}
# Rows at a time of `one_pass_loss`, and bytes of each of their logits; with the kernel for bfloat16 on a GPU, too.
_ONE_PASS_CPU, _ONE_PASS_GPU, _ONE_PASS_KERNEL = (128, 8), (1024, 8), (1536, 2)
# NF4 with double quantisation (Dettmers et al. 2023, "QLoRA"): 4 bits, 8 bits per 64 weights, 32 bits per 64 * 256.
_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True)
class StepSetup:
    """What a training step does, as far as its memory depends on it.

    ``mixed`` keeps weights, gradients and states in float32 under bfloat16 autocast, ``bf16`` all in bfloat16. Adapters
    train in ``mixed`` over frozen bfloat16 (``qlora``: 4-bit) weights; their activations are rough.
    """

    micro_batch_size: int  # sequences that go through the model at once
    seq_len: int  # positions of each, with padding
    precision: Precision = "mixed"
    method: MethodName = "one_pass"  # what train_sft does; the others are in logprob_variants
    chunk: int = 1024  # positions whose logits exist at once, for "chunked"
    gradient_checkpointing: bool = False  # each layer keeps its input alone (Chen et al. 2016)
    grad_accumulation: bool = False  # gradients of an earlier micro-batch are there already
    device: Literal["cuda", "cpu"] = "cuda"  # makes a difference for "one_pass" alone
    adapter: Adapter = "none"
    lora_r: int = 16

    def __post_init__(self) -> None:
        check_counts(self, "micro_batch_size", "seq_len", "chunk", "lora_r")
        check_choice(self, "precision", PRECISIONS)
        check_choice(self, "method", METHODS)
        check_choice(self, "adapter", ADAPTERS)
        check_choice(self, "device", ("cuda", "cpu"))
        if self.adapter != "none" and self.precision != "mixed":
            problem = f"{self.adapter} with precision {self.precision!r}"
            raise ConfigError(problem, "choose precision 'mixed' for adapters")

    @property
    def tokens(self) -> int:
        return self.micro_batch_size * self.seq_len


@dataclass(frozen=True)
class MemoryEstimate:
    model: str
    setup: StepSetup
    terms: Mapping[str, int]  # what there is, each at its own largest; they are never all there at once
    moments: Mapping[str, int]  # bytes alive at each moment of the step, in order

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=lambda name: self.moments[name])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"peak": self.peak, "peak_moment": self.peak_moment}


def estimate_memory(shape: ModelShape, setup: StepSetup) -> MemoryEstimate:
    """Estimate the bytes of a training step with AdamW and a logged entropy.

    >>> from cs336_sft.model.shape import known_shape
    >>> estimate = estimate_memory(known_shape("Qwen/Qwen2.5-1.5B"), StepSetup(12, 1023, "bf16", "naive"))
    >>> format_bytes(estimate.terms["logits"])
    '37.3 GB'
    """
    n, h, checkpointed = setup.tokens, shape.hidden, setup.gradient_checkpointing
    act = _ACTIVATION_BYTES[setup.precision]
    weights, gradients, states, head_gradient = _parameter_terms(shape, setup)
    layers_gradients = (gradients - (1 if shape.tied else 2) * head_gradient) * (shape.layers - 1) // shape.layers
    # Autocast makes bfloat16 copies of float32 matrices and keeps them for the backward; frozen ones are bfloat16.
    casts = setup.precision == "mixed" and setup.adapter == "none"
    layer_copies, head_copy = (2 * shape.layer_matrices, 2 * shape.embedding) if casts else (0, 0)

    layer = n * _layer_activations(shape, setup) + layer_copies // shape.layers
    residual = n * h * (2 if setup.precision == "bf16" else 4)  # a layer's input
    around = n * _norm_bytes(shape, setup.precision, reads=1) + 2 * setup.seq_len * shape.head_dim * act  # sin, cos
    per_layer = residual if checkpointed else layer
    activations = shape.layers * per_layer + around
    head = _head_bytes(shape, setup, head_copy, trains=head_gradient > 0)

    resident = weights + states + (gradients if setup.grad_accumulation else 0)
    new = 0 if setup.grad_accumulation else 1  # whether gradients are made by this backward, or there already
    # In an MLP's backward two gradients of its width are alive, and the gradient of its last matrix.
    in_layer = act * n * (2 * shape.intermediate + h) + (0 if setup.adapter != "none" else act * h * shape.intermediate)
    recomputed = layer if checkpointed else 0
    # The gradient of a tied head waits for the embedding's, which is dense, and autograd adds the two into a third.
    held = head_gradient if new or shape.tied else 0
    embedding_backward = (3 - new) * head_gradient if shape.tied else (1 - new) * head_gradient
    moments = {
        # Autocast's copies live at least as long as its block, even those that checkpointing does not keep.
        "forward: layers": activations + (layer_copies if checkpointed else 0),
        "forward: logits": activations + head.forward + (layer_copies if checkpointed and head.inside else 0),
        "backward: logits": activations + head.backward,
        "backward: head": activations + head.products + head.waiting,
        "backward: last layer": activations - around + recomputed + in_layer + held + head.waiting,
        "backward: first layer": per_layer + recomputed + in_layer + held + new * layers_gradients + head.waiting,
        "backward: embedding": new * gradients + embedding_backward + head.waiting,
        "update": new * gradients,
    }
    terms = {
        "weights": weights,
        "gradients": gradients,
        "optimizer states": states,
        "weights in bfloat16 for autocast": layer_copies + head_copy,
        "activations": activations - (layer_copies if not checkpointed else 0),
        "one layer, recomputed": recomputed - (layer_copies // shape.layers if checkpointed else 0),
        "logits": head.logits,
    }
    return MemoryEstimate(
        model=shape.name,
        setup=setup,
        terms={name: size for name, size in terms.items() if size},
        moments={name: resident + size for name, size in moments.items()},
    )


@dataclass(frozen=True)
class _HeadBytes:
    forward: int
    backward: int  # of the loss
    products: int  # in the head's backward
    waiting: int  # to the end of the backward
    logits: int
    inside: bool  # the head runs inside autocast's block, while the layers' copies are alive


def _head_bytes(shape: ModelShape, setup: StepSetup, copy: int, trains: bool) -> _HeadBytes:
    n, vocab, act = setup.tokens, shape.vocab, _ACTIVATION_BYTES[setup.precision]
    of_hidden, of_weight = n * shape.hidden, shape.embedding * trains  # entries of the gradients
    if setup.method == "one_pass":
        kernel = setup.device == "cuda" and act == 2
        chunk, size = _ONE_PASS_KERNEL if kernel else _ONE_PASS_GPU if setup.device == "cuda" else _ONE_PASS_CPU
        rows = min(n, chunk)
        logits = size * rows * vocab
        peak = logits
        if not kernel:
            # Half-precision operands want the gradient so too; a CPU widens 8,192 columns at a time for their products.
            narrow, scratch = (2, 4 * min(vocab, 8192) * (shape.hidden + rows)) if act == 2 else (0, 0)
            # The loop's name for a chunk's gradient holds it until the next one is there.
            before = act * (n > rows)
            peak = max((size + narrow + before) * rows * vocab, (4 + act) * rows * vocab + scratch)
        sums = 4 * of_weight + act * of_hidden  # the gradients, over the chunks
        wide = 4 if setup.precision != "bf16" else 2
        cast = (2 * of_weight if setup.precision == "bf16" else 0) + (wide * of_hidden if wide != act else 0)
        operands = copy + (act * of_hidden if setup.precision == "mixed" else 0)
        done = wide * (of_weight + of_hidden)
        return _HeadBytes(operands + sums + max(peak, cast), done, done, 0, logits, inside=False)
    rows = min(n, setup.chunk) if setup.method == "chunked" else n
    forward, backward = (4 * rows * vocab * copies for copies in _LOGITS_COPIES[setup.method])
    gradients = act * (of_hidden + of_weight)
    return _HeadBytes(
        forward=forward + copy,
        # The backward of a chunk finds the gradients begun by the chunks before it.
        backward=backward + copy + (gradients if rows < n else 0),
        products=act * rows * vocab + gradients + copy,
        # An entropy's graph keeps softmax and log-softmax for a backward that never comes, until it is logged.
        waiting=8 * n * vocab if setup.method == "naive_with_graph" else 0,
        logits=max(forward, backward),
        inside=True,
    )


def format_bytes(size: float) -> str:
    """Write bytes in decimal units with three figures.

    >>> format_bytes(12 * 1023 * 151936 * 4), format_bytes(3_087_428_608), format_bytes(512)
    ('7.46 GB', '3.09 GB', '512 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= 0.9995 * scale:
            value = size / scale
            return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f} {unit}"
    return f"{size:.0f} B"


def _parameter_terms(shape: ModelShape, setup: StepSetup) -> tuple[int, int, int, int]:
    """Count bytes of weights, gradients, optimizer states, head's gradient."""
    weight, gradient, state = _PARAMETER_BYTES[setup.precision]
    if setup.adapter == "none":
        p = shape.parameters
        return weight * p, gradient * p, state * p, gradient * shape.embedding
    trained = shape.layers * setup.lora_r * sum(rows + columns for rows, columns in shape.linear_shapes.values())
    rest = shape.parameters - shape.layer_matrices
    frozen = 2 * rest + round(shape.layer_matrices * (_NF4_BYTES if setup.adapter == "qlora" else 2))
    return frozen + weight * trained, gradient * trained, state * trained, 0


def _norm_bytes(shape: ModelShape, precision: Precision, *, reads: int) -> int:
    """Count bytes per token kept by an RMSNorm and the ``reads`` matrices after it."""
    # transformers normalises in float32 and turns back before it multiplies by the weight (OLMo 2: after it). The
    # matrices share one output, but autocast makes a bfloat16 copy for each of them.
    h = shape.hidden
    late = shape.qk_norm == "full"
    kept = {"fp32": 12 * h, "bf16": (10 if late else 8) * h, "mixed": 8 * h + 2 * h * reads}[precision]
    return kept + 4  # 1 / root mean square


def _layer_activations(shape: ModelShape, setup: StepSetup) -> int:
    """Count bytes per token that one layer keeps for its backward."""
    # Attention keeps q, k, v, output, a float32 a head; the MLP its gate before and after SiLU, other factor, product.
    act = _ACTIVATION_BYTES[setup.precision]
    q, kv = shape.q_width, shape.kv_width
    kept = _norm_bytes(shape, setup.precision, reads=3) + _norm_bytes(shape, setup.precision, reads=2)
    kept += act * (2 * q + 2 * kv + 4 * shape.intermediate) + 4 * shape.heads
    if shape.qk_norm != "none":
        late = shape.qk_norm == "full" or setup.precision == "fp32"
        kept += (8 if late else 6) * (q + kv)
    if setup.adapter != "none":  # what goes between the two factors of each adapter
        kept += act * setup.lora_r * len(shape.linear_shapes)
    return kept
