"""Make the embedded base model: tokenizer, pretraining text, a Qwen2-architecture model of about 3 M parameters.

    python recipes/make_tiny_base.py --out build/tiny-base                     # one GPU, a few minutes
    python recipes/make_tiny_base.py --out build/try --tokens 2e5 --device cpu --workers 2   # does it run at all?

Writes a folder that ``AutoModelForCausalLM.from_pretrained`` and vLLM load: ``model.safetensors`` (bf16),
``config.json``, ``generation_config.json``, the tokenizer, and ``training.json`` with configuration, versions, device,
loss curve and seed. The measured behaviour (model card) comes from ``recipes/measure_tiny_base.py``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cs336_sft.data.word_problems import generate_problems
from cs336_sft.prompts import get_template
from recipes.pretraining_text import SOURCES, documents

END_OF_TEXT = "<|endoftext|>"
# Qwen2.5's pre-tokenizer pattern: every digit is a token of its own.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class BaseModelConfig:
    """Everything that decides the model; stored beside it."""

    vocab_size: int = 2048  # at most: as many as the text yields
    hidden_size: int = 192
    layers: int = 6
    heads: int = 6  # of size 32, which vLLM's CPU attention has
    kv_heads: int = 2
    intermediate_size: int = 512
    positions: int = 4096
    tokens: int = 350_000_000
    sequence: int = 512
    batch: int = 512
    learning_rate: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.1
    seed: int = 0


def train_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen2.5's splitting rule, on pretraining text and reference answers."""
    template = get_template("gsm8k")
    corpus = list(documents(40_000, seed=10_000 + seed, end_of_text=""))
    # The fine-tuning format is in the tokenizer's text (so that its pieces are tokens), not in the model's.
    corpus += [
        template.prompt(p) + template.respond(p) for p in generate_problems(8_000, split="train", seed=20_000 + seed)
    ]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,  # as in the Qwen base models: pad and eos are one id
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def _encode_shard(task: tuple[int, int, str]) -> np.ndarray:
    """Token ids (uint16) of one shard of documents; runs in a worker process."""
    seed, count, tokenizer_file = task
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(tokenizer_file)
    texts = list(documents(count, seed=seed, end_of_text=END_OF_TEXT))
    ids = [i for encoding in tokenizer.encode_batch(texts, add_special_tokens=False) for i in encoding.ids]
    return np.asarray(ids, dtype=np.uint16)


def make_corpus(config: BaseModelConfig, tokenizer_file: Path, workers: int) -> np.ndarray:
    """At least ``config.tokens`` ids, from as many seeded shards as that takes."""
    shard_problems = max(200, min(20_000, config.tokens // (110 * workers)))
    context = get_context("spawn")
    parts: list[np.ndarray] = []
    total = shard = 0
    with context.Pool(workers) as pool:
        while total < config.tokens:
            seeds = range(shard, shard + 4 * workers)
            tasks = [(100_000 + 1000 * config.seed + s, shard_problems, str(tokenizer_file)) for s in seeds]
            for part in pool.imap(_encode_shard, tasks):
                parts.append(part)
                total += len(part)
            shard += 4 * workers
    return np.concatenate(parts)


def pretrain(config: BaseModelConfig, tokenizer, corpus: np.ndarray, device: str) -> tuple[Qwen2ForCausalLM, list]:
    """Next-token training on the packed corpus, one pass; returns the model and its loss curve."""
    torch.manual_seed(config.seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    ).to(device)
    batch = config.batch if device != "cpu" else 4
    length = config.sequence + 1
    rows = min(config.tokens, len(corpus)) // length
    data = torch.from_numpy(corpus[: rows * length].astype(np.int32)).view(rows, length)  # [rows, T + 1]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(config.seed))
    steps = rows // batch
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    warmup = max(1, int(config.warmup * steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / warmup) * max(0.0, min(1.0, (steps - s) / (steps - warmup + 1)))
    )
    forward = torch.compile(model) if device != "cpu" else model
    curve, start = [], time.time()
    for step in range(steps):
        ids = data[order[step * batch : (step + 1) * batch]].to(device, torch.int64)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu"):
            logits = forward(input_ids=ids[:, :-1], use_cache=False).logits  # [B, T, V]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            curve.append({"step": step, "loss": loss.item(), "seconds": round(time.time() - start, 1)})
            print(curve[-1], flush=True)
    return model, curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--tokens", type=float, default=BaseModelConfig.tokens, help="pretraining tokens")
    parser.add_argument("--seed", type=int, default=BaseModelConfig.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that write the text")
    parser.add_argument("--corpus", type=Path, help="folder to keep the corpus in and reuse it from")
    args = parser.parse_args()
    config = BaseModelConfig(tokens=int(args.tokens), seed=args.seed)
    started = time.time()
    work = args.corpus or args.out
    work.mkdir(parents=True, exist_ok=True)
    tokenizer_file, corpus_file = work / "tokenizer.json", work / "corpus.npy"
    if not tokenizer_file.exists():
        train_tokenizer(config.vocab_size, config.seed).save_pretrained(work)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work)
    print(f"tokenizer: {len(tokenizer)} entries, {time.time() - started:.0f} s", flush=True)
    if corpus_file.exists():
        corpus = np.load(corpus_file, mmap_mode="r")
    else:
        corpus = make_corpus(config, tokenizer_file, args.workers)
        if args.corpus:
            np.save(corpus_file, corpus)
    print(f"corpus: {len(corpus):,} tokens, {time.time() - started:.0f} s", flush=True)
    model, curve = pretrain(config, tokenizer, np.asarray(corpus), args.device)
    model = model.to("cpu", torch.bfloat16)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    record = {
        "config": asdict(config),
        "sources": [asdict(source) for source in SOURCES],
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": curve,
        "seconds": round(time.time() - started, 1),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or args.device,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "date": datetime.date.today().isoformat(),
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{record['parameters']:,} parameters, {record['seconds']} s -> {args.out}")


if __name__ == "__main__":
    main()
