"""Tokens a second of supervised fine-tuning: this loop, TRL's SFTTrainer, and a plain loop, in one run.

    python benchmarks/sft_throughput.py --out recorded/sft_throughput/h100.json   # one H100: about 8 minutes

A model of Qwen2.5-1.5B's shape with random weights is trained on sequences of GSM8K's lengths (``gsm8k_lengths.json``:
percentiles of the training set's prompts and answers; the ids are drawn at random, some more often than others, so
that there is something to learn). All sides hold float32 weights and AdamW states, compute under bfloat16 autocast,
clip gradients at norm 1, and count the loss on the answers only. For each side the micro-batch grows until it no
longer fits into ``--cap`` GB. Counted are real tokens (no padding) over the seconds of the second half of the steps, in
three parts: their median, and each. That half has the batches of the first again, whose shapes are known by then; our
graphs of rows shorter than the longest may still be recorded again in it.
Results are written after each line.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist, median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from logprobs_peers import versions  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from cs336_sft.data.batching import epoch_batches  # noqa: E402
from cs336_sft.records import Example  # noqa: E402
from cs336_sft.tokenization import collate  # noqa: E402
from cs336_sft.training.config import SFTConfig  # noqa: E402
from cs336_sft.training.distributed import SingleProcess  # noqa: E402
from cs336_sft.training.step import make_microbatches, make_optimizer, optimizer_step  # noqa: E402
from cs336_sft.utils.files import write_json  # noqa: E402

LR, BETAS, PAD = 1e-5, (0.9, 0.95), 0
LIMIT_TFLOPS = 790


def gsm8k_examples(n: int, vocabulary: int, seed: int) -> list[Example]:
    """Sequences with GSM8K's lengths: prompts and answers by their percentiles, correlated as they are there."""
    facts = json.loads((Path(__file__).parent / "gsm8k_lengths.json").read_text())
    rng = np.random.default_rng(seed)
    rho = facts["correlation_of_normal_scores"]
    normal = rng.multivariate_normal([0.0, 0.0], [[1.0, rho], [rho, 1.0]], size=n)
    shares = np.vectorize(NormalDist().cdf)(normal) * 100
    prompts = np.interp(shares[:, 0], facts["percentiles"], facts["prompt"]).round().astype(int)
    answers = np.interp(shares[:, 1], facts["percentiles"], facts["answer"]).round().astype(int)

    def ids(count: int) -> tuple[int, ...]:
        return tuple((1 + (rng.zipf(1.3, count) % min(2000, vocabulary - 1))).tolist())

    return [Example(ids(prompt), ids(answer)) for prompt, answer in zip(prompts, answers, strict=True)]


class Stopwatch:
    """Real tokens of each step, and the moment at which its loss was read from the GPU."""

    def __init__(self) -> None:
        self.tokens, self.times, self.losses = [], [time.perf_counter()], []

    def step(self, tokens: int, loss: float) -> None:
        self.times.append(time.perf_counter())
        self.tokens.append(tokens)
        self.losses.append(loss)

    def result(self) -> dict:
        half = len(self.tokens) // 2
        cuts = [half + part * (len(self.tokens) - half) // 3 for part in range(4)]
        speeds = [sum(self.tokens[a:b]) / (self.times[b] - self.times[a]) for a, b in itertools.pairwise(cuts)]
        return {
            "tokens_per_second": median(speeds),
            "tokens_per_second_of_parts": speeds,
            "seconds_per_step": (self.times[-1] - self.times[half]) / (len(self.tokens) - half),
            "seconds_of_first_half": self.times[half] - self.times[0],
            "losses": self.losses,
        }


# --- the sides --------------------------------------------------------------------------------------------------------


def train(model, examples, config: SFTConfig, steps: int, group: SingleProcess) -> dict:
    """The step of ``train_sft``, without its logs and checkpoints, in one process or in several."""
    lengths, batch = [len(example) for example in examples], config.batch_size
    batches = [part for part in epoch_batches(lengths, batch, seed=0, epoch=0) if len(part) == batch][: steps // 2]
    watch = Stopwatch()
    trained, optimizer = group.wrap(model, make_optimizer(model, config), config)
    try:
        for number in range(steps):
            indices = batches[number % len(batches)]
            microbatches = make_microbatches(examples, group.own_part(indices, lengths), config.micro_batch_size, PAD)
            record = optimizer_step(trained, optimizer, microbatches, config, number + 1, LR, group)
            watch.step(sum(lengths[index] for index in indices), record["loss"])
    finally:
        group.close()
    return watch.result()


def make_config(**settings) -> SFTConfig:
    precision = "bf16" if torch.cuda.is_available() else "no"
    return SFTConfig(learning_rate=LR, betas=BETAS, mixed_precision=precision, **settings)


def run_ours(model, examples, batch: int, steps: int, checkpointing: bool, graphs: bool = True) -> dict:
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    os.environ["CS336_CUDA_GRAPHS"] = str(int(graphs))
    config = make_config(batch_size=batch, gradient_checkpointing=checkpointing)
    try:
        return train(model, examples, config, steps, SingleProcess())
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()


def run_student(model, examples, batch: int, steps: int, checkpointing: bool, entropy: bool = True) -> dict:
    """The loop of the notes: batches as they come, an attention mask, full logits, an entropy at every step."""
    device = next(model.parameters()).device
    order = list(range(len(examples)))
    random.Random(0).shuffle(order)
    watch = Stopwatch()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=0.0)
    try:
        for number in range(steps):
            first = number % (steps // 2) * batch
            chosen = [examples[i] for i in order[first : first + batch]]
            made = collate(chosen, PAD)
            ids, labels, mask, attention = (
                t.to(device) for t in (made.input_ids, made.labels, made.response_mask, made.attention_mask)
            )
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = model(input_ids=ids, attention_mask=attention.long()).logits
            logits = logits.float()
            log_probs = F.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            if entropy:
                with torch.no_grad():
                    probs = torch.softmax(logits, dim=-1)
                    log_p = torch.log_softmax(logits, dim=-1)
                    token_entropy = -(probs * log_p).sum(dim=-1)
                    del probs, log_p, token_entropy
            loss = -(log_probs * mask).sum() / mask.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            watch.step(sum(map(len, chosen)), loss.item())
            del logits, log_probs, loss
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
    return watch.result()


def run_trl(model, examples, batch: int, steps: int, checkpointing: bool, **settings) -> dict:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig as TRLConfig
    from trl import SFTTrainer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    rows = [
        {"input_ids": [*e.prompt_ids, *e.response_ids], "labels": [-100] * len(e.prompt_ids) + list(e.response_ids)}
        for e in examples[: steps // 2 * batch]
    ]
    watch = Stopwatch()
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        config = TRLConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=LR,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused" if on_gpu else "adamw_torch",
            bf16=on_gpu,
            use_cpu=not on_gpu,
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
            **settings,
        )

        tokens: list[int] = []

        class Timer(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **kwargs):
                if logs and "loss" in logs:
                    watch.step(sum(tokens), float(logs["loss"]))
                    tokens.clear()

        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Timer()],
        )
        trainer.remove_callback(PrinterCallback)
        collator = trainer.data_collator

        def counting(features):
            tokens.append(sum(len(feature["input_ids"]) for feature in features))
            return collator(features)

        trainer.data_collator = counting
        before = model.__dict__.get("forward")
        try:
            trainer.train()
        finally:
            trainer.accelerator.free_memory()
            if before is None:
                model.__dict__.pop("forward", None)
            if checkpointing:
                model.gradient_checkpointing_disable()
    return watch.result()


# --- the run ----------------------------------------------------------------------------------------------------------


def make_model(tiny: bool, device: str) -> Qwen2ForCausalLM:
    sizes = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936}
    if tiny:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000}
    config = Qwen2Config(**sizes, **heads, tie_word_embeddings=True, max_position_embeddings=4096, pad_token_id=PAD)
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM(config).float()


def sides(only: Sequence[str] | None) -> dict[str, tuple[Callable[..., dict], dict]]:
    found = {
        "ours": (run_ours, {}),
        "ours without graphs": (run_ours, {"graphs": False}),
        "TRL padded": (run_trl, {}),
        "TRL padded, grouped by length": (run_trl, {"train_sampling_strategy": "group_by_length"}),
        "TRL padding-free": (run_trl, {"padding_free": True}),
        "TRL padded, grouped, compiled": (
            run_trl,
            {"train_sampling_strategy": "group_by_length", "torch_compile": True},
        ),
        "student with entropy": (run_student, {}),
        "student without entropy": (run_student, {"entropy": False}),
    }
    return {name: side for name, side in found.items() if not only or name in only}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 12, 16, 32, 48, 64, 96])
    parser.add_argument("--checkpointing-batches", type=int, nargs="*", default=[32, 64, 128])
    parser.add_argument("--only", nargs="+", help="names of sides")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--cap", type=float, default=60.0, help="GB of GPU memory")
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds after which no new entry is begun")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try the script")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(args.cap * 1e9 / torch.cuda.mem_get_info()[1])
    model = make_model(args.tiny, device)
    start = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    examples = gsm8k_examples(max([*args.batches, *args.checkpointing_batches]) * (args.steps // 2 + 2), 1000, seed=0)
    parameters = sum(p.numel() for p in model.parameters())
    content = {
        "what": "SFT, real tokens a second, GSM8K's lengths; float32 weights and states, bfloat16 autocast",
        "parameters": parameters,
        "limit_tokens_per_second": LIMIT_TFLOPS * 1e12 / 6 / parameters,
        "mean_tokens": sum(map(len, examples)) / len(examples),
        "cap_gb": args.cap,
        "steps": args.steps,
        "learning_rate": LR,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "seed": 0,
        "entries": [],
    }
    for checkpointing, batches in ((False, args.batches), (True, args.checkpointing_batches)):
        for name, (run, settings) in sides(args.only).items():
            for batch in batches:
                if time.perf_counter() - began > args.deadline:
                    continue
                entry = {"side": name, "micro_batch": batch, "gradient_checkpointing": checkpointing}
                model.load_state_dict(start)
                model.zero_grad(set_to_none=True)
                from_here = time.perf_counter()
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                try:
                    entry |= run(model, examples, batch, args.steps, checkpointing, **settings)
                    if device == "cuda":
                        entry["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
                except Exception as problem:
                    entry["failed"] = f"{type(problem).__name__}: {str(problem)[:300]}"
                entry["wall_seconds"] = time.perf_counter() - from_here
                model.zero_grad(set_to_none=True)
                gc.collect()
                if device == "cuda":
                    torch.cuda.empty_cache()
                content["entries"].append(entry)
                content["seconds"] = time.perf_counter() - began
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    write_json(args.out, content)
                print(line(entry), flush=True)
                if "failed" in entry:
                    break  # larger ones will not fit either
    print_summary(content["entries"])


def line(entry: dict) -> str:
    name = f"{entry['side']}{', checkpointing' if entry['gradient_checkpointing'] else ''}"
    text = f"{name:46s} {entry['micro_batch']:4d}  "
    if "failed" in entry:
        return text + entry["failed"][:90].replace("\n", " ")
    loss = sum(entry["losses"][-5:]) / 5
    return text + (
        f"{entry['tokens_per_second']:8.0f} tokens/s {entry.get('peak_gb', 0):6.1f} GB   "
        f"loss {entry['losses'][0]:.3f} -> {loss:.3f}   [{entry['wall_seconds']:.0f} s]"
    )


def print_summary(entries: list[dict]) -> None:
    print("\nEach side at its best micro-batch:")
    for checkpointing in (False, True):
        best: dict[str, dict] = {}
        for entry in entries:
            if entry["gradient_checkpointing"] == checkpointing and "failed" not in entry:
                best[entry["side"]] = max(
                    best.get(entry["side"], entry), entry, key=lambda found: found["tokens_per_second"]
                )
        for entry in sorted(best.values(), key=lambda found: -found["tokens_per_second"]):
            print(line(entry))


if __name__ == "__main__":
    main()
