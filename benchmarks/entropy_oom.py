"""The notes' out-of-memory error, made to happen: 44 GB, Qwen2.5-1.5B's shape, 12 sequences of 1,024 tokens.

    python benchmarks/entropy_oom.py --out recorded/out_of_memory/h100.json   # a GPU of 80 GB, about a minute
    python benchmarks/entropy_oom.py --small --out cpu.json                   # any machine, a few seconds

Random weights, so nothing is downloaded: memory does not depend on what they are. Three parts, each caught and recorded
on its own, the file written after each:

- ``capped``: memory is capped (on a GPU by the allocator, on a CPU by ``MemoryTracker``). Weights, gradients and
  AdamW's states in bfloat16 and gradient checkpointing, as the notes' sum has them. A micro-batch goes through with the
  fix and an update makes the states; a second one makes gradients; then the notes' version: at which line does it die,
  with how many bytes alive? Then the fix under the same cap.
- ``allocations``: the notes' lines one by one without a cap, head and loss alone; logits in float32 from the start,
  upcast from bfloat16 (which is kept, or dropped), and in bfloat16 throughout.
- ``estimates``: ``cs336_sft.model.memory_estimate`` beside the measured peak, for several setups.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

import torch  # noqa: E402

from cs336_sft.model.logprob_variants import naive_line_by_line  # noqa: E402
from cs336_sft.model.memory_estimate import StepSetup, estimate_memory, format_bytes  # noqa: E402
from cs336_sft.model.memory_measurement import (  # noqa: E402
    MemoryLimitError,
    build_model,
    loss_and_entropy,
    measure_memory,
    measured,
)
from cs336_sft.model.shape import ModelShape, known_shape  # noqa: E402

SMALL = ModelShape("small", 64, 192, 2, 4, 2, 16, 20_000, True, qkv_bias=True)
SETTINGS = {  # logits dtype of the head, whether to upcast, whether the bfloat16 logits stay alive
    "float32 head": (torch.float32, False, False),
    "bfloat16, upcast, bfloat16 dropped": (torch.bfloat16, True, False),
    "bfloat16, upcast, bfloat16 kept": (torch.bfloat16, True, True),
    "bfloat16 throughout": (torch.bfloat16, False, False),
}


def capped_part(shape: ModelShape, setup: StepSetup, device: torch.device, cap: int) -> dict[str, Any]:
    """Micro-batches under the cap: the fix, the fix, the notes' version (which dies), the fix again."""
    record: dict[str, Any] = {"cap": cap}
    ids, labels = random_tokens(shape, setup, device)
    with memory_capped(device, cap) as meter:
        model = build_model(shape, setup, device)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        record["weights"] = meter.live
        loss_and_entropy(model, ids, labels, setup)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        record["weights and states"] = meter.live
        loss_and_entropy(model, ids, labels, setup)[0].backward()
        record["weights, states and gradients"] = meter.live

        def fixed() -> dict[str, Any]:
            meter.reset_peak()
            synchronize(device)
            began = time.perf_counter()
            loss, entropy = loss_and_entropy(model, ids, labels, setup)
            forward = meter.peak
            loss.backward()
            synchronize(device)
            seconds = time.perf_counter() - began
            numbers = {"loss": loss.item(), "entropy": entropy.mean().item()}
            return {"survived": True, "peak_forward": forward, "peak": meter.peak, "seconds": seconds, **numbers}

        def as_noted() -> dict[str, Any]:
            moments: list[dict[str, Any]] = []

            def mark(name: str) -> None:
                moments.append({"before": name, "live": meter.live})

            meter.reset_peak()
            try:
                mark("layers")
                hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
                head = model.get_output_embeddings().weight
                log_probs, entropy = naive_line_by_line(hidden, head, labels.flatten(), mark)
                mark("backward")
                (-log_probs.mean()).backward()
                result: dict[str, Any] = {"survived": True, "peak": meter.peak}
            except (torch.OutOfMemoryError, MemoryLimitError) as error:
                moment = moments[-1]
                died = {
                    "died_at": moment["before"],
                    "live": moment["live"],
                    "error": first_sentences(error),
                }
                result = {"survived": False, **died}
                if device.type == "cuda":
                    result["reserved"] = torch.cuda.memory_reserved(device)
            return result | {"moments": moments}

        record["notes"] = as_noted()
        free(device)
        record["fix"] = fixed()
        free(device)
        record["fix, once more"] = fixed()
    return record


def allocations_part(shape: ModelShape, setup: StepSetup, device: torch.device) -> dict[str, Any]:
    """Live bytes before each line of the notes' version, above hidden states and head; and the peak of its backward."""
    results = {}
    for name, (dtype, upcast, keep) in SETTINGS.items():
        generator = torch.Generator(device).manual_seed(0)
        hidden = torch.randn(setup.tokens, shape.hidden, device=device, generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(shape.vocab, shape.hidden, device=device, generator=generator).mul_(0.02).to(dtype)
        weight.requires_grad_()
        labels = torch.randint(0, shape.vocab, (setup.tokens,), device=device, generator=generator)
        free(device)
        with measured(device) as meter:
            start, moments = meter.live, []

            def mark(name: str, moments: list = moments, start: int = start, meter: Any = meter) -> None:
                moments.append({"before": name, "live": meter.live - start, "peak": meter.peak - start})

            for _ in range(2):  # the first time loads kernels: its seconds say nothing
                hidden.grad = weight.grad = log_probs = entropy = None
                moments.clear()
                synchronize(device)
                began = time.perf_counter()
                meter.reset_peak()
                log_probs, entropy = naive_line_by_line(hidden, weight, labels, mark, upcast=upcast, keep=keep)
                mark("backward")
                meter.reset_peak()
                (-log_probs.float().mean()).backward()
                mark("after the backward")
                synchronize(device)
                seconds = time.perf_counter() - began
        del log_probs, entropy, hidden, weight, labels
        free(device)
        peak = max(moment["peak"] for moment in moments)
        results[name] = {
            "one_tensor": setup.tokens * shape.vocab * 4,
            "peak": peak,
            "seconds": seconds,
            "moments": moments,
        }
    return results


def estimates_part(shape: ModelShape, setup: StepSetup, device: torch.device) -> list[dict[str, Any]]:
    """Estimate and measurement of complete steps. A setup that does not fit is recorded as such."""
    half = replace(setup, micro_batch_size=max(setup.micro_batch_size // 2, 1))
    setups = [
        replace(setup, method="naive"),
        replace(setup, method="log_softmax"),
        replace(setup, method="logsumexp"),
        replace(setup, method="chunked"),
        setup,
        replace(setup, gradient_checkpointing=False),
        replace(setup, precision="mixed"),
        replace(half, precision="mixed", gradient_checkpointing=False),
    ]
    rows = []
    for one in setups:
        estimate = estimate_memory(shape, one)
        row: dict[str, Any] = {"setup": asdict(one), "estimate": estimate.as_dict(), "measurement": None}
        began = time.perf_counter()
        try:
            row["measurement"] = measure_memory(build_model(shape, one, device), one).as_dict()
        except torch.OutOfMemoryError as error:
            row["error"] = first_sentences(error)
        row["seconds"] = time.perf_counter() - began
        free(device)
        rows.append(row)
    return rows


@contextmanager
def memory_capped(device: torch.device, cap: int) -> Iterator[Any]:
    """A meter under a cap of ``cap`` bytes: on a GPU the caching allocator may reserve no more than that."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(cap / total, 1.0), device)
    try:
        with measured(device, limit=cap) as meter:
            yield meter
    finally:
        if device.type == "cuda":
            free(device)
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def random_tokens(shape: ModelShape, setup: StepSetup, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, shape.vocab, (setup.micro_batch_size, setup.seq_len), generator=generator).to(device)
        for _ in range(2)
    ]


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first_sentences(error: Exception) -> str:
    """An out-of-memory message without its advice, which is long and always the same."""
    return str(error).split(" If reserved")[0].split(" Remedy:")[0]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers"):
        found[package] = metadata.version(package)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--small", action="store_true", help="a small model, on the CPU unless there is a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cap-gb", type=float, default=44.0, help="in 1e9 bytes")
    parser.add_argument(
        "--fix", choices=["one_pass", "chunked"], default="one_pass", help="train_sft's, or a plain one"
    )
    parser.add_argument("--parts", nargs="+", default=["capped", "allocations", "estimates"])
    args = parser.parse_args()

    device = torch.device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # the cap is set for a device with a number
    shape = SMALL if args.small else known_shape("Qwen/Qwen2.5-1.5B")
    # 1,024 tokens a sequence make 1,023 pairs of input and label.
    batch, length, chunk = (4, 127, 64) if args.small else (12, 1023, 1024)
    setup = StepSetup(batch, length, "bf16", args.fix, chunk, gradient_checkpointing=True, device=device.type)
    cap = round(args.cap_gb * 1e9)
    if args.small:  # as at full size, above the notes' own sum and below what its version really takes
        noted = estimate_memory(shape, replace(setup, method="naive", grad_accumulation=True)).peak
        cap = noted - setup.tokens * shape.vocab * 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    record: dict[str, Any] = {
        "config": {"model": asdict(shape), "setup": asdict(setup), "cap": cap, "small": args.small},
        "device": name,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "seed": 0,
        "seconds": {},
    }
    parts = {
        "capped": lambda: capped_part(shape, setup, device, cap),
        "allocations": lambda: allocations_part(shape, setup, device),
        "estimates": lambda: estimates_part(shape, setup, device),
    }
    torch.manual_seed(0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    failed = False
    for part in args.parts:
        began = time.perf_counter()
        try:
            record[part] = parts[part]()
        except Exception as error:  # the other parts are worth having
            record[part] = {"failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
            failed = True
        free(device)
        record["seconds"][part] = round(time.perf_counter() - began, 2)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {record['seconds'][part]} s", flush=True)
    show(record)
    return int(failed)


def show(record: dict[str, Any]) -> None:
    """A short table of what was found."""
    print(f"\n{record['device']}, cap {format_bytes(record['config']['cap'])}")
    capped = record.get("capped", {})
    if "notes" in capped:
        notes, fix = capped["notes"], capped["fix"]
        end = "survived" if notes["survived"] else f"died at '{notes['died_at']}', {format_bytes(notes['live'])} alive"
        print(f"notes' version: {end}\n{notes.get('error', '')}")
        print(f"fix: peak {format_bytes(fix['peak'])}, {capped['fix, once more']['seconds']:.2f} s")
    for name, result in record.get("allocations", {}).items():
        if isinstance(result, dict) and "peak" in result:
            print(f"{name:<38} peak {format_bytes(result['peak']):>8}")
    for row in record.get("estimates", []):
        if isinstance(row, dict):
            setup, measurement = row["setup"], row["measurement"]
            what = f"{setup['precision']}, {setup['method']}, batch {setup['micro_batch_size']}" + (
                ", checkpointing" if setup["gradient_checkpointing"] else ""
            )
            estimate = row["estimate"]["peak"]
            if measurement:
                peak = measurement["peak"]
                both = f"measured {format_bytes(peak):>8}  {100 * (estimate / peak - 1):+.1f} %"
            else:
                both = "out of memory"
            print(f"{what:<48} estimate {format_bytes(estimate):>8}  {both}")


if __name__ == "__main__":
    raise SystemExit(main())
