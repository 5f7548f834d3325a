"""vLLM against Hugging Face: parity of greedy outputs and log-probabilities, cost of a weight sync, speed.

    python benchmarks/vllm_parity.py --out recorded/vllm/cpu.json                   # two cores: some 5 minutes
    python benchmarks/vllm_parity.py --device cuda --gsm8k FOLDER --out cuda.json   # one GPU: some 3 minutes

Parts (``--parts``; each is caught and recorded on its own, and the file is written after each):

parity      greedy answers to 64 prompts by both samplers, in float32, each difference with its cause; log-probabilities
            of vLLM's samples at temperature 1 against the model's
sync        five rounds of AdamW steps and a weight sync; new and old outputs, seconds, memory
memory      sleep and wake (GPU), memory after close
throughput  at temperature 1: Hugging Face, vLLM with a seed for each sample (ours), plain vLLM without seeds, on the
            same 256 prompts (GPU: GSM8K, four samples each)
large       GPU: a model of Qwen2.5-1.5B's shape with random weights, in bfloat16, on 256 problems of GSM8K
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

from cs336_sft import HFSampler, SamplingConfig, VLLMConfig, VLLMSampler, make_examples  # noqa: E402
from cs336_sft.data.download import fetched_folder, is_fetched  # noqa: E402
from cs336_sft.data.qwen_tokenizer import load_qwen_tokenizer  # noqa: E402
from cs336_sft.experiments.profiles import get_profile  # noqa: E402
from cs336_sft.generation.vllm_backend.runtime import vllm_version  # noqa: E402
from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer  # noqa: E402
from cs336_sft.prompts import get_template  # noqa: E402
from cs336_sft.records import Example, Generation  # noqa: E402
from cs336_sft.tokenization import collate  # noqa: E402

SEED = 0
LEARNING_RATE = 3e-4  # high, so that a few steps change what is generated
PARTS = ("parity", "sync", "memory", "throughput", "large")
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """How much of everything: a laptop takes the left column of a comparison, a GPU the right one."""

    prompts: int = 64
    new_tokens: int = 64
    rounds: int = 5
    steps: int = 4
    throughput_prompts: int = 256
    throughput_samples: int = 1
    throughput_tokens: int = 128
    hf_batch: int | None = None
    kv_cache_gib: float = 0.5


CPU = {"tiny": Sizes(new_tokens=160), "smollm2": Sizes(new_tokens=32, steps=2, throughput_tokens=0)}
CUDA = {
    "smollm2": Sizes(
        new_tokens=192, steps=8, throughput_samples=4, throughput_tokens=192, hf_batch=1024, kv_cache_gib=8
    )
}


class Bench:
    """One model: its policy, its engine, its prompts. ``run`` calls a part and keeps its result or its error."""

    def __init__(self, name: str, source: Path, sizes: Sizes, args: argparse.Namespace) -> None:
        self.name, self.source, self.sizes, self.device = name, source, sizes, args.device
        profile = get_profile(name)
        self.template = get_template(profile.template)
        count = max(sizes.prompts, sizes.throughput_prompts)
        split = "validation" if name == "tiny" else "test"
        self.prompts = [self.template.prompt(p) for p in profile.problems(split, count, source=args.gsm8k_of[name])]
        self.before = memory(self.device)
        began = time.perf_counter()
        _, tokenizer = load_model_and_tokenizer(source)
        self.engine = VLLMConfig(
            dtype="float32",
            max_model_len=1024,
            kv_cache_memory_bytes=int(sizes.kv_cache_gib * GIB),
            enforce_eager=True if args.eager else None,
        )
        self.sampler = VLLMSampler(source, tokenizer, self.engine)
        self.start_seconds = time.perf_counter() - began
        self.model, self.tokenizer = load_model_and_tokenizer(source, dtype=torch.float32, device=self.device)
        self.hf = HFSampler(self.model, self.tokenizer, sizes.hf_batch)
        problems = profile.problems("train", 64, source=args.gsm8k_of[name])
        self.examples = make_examples(problems, self.template, self.tokenizer)

    # --- the parts

    def parity(self) -> dict[str, Any]:
        prompts, tokens = self.prompts[: self.sizes.prompts], self.sizes.new_tokens
        greedy = SamplingConfig(max_new_tokens=tokens, record_entropy=True)
        a, b = self.hf.generate(prompts, greedy), self.sampler.generate(prompts, greedy)
        sampled = self.sampler.generate(prompts, replace(greedy, temperature=1.0, seed=SEED))
        return {
            "engine_start_seconds": self.start_seconds,
            "greedy": compare_generations([x for (x,) in a], [x for (x,) in b]),
            "temperature 1": logprob_errors(self.model, self.tokenizer, sampled),
        }

    def sync(self) -> dict[str, Any]:
        """Train, push, compare. The weights go on changing from round to round."""
        prompts = self.prompts[:16]
        sampling = SamplingConfig(max_new_tokens=self.sizes.new_tokens, record_entropy=True)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        rounds, old = [], ids(self.sampler.generate(prompts, sampling))
        for number in range(self.sizes.rounds):
            losses = train(self.model, optimizer, self.examples, self.tokenizer, self.sizes.steps, number)
            began = time.perf_counter()
            self.sampler.update_weights(self.model)
            seconds = time.perf_counter() - began
            generated = self.sampler.generate(prompts, sampling)
            new, expected = ids(generated), ids(self.hf.generate(prompts, sampling))
            rounds.append(
                {
                    "loss": losses,
                    "seconds": seconds,
                    "equal_to_hf_new": sum(a == b for a, b in zip(new, expected, strict=True)),
                    "equal_to_old": sum(a == b for a, b in zip(new, old, strict=True)),
                    "of": len(prompts),
                    "memory": memory(self.device),
                    "policy_version": self.sampler.policy_version,
                    "logprobs": logprob_errors(self.model, self.tokenizer, generated),
                }
            )
            old = new
        del optimizer
        self.model.zero_grad(set_to_none=True)
        return {"rounds": rounds, "engine_dtype": "float32", "trainer_dtype": "float32"}

    def throughput(self) -> dict[str, Any]:
        sizes = self.sizes
        prompts = self.prompts[: sizes.throughput_prompts]
        # Forced to full length, so that both write the same number of tokens.
        sampling = SamplingConfig(
            max_new_tokens=sizes.throughput_tokens,
            min_new_tokens=sizes.throughput_tokens,
            temperature=1.0,
            num_samples=sizes.throughput_samples,
            seed=SEED,
        )
        result: dict[str, Any] = {"config": asdict(sampling), "prompts": len(prompts), "dtype": "float32"}
        warm_up = replace(sampling, max_new_tokens=4, min_new_tokens=0)
        for name, sampler in (("vllm", self.sampler), ("hf", self.hf)):
            sampler.update_weights(self.model)
            sampler.generate(prompts[:8], warm_up)
            _, result[name] = timed(lambda s=sampler: s.generate(prompts, sampling))
        result["hf_batch"] = self.sizes.hf_batch or ("32 rows" if self.device == "cpu" else "64 rows")
        result["plain_vllm"] = plain_vllm(self.sampler, self.tokenizer, prompts, sampling)
        return result

    def memory(self) -> dict[str, Any]:
        """Sleep and wake beside the trainer (GPU), then close. The engine is gone afterwards."""
        sampling = SamplingConfig(max_new_tokens=16)
        prompts = self.prompts[:8]
        result: dict[str, Any] = {"before_engine": self.before, "with_engine_and_trainer": memory(self.device)}
        if self.device == "cuda":
            expected = ids(self.hf.generate(prompts, sampling))
            self.sampler.close()
            self.sampler = VLLMSampler(self.source, self.tokenizer, replace(self.engine, sleep=True))
            self.sampler.update_weights(self.model)
            for number in range(2):
                outputs = ids(self.sampler.generate(prompts, sampling))
                result[f"asleep_{number}"] = memory(self.device)
                began = time.perf_counter()
                self.sampler.wake()
                woken = time.perf_counter()
                self.sampler.sleep()
                result[f"sleep_{number}"] = {
                    "sleep_seconds": time.perf_counter() - woken,
                    "wake_seconds": woken - began,
                    "equal": sum(a == b for a, b in zip(outputs, expected, strict=True)),
                    "of": len(expected),
                }
        trainer = sum(p.numel() * p.element_size() for p in self.model.parameters()) / GIB
        began = time.perf_counter()
        self.sampler.close()
        result |= {"close_seconds": time.perf_counter() - began, "trainer_weights_gib": trainer}
        result["after_close_with_trainer"] = memory(self.device)
        self.model = self.hf = None
        result["after_close_without_trainer"] = memory(self.device)
        return result

    def close(self) -> None:
        self.sampler.close()
        self.model = self.hf = None
        memory(self.device)


def plain_vllm(
    sampler: VLLMSampler, tokenizer: Any, prompts: list[str], sampling: SamplingConfig
) -> dict[str, dict[str, float]]:
    """vLLM's own ``generate``: without a seed, and with one seed for the samples of a request."""
    from vllm import SamplingParams

    encoded = [{"prompt_token_ids": tokenizer(p, add_special_tokens=False)["input_ids"]} for p in prompts]
    common = {"max_tokens": sampling.max_new_tokens, "temperature": 1.0, "n": sampling.num_samples, "ignore_eos": True}
    result = {}
    for name, extra in (("unseeded", {}), ("seeded", {"seed": SEED})):
        began = time.perf_counter()
        params = SamplingParams(**common, detokenize=False, **extra)
        outputs = sampler.engine.llm.generate(encoded, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
        result[name] = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
    return result


def large(args: argparse.Namespace) -> dict[str, Any]:
    """A model of Qwen2.5-1.5B's shape with random weights, on 256 problems of GSM8K: tokens/s and seconds a sync."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    on_gpu = args.device == "cuda"  # on a CPU a small model and generated problems, to try the script out
    tokenizer = load_qwen_tokenizer(fetched_folder("qwen-tokenizer"))
    shape = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    if not on_gpu:
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(
        **shape,
        num_key_value_heads=2,
        vocab_size=151_936,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(SEED)
    with torch.device(args.device):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    profile = get_profile("qwen2.5-coder-1.5b" if on_gpu else "tiny")
    problems = profile.problems("validation", 256 if on_gpu else 8, source=args.gsm8k if on_gpu else None)
    prompts = [get_template(profile.template).prompt(problem) for problem in problems]
    tokens = 256 if on_gpu else 16  # forced to full length, so that all write the same number
    sampling = SamplingConfig(max_new_tokens=tokens, min_new_tokens=tokens, temperature=1.0, num_samples=4, seed=SEED)
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "config": asdict(sampling)}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        began = time.perf_counter()
        engine = VLLMConfig(
            dtype="bfloat16",
            max_model_len=2048,
            kv_cache_memory_bytes=int((16 if on_gpu else 0.5) * GIB),
            enforce_eager=True if args.eager else None,
        )
        sampler = VLLMSampler(folder, tokenizer, engine)
    with sampler:
        result["engine_start_seconds"] = time.perf_counter() - began
        sampler.generate(prompts[:8], replace(sampling, max_new_tokens=4, min_new_tokens=0))
        _, result["vllm"] = timed(lambda: sampler.generate(prompts, sampling))
        result["plain_vllm"] = plain_vllm(sampler, tokenizer, prompts, sampling)
        model = model.float()  # master weights, as in training; the engine rounds them
        result["sync_seconds"] = []
        for _ in range(3):
            with torch.no_grad():
                model.model.norm.weight.mul_(1.01)
            synchronize(args.device)
            began = time.perf_counter()
            sampler.update_weights(model)
            synchronize(args.device)
            result["sync_seconds"].append(time.perf_counter() - began)
        recorded = sampler.generate(prompts[:8], SamplingConfig(max_new_tokens=32, record_entropy=True))
        result["logprobs_after_sync"] = logprob_errors(model, tokenizer, recorded)
        result["memory"] = memory(args.device)
    model = model.to(torch.bfloat16)
    half = replace(sampling, max_new_tokens=tokens // 2, min_new_tokens=tokens // 2)
    _, result["hf"] = timed(lambda: HFSampler(model, tokenizer, 256).generate(prompts, half))
    return result


# --- helpers


def compare_generations(hf: list[Generation], vllm: list[Generation]) -> dict[str, Any]:
    """How many are identical, and for each difference what decided it."""
    differences = []
    errors = []
    for number, (a, b) in enumerate(zip(hf, vllm, strict=True)):
        if (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason):
            errors += [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)]
            continue
        pairs = enumerate(zip(a.token_ids, b.token_ids, strict=False))
        at = next((i for i, (x, y) in pairs if x != y), min(len(a.token_ids), len(b.token_ids)))
        # Greedy: at the first difference both tokens lie at the top; the log-probability that each engine gives to
        # its own choice tells how near the tie was.
        differences.append(
            {"prompt": number, "position": at, "logprob_hf": a.logprobs[at], "logprob_vllm": b.logprobs[at]}
        )
    return {
        "identical": len(hf) - len(differences),
        "of": len(hf),
        "differences": differences,
        "largest_logprob_error": max(errors, default=None),
        "tokens": sum(len(g.token_ids) for g in vllm),
        "stopped": sum(g.finish_reason == "stop" for g in vllm),
    }


@torch.inference_mode()
def logprob_errors(model: Any, tokenizer: Any, results: list[list[Generation]]) -> dict[str, float]:
    """Differences of the engine's log-probabilities from the model's on the same tokens, in nats."""
    errors: list[float] = []
    for generation in (g for samples in results for g in samples):
        prompt = tokenizer(generation.prompt, add_special_tokens=False)["input_ids"]
        new = torch.tensor([generation.token_ids], device=model.device).T  # [T, 1]
        logits = model(torch.tensor([[*prompt, *generation.token_ids]], device=model.device)).logits[0].float()
        own = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(-1, new)[:, 0]
        errors += [abs(a - b) for a, b in zip(own.tolist(), generation.logprobs, strict=True)]
    return {"tokens": len(errors), "largest_error": max(errors), "mean_error": sum(errors) / len(errors)}


def train(
    model: Any, optimizer: Any, examples: list[Example], tokenizer: Any, steps: int, round_number: int
) -> list[float]:
    """Some AdamW steps on answers; float32, batch 8."""
    model.train()
    losses = []
    for step in range(steps):
        start = 8 * ((round_number * steps + step) % (len(examples) // 8))
        batch = collate(examples[start : start + 8], tokenizer.pad_token_id)
        device = model.device
        logits = model(input_ids=batch.input_ids.to(device)).logits
        mask = batch.response_mask.to(device)
        loss = torch.nn.functional.cross_entropy(logits[mask], batch.labels.to(device)[mask])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def ids(results: list[list[Generation]]) -> list[tuple[int, ...]]:
    return [generation.token_ids for samples in results for generation in samples]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(generate: Callable[[], list[list[Generation]]]) -> tuple[list[list[Generation]], dict[str, float]]:
    began = time.perf_counter()
    results = generate()
    seconds = time.perf_counter() - began
    tokens = sum(map(len, ids(results)))
    return results, {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}


def memory(device: str) -> dict[str, float]:
    """In GiB: this process on the host; on a GPU what PyTorch holds, and what is taken on the card by anybody."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free but kept for later would count as taken
    facts = {"host_gib": psutil.Process().memory_info().rss / GIB}
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        facts |= {"torch_gib": torch.cuda.memory_allocated() / GIB, "card_gib": (total - free) / GIB}
    return {name: round(value, 3) for name, value in facts.items()}


def environment_facts(device: str) -> dict[str, Any]:
    packages = ("torch", "transformers", "accelerate", "numpy")
    return {
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in packages} | {"vllm": str(vllm_version())},
        "seed": SEED,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", default=None, help="tiny,smollm2; default: both on a CPU, smollm2 on a GPU")
    parser.add_argument("--smollm2", type=Path, help="model folder; default: what `cs336-sft fetch smollm2` made")
    parser.add_argument("--gsm8k", type=Path, help="folder with train.jsonl and test.jsonl; default: $CS336_GSM8K")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.smollm2 is None and is_fetched("smollm2"):
        args.smollm2 = fetched_folder("smollm2")
    args.gsm8k_of = {"tiny": None, "smollm2": args.gsm8k}
    parts = args.parts.split(",")
    sizes = CPU if args.device == "cpu" else CUDA
    models = (args.models or ",".join(sizes)).split(",")
    began = time.perf_counter()
    record: dict[str, Any] = environment_facts(args.device) | {"sizes": {m: asdict(sizes[m]) for m in models}}
    record["results"], record["seconds"] = {}, {}

    def keep(name: str, do: Callable[[], Any]) -> None:
        start = time.perf_counter()
        try:
            record["results"][name] = do()
        except Exception as error:
            traceback.print_exc()
            record["results"][name] = {"error": f"{type(error).__name__}: {error}"}
        record["seconds"][name] = round(time.perf_counter() - start, 1)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {record['seconds'][name]} s (at {time.perf_counter() - began:.0f} s)", flush=True)

    for name in [] if args.parts == "large" else models:
        bench: list[Bench] = []
        source = embedded_model_path() if name == "tiny" else args.smollm2
        keep(f"{name} start", lambda n=name, s=source, b=bench: b.append(Bench(n, s, sizes[n], args)))
        if not bench:
            continue
        for part in ("parity", "sync", "throughput", "memory"):  # memory closes the engine
            if part in parts and not (part == "throughput" and sizes[name].throughput_tokens == 0):
                keep(f"{name} {part}", getattr(bench[0], part))
        bench[0].close()
    if "large" in parts and (args.device == "cuda" or args.parts == "large"):
        keep("large", lambda: large(args))
    print_summary(record)


def print_summary(record: dict[str, Any]) -> None:
    for name, result in record["results"].items():
        if not isinstance(result, dict):
            continue
        if "error" in result:
            print(f"{name}: {result['error']}")
        if "greedy" in result:
            print(f"{name}, greedy: {result['greedy']['identical']} of {result['greedy']['of']} identical")
        for r in result.get("rounds", ()):
            print(
                f"{name}: {r['equal_to_hf_new']}/{r['of']} equal HF's new, {r['equal_to_old']} the old, "
                f"{r['seconds']:.3f} s, {r['memory']}"
            )
        for sampler in ("vllm", "hf"):
            if sampler in result:
                print(f"{name}, {sampler}: {result[sampler]['tokens_per_second']:.0f} tokens/s")
        for label, value in result.items():
            if label.startswith(
                ("after_close", "asleep", "with_engine", "before", "sleep", "sync_sec", "plain_", "temp", "logp")
            ):
                print(f"{name}, {label}: {value}")


if __name__ == "__main__":
    main()
