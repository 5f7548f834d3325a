"""Memory against time of log-probabilities and entropies from hidden states: ours, and other ways, in one run.

    python benchmarks/logprobs_frontier.py --out recorded/logprobs/gpu.json                  # one H100: about 3 minutes
    python benchmarks/logprobs_frontier.py --device cpu --out recorded/logprobs/cpu.json     # about 10 minutes

The setting is the notes': 12 sequences of 1,023 positions, Qwen2.5-1.5B's head (151,936 x 1,536), bfloat16 inputs;
on a CPU 2,048 positions of the 0.5B model's head in float32. Measured is forward and backward of the mean negative
log-likelihood, with the entropy of every position: the median time, the peak of memory above the inputs (gradients
included), and the relative error ``|x - x64| / |x64|`` of log-probabilities, entropies and both gradients against
float64. ``survey`` times the products alone, which bound everything else. Results are written after each line.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

import torch  # noqa: E402
from logprobs_peers import Peer, Result, peers, versions  # noqa: E402

from cs336_sft.model import chunked_head, triton_head  # noqa: E402
from cs336_sft.model.output_head import OutputHead  # noqa: E402
from cs336_sft.utils.files import write_json  # noqa: E402

LIMIT_TFLOPS = 790  # a bfloat16 product of 8,192 cubed on this card


@dataclass(frozen=True)
class Setting:
    """Inputs of one comparison and what float64 makes of them."""

    hidden: torch.Tensor
    weight: torch.Tensor
    labels: torch.Tensor
    log_probs: torch.Tensor
    entropy: torch.Tensor
    of_hidden: torch.Tensor
    of_weight: torch.Tensor


def make_inputs(rows: int, width: int, vocabulary: int, device: str, dtype: torch.dtype, seed: int):
    """Logits with a standard deviation of 4, and labels drawn from the distribution they stand for."""
    torch.manual_seed(seed)
    hidden = torch.randn(rows, width, device=device).to(dtype)
    weight = (torch.randn(vocabulary, width, device=device) * 4 / width**0.5).to(dtype)
    labels = []
    for part in hidden.split(512):
        logits = (part @ weight.T).float()
        labels.append((logits - torch.empty_like(logits).exponential_().log_()).argmax(dim=-1))  # Gumbel's trick
    return hidden, weight, torch.cat(labels)


def in_float64(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Setting:
    wide = weight.double()
    log_probs, entropy, of_hidden, of_weight = [], [], [], torch.zeros_like(wide)
    for x, y in zip(hidden.double().split(512), labels.split(512), strict=True):
        log_softmax = (x @ wide.T).log_softmax(dim=-1)
        log_probs.append(log_softmax.gather(-1, y.unsqueeze(-1)).squeeze(-1))
        p = log_softmax.exp()
        entropy.append(-(p * log_softmax).sum(dim=-1))
        del log_softmax
        p[torch.arange(len(y)), y] -= 1.0
        p /= len(hidden)
        of_hidden.append(p @ wide)
        of_weight.addmm_(p.T, x)
    return Setting(hidden, weight, labels, torch.cat(log_probs), torch.cat(entropy), torch.cat(of_hidden), of_weight)


def error(found: torch.Tensor | None, exact: torch.Tensor) -> float | None:
    """Row by row, so that no float64 copy of the whole is made."""
    if found is None:
        return None
    off = norm = 0.0
    for a, b in zip(found.detach().split(8192), exact.split(8192), strict=True):
        off += float((a.double() - b).square().sum())
        norm += float(b.square().sum())
    return (off / norm) ** 0.5


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(kind: str, *, positions: torch.Tensor | None = None, **settings) -> Peer:
    """``kind``: "one pass" or "recomputed"; settings go to the function that does the work."""

    def run(hidden, weight, labels) -> Result:
        linear = torch.nn.Linear(1, 1, bias=False)
        linear.weight = weight if isinstance(weight, torch.nn.Parameter) else torch.nn.Parameter(weight)
        head = OutputHead(linear)
        if positions is not None:
            hidden, labels = hidden.index_select(0, positions), labels[positions]
        if kind == "one pass":
            loss, log_probs, entropy = chunked_head.one_pass_loss(
                hidden, head, labels, 1 / len(hidden), with_entropy=True, chunk_size=settings.get("chunk")
            )
            return log_probs, entropy, loss
        log_probs, entropy = chunked_head.head_log_probs(
            hidden, head, labels, with_entropy=True, chunk_size=settings.get("chunk")
        )
        return log_probs, entropy, -log_probs.mean()

    return run


@contextmanager
def replaced(owner: object, **values) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def fused(**settings) -> Iterator[None]:
    """The Triton path, with other chunks or tiles than its defaults."""
    tiles, keep = settings.pop("tiles", None), triton_head.usable_tiles
    with replaced(
        triton_head,
        one_pass=partial(triton_head.one_pass, **settings),
        usable_tiles=lambda *operands: keep(*operands) and (tiles or keep(*operands)),
    ):
        yield


@contextmanager
def plain(compiled: bool) -> Iterator[None]:
    """The PyTorch path, also where the Triton one could run."""
    keep = chunked_head.compiled_on_gpu
    function = keep if compiled else (lambda function, *_, **__: function)
    with replaced(triton_head, usable_tiles=lambda *_: None), replaced(chunked_head, compiled_on_gpu=function):
        yield


# --- measuring --------------------------------------------------------------------------------------------------------


class PeakMemory:
    """Bytes at the peak above those at the start: CUDA's allocator, or the process's resident memory, sampled."""

    def __init__(self, device: str) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            self.start, self.peak, self.stop = resident(), 0, threading.Event()
            self.thread = threading.Thread(target=self._sample)
            self.thread.start()
        return self

    def _sample(self) -> None:
        while not self.stop.wait(0.002):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self.start
        else:
            self.stop.set()
            self.thread.join()
            self.bytes = max(self.peak, resident()) - self.start


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def seconds_of(run: Callable[[], object], device: str, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return times


def measure(peer: Peer, setting: Setting, device: str, repeats: int, exact: bool = True) -> dict:
    hidden = setting.hidden.detach().requires_grad_()
    weight = torch.nn.Parameter(setting.weight.detach())

    def run() -> Result:
        hidden.grad = weight.grad = None
        found = peer(hidden, weight, setting.labels)
        found[2].backward()
        return found

    if device == "cuda":
        run(), run()  # compiles
    hidden.grad = weight.grad = None  # the gradients count
    with PeakMemory(device) as memory:
        log_probs, entropy, _ = run()
    entry = {"peak_gb": memory.bytes / 1e9}
    if exact:
        with torch.no_grad():
            entry["error"] = {
                "log_probs": error(log_probs, setting.log_probs),
                "entropy": error(entropy, setting.entropy),
                "of_hidden": error(hidden.grad, setting.of_hidden),
                "of_weight": error(weight.grad, setting.of_weight),
            }
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    entry["gb_above_gradients"] = (memory.bytes - gradients) / 1e9
    del log_probs, entropy
    hidden.grad = weight.grad = None
    times = seconds_of(run, device, repeats)
    hidden.grad = weight.grad = None
    return entry | {"ms": statistics.median(times) * 1e3, "ms_all": [t * 1e3 for t in times]}


# --- what is run ------------------------------------------------------------------------------------------------------


class Report:
    """Prints a line an entry, and rewrites the file after each."""

    def __init__(self, path: Path | None, facts: dict) -> None:
        self.path, self.began = path, time.perf_counter()
        self.content = {**facts, "entries": {}, "survey": {}, "failed": {}}

    def attempt(self, part: str, name: str, run: Callable[[], dict]) -> dict | None:
        began = time.perf_counter()
        try:
            entry = run()
        except Exception as problem:
            self.content["failed"][name] = f"{type(problem).__name__}: {str(problem)[:300]}"
            print(f"{name:62s} {type(problem).__name__}: {str(problem)[:90]!r}", flush=True)
            entry = None
        else:
            self.content[part][name] = entry
            print(f"{name:62s} {line(entry)}  [{time.perf_counter() - began:.0f} s]", flush=True)
        self.content["seconds"] = time.perf_counter() - self.began
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.content)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return entry


def line(entry: dict) -> str:
    if "tflops" in entry:
        return f"{entry['ms']:8.2f} ms {entry['tflops']:6.0f} TFLOP/s"
    errors = [
        "   -   " if entry.get("error", {}).get(name) is None else f"{entry['error'][name]:.1e}"
        for name in ("log_probs", "entropy", "of_hidden", "of_weight")
    ]
    return f"{entry['peak_gb']:7.3f} GB {entry['ms']:9.2f} ms   {'  '.join(errors)}"


def survey(setting: Setting, report: Report, repeats: int) -> None:
    """The three products by themselves, in the shapes that the chunks give."""
    x, w = setting.hidden, setting.weight
    n, (vocabulary, width) = len(x), w.shape

    def timed(name: str, rows: int, columns: int, make: Callable[[], Callable[[], object]]) -> None:
        def run() -> dict:
            product = make()
            product(), product()
            ms = statistics.median(seconds_of(product, "cuda", repeats)) * 1e3
            return {"ms": ms, "tflops": 2 * rows * columns * width / ms / 1e9}

        report.attempt("survey", name, run)

    for rows in (1024, 1536, 3072):
        rows = min(rows, n)
        part = x[:rows].contiguous()
        u = torch.randn(rows, vocabulary, device="cuda", dtype=torch.bfloat16)
        out32 = torch.zeros(vocabulary, width, device="cuda")
        out16 = out32.bfloat16()
        timed(f"logits bf16, {rows} rows", rows, vocabulary, lambda p=part: lambda: p @ w.T)
        timed(
            f"logits fp32, {rows} rows",
            rows,
            vocabulary,
            lambda p=part: lambda: torch.mm(p, w.T, out_dtype=torch.float32),
        )
        timed(
            f"of_hidden fp32, {rows} rows",
            rows,
            vocabulary,
            lambda u=u: lambda: torch.mm(u, w, out_dtype=torch.float32),
        )
        timed(f"of_hidden bf16, {rows} rows", rows, vocabulary, lambda u=u: lambda: u @ w)
        for splits in (2, 4, 8):
            timed(
                f"of_hidden fp32 in {splits} depths, {rows} rows",
                rows,
                vocabulary,
                lambda u=u, s=splits, r=rows: (
                    lambda: torch.bmm(
                        u.view(r, s, -1).transpose(0, 1), w.view(s, -1, width), out_dtype=torch.float32
                    ).sum(0)
                ),
            )
        timed(
            f"of_weight += in fp32, {rows} rows",
            rows,
            vocabulary,
            lambda u=u, p=part, o=out32: lambda: torch.addmm(o, u.T, p, out_dtype=torch.float32, out=o),
        )
        timed(
            f"of_weight += in bf16, {rows} rows",
            rows,
            vocabulary,
            lambda u=u, p=part, o=out16: lambda: o.addmm_(u.T, p),
        )
        del u, out32, out16
    block = 8192
    u = torch.randn(n, block, device="cuda", dtype=torch.bfloat16)
    total, part = torch.zeros(n, width, device="cuda"), w[:block]
    timed(f"of_weight, {block} tokens", n, block, lambda: lambda: u.T @ x)
    timed(
        f"of_hidden += fp32, {block} tokens",
        n,
        block,
        lambda: lambda: torch.addmm(total, u, part, out_dtype=torch.float32, out=total),
    )


def tile_survey(setting: Setting, report: Report, repeats: int) -> triton_head.Tiles:
    """The Triton product with several tilings; the fastest is used from here on."""
    Tiles = triton_head.Tiles
    x, w, y = setting.hidden[:1536], setting.weight, setting.labels[:1536]
    reference = triton_head.label_logits(x, w, y)
    buffer = x.new_empty(len(x), -(-len(w) // 8) * 8)[:, : len(w)]
    best = (float("inf"), Tiles())
    for tiles in (
        Tiles(128, 256, 64, 3, 8),
        Tiles(128, 256, 64, 4, 8),
        Tiles(256, 128, 64, 3, 8),
        Tiles(128, 128, 64, 4, 8),
        Tiles(128, 128, 64, 3, 8),
        Tiles(128, 128, 64, 3, 4),
    ):

        def run(tiles=tiles) -> dict:
            def once(out):
                return triton_head.exp_logits(x, w, reference, y, out, tiles=tiles)

            once(buffer), once(None)
            ms = statistics.median(seconds_of(lambda: once(buffer), "cuda", repeats)) * 1e3
            sums = statistics.median(seconds_of(lambda: once(None), "cuda", repeats)) * 1e3
            flops = 2 * len(x) * w.numel()
            return {"ms": ms, "tflops": flops / ms / 1e9, "ms_sums_only": sums, "tiles": asdict(tiles)}

        entry = report.attempt("survey", f"exp of logits, Triton {tuple(asdict(tiles).values())}", run)
        if entry:
            print(f"{'':62s} {entry['ms_sums_only']:8.2f} ms if only the sums are wanted", flush=True)
            best = min(best, (entry["ms"], tiles), key=lambda pair: pair[0])
    return best[1]


def run_ours(setting: Setting, report: Report, device: str, repeats: int, tiles: triton_head.Tiles) -> None:
    def attempt(name: str, context, peer: Peer, exact: bool = True) -> None:
        def run() -> dict:
            with context:
                return measure(peer, setting, device, repeats, exact)

        report.attempt("entries", f"ours: {name}", run)

    n = len(setting.hidden)
    if device == "cpu":
        for chunk in (64, 128, 256):
            attempt(f"one pass, {chunk} rows", plain(False), ours("one pass", chunk=chunk))
            attempt(f"recomputed, {chunk} rows", plain(False), ours("recomputed", chunk=chunk))
        return
    for chunk in (768, 1024, 1536, 2048, 3072, 6144):
        attempt(f"Triton, one pass, {chunk} rows", fused(chunk=chunk, tiles=tiles), ours("one pass"))
        attempt(f"Triton, recomputed, {chunk} rows", fused(chunk=chunk, tiles=tiles), ours("recomputed"))
    for chunk in (512, 1024, 2048):
        attempt(f"compiled, one pass, {chunk} rows", plain(True), ours("one pass", chunk=chunk))
        attempt(f"compiled, recomputed, {chunk} rows", plain(True), ours("recomputed", chunk=chunk))
    attempt("eager, one pass, 1024 rows", plain(False), ours("one pass", chunk=1024))
    attempt("eager, recomputed, 1024 rows", plain(False), ours("recomputed", chunk=1024))
    for share in (0.75, 0.5, 0.25):
        positions = torch.arange(n, device=device)[torch.rand(n, device=device) < share]
        for name, kind in (("one pass", "one pass"), ("recomputed", "recomputed")):
            label = f"Triton, {name}, {share:.0%} of the positions"
            attempt(label, fused(tiles=tiles), ours(kind, positions=positions), exact=False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=["survey", "ours", "peers"], choices=("survey", "ours", "peers"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    on_gpu = args.device == "cuda"
    rows = args.rows or (12 * 1023 if on_gpu else 2048)
    width = args.hidden or (1536 if on_gpu else 896)
    repeats = args.repeats or (7 if on_gpu else 2)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    floor = 3 * 2 * rows * width * args.vocabulary
    report = Report(
        args.out,
        {
            "what": "forward and backward of the mean NLL with log-probabilities and entropies, from hidden states",
            "setting": {"rows": rows, "hidden": width, "vocabulary": args.vocabulary, "dtype": str(dtype)[6:]},
            "limit": {"gb": (rows + args.vocabulary) * width * dtype.itemsize / 1e9}
            | ({"ms": floor / LIMIT_TFLOPS / 1e9, "tflops": LIMIT_TFLOPS} if on_gpu else {}),
            "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "python": platform.python_version(),
            "date": datetime.now(UTC).isoformat("T", "seconds"),
            "seed": args.seed,
            "repeats": repeats,
        },
    )
    print(json.dumps({k: report.content[k] for k in ("setting", "limit", "device", "versions")}))
    setting = in_float64(*make_inputs(rows, width, args.vocabulary, args.device, dtype, args.seed))
    print(f"mean log-probability {float(setting.log_probs.mean()):.2f}, entropy {float(setting.entropy.mean()):.2f}")
    print(f"{'':62s} {'peak':>10s} {'median':>12s}   relative error of log_probs, entropy, of_hidden, of_weight")
    tiles = triton_head.Tiles()
    if on_gpu and "survey" in args.parts:
        survey(setting, report, repeats)
        tiles = tile_survey(setting, report, repeats)
    if "ours" in args.parts:
        run_ours(setting, report, args.device, repeats, tiles)
    if "peers" in args.parts:
        for name, make in peers(on_gpu).items():
            report.attempt("entries", name, lambda make=make: measure(make(), setting, args.device, repeats))
    print_frontier(report.content["entries"])


def print_frontier(entries: dict[str, dict]) -> None:
    """Entries that no other beats on both axes, by memory."""
    print("\nOn the frontier of memory and time:")
    full = {k: v for k, v in entries.items() if "positions" not in k}
    for name, entry in sorted(full.items(), key=lambda pair: pair[1]["peak_gb"]):
        if not any(o["peak_gb"] < entry["peak_gb"] and o["ms"] < entry["ms"] for o in full.values()):
            print(f"{name:62s} {line(entry)}")


if __name__ == "__main__":
    main()
