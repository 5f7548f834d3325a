"""What this machine can run, and about how long the lessons will take on it.

Facts come from ``machine``; times from a calibration of a few seconds with the embedded model, scaled against the run
of the notebooks that ``assets/lesson_times.json`` records.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from cs336_sft.errors import CourseError, DataError
from cs336_sft.experiments.machine import Machine, look_at_machine


@dataclass(frozen=True)
class Speed:
    """Tokens per second of the embedded model on one device: training (forward, backward, AdamW) and generation."""

    train_tokens_per_s: float
    generate_tokens_per_s: float


def calibrate(seconds: float = 5.0, *, model: Any = None) -> Speed:
    """Measure the embedded model on this machine's best device, for about the given time.

    Args:
        model: another model in place of the embedded one; it is not changed (no optimizer step is kept).

    Raises:
        CourseError: the embedded model is missing.
    """
    import torch

    from cs336_sft.model.loading import best_device, embedded_model_path, load_model_and_tokenizer

    if model is None:
        model, _ = load_model_and_tokenizer(embedded_model_path())
    else:
        model = copy.deepcopy(model)
    model = model.to(best_device())
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (8, 192), generator=generator).to(model.device)  # [B, T], as in the lessons
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def train() -> int:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return ids.numel()

    prompts = ids[:, :64].repeat(8, 1)  # 64 prompts of 64 tokens

    def generate() -> int:
        with torch.no_grad():
            output = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                min_new_tokens=32,
                max_new_tokens=32,
                do_sample=False,
                pad_token_id=0,
            )
        return output[:, prompts.shape[1] :].numel()

    model.train()
    training = _tokens_per_second(train, seconds / 2)
    model.eval()
    return Speed(round(training, 1), round(_tokens_per_second(generate, seconds / 2), 1))


def _tokens_per_second(work: Any, seconds: float) -> float:
    """Repeat the work, which returns its number of tokens, for about so long; the first time warms up uncounted."""
    import torch

    work()
    tokens, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or tokens == 0:
        tokens += work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return tokens / passed if passed > 0 else math.inf


def recorded_lessons() -> tuple[Speed, dict[str, float]]:
    """The stored run: its machine's speed, and notebook name -> seconds.

    Raises:
        DataError: the file of the package is damaged.

    >>> recorded_lessons()[1]["00_start_here"] > 0
    True
    """
    path = resources.files("cs336_sft") / "assets" / "lesson_times.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Speed(**stored["speed"]), {name: float(s) for name, s in stored["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error})", "install cs336-sft again") from error


def lesson_times(speed: Speed, reference: Speed, seconds: dict[str, float]) -> dict[str, float]:
    """About how long each lesson takes here: the recorded seconds times the geometric mean of the two speed ratios.

    >>> lesson_times(Speed(500.0, 2000.0), Speed(1000.0, 4000.0), {"01": 30.0})
    {'01': 60.0}
    """
    factor = math.sqrt(
        reference.train_tokens_per_s
        / speed.train_tokens_per_s
        * reference.generate_tokens_per_s
        / speed.generate_tokens_per_s
    )
    return {name: round(value * factor, 1) for name, value in seconds.items()}


def profile_verdicts(machine: Machine) -> dict[str, dict[str, Any]]:
    """For each profile whether this machine can run it now, and what is missing or to be expected.

    Full fine-tuning of 1.5 billion parameters keeps fp32 weights, gradients and AdamW's two states: 16 bytes a
    parameter, 24.6 GB before activations.
    """
    memory = max((gpu.memory_gib for gpu in machine.gpus), default=0.0)
    no_gsm8k = [] if machine.gsm8k or "datasets" in machine.versions else [f"GSM8K: {machine.gsm8k_note}"]
    unfetched = [] if machine.fetched.get("smollm2") else ["run `cs336-sft fetch smollm2`"]
    if memory >= 40:
        qwen, qwen_note = True, "full fine-tuning fits the GPU"
    elif memory >= 22:
        qwen, qwen_note = True, "LoRA or QLoRA fits the GPU, full fine-tuning does not"
    else:
        qwen, qwen_note = False, "needs a GPU with 44-80 GB (24 GB for LoRA or QLoRA)"
    small = machine.memory_gib < 2
    return {
        "tiny": {"runs": not small, "note": "less than 2 GB of memory" if small else "everything it needs is here"},
        "smollm2": {
            "runs": not (no_gsm8k or unfetched),
            "note": "; ".join(no_gsm8k + unfetched) or ("on the GPU" if machine.gpus else "on the CPU, with patience"),
        },
        "qwen2.5-math-1.5b": {"runs": qwen and not no_gsm8k, "note": "; ".join([qwen_note, *no_gsm8k])},
    }


def examine(*, calibration: bool = True, seconds: float = 5.0) -> dict[str, Any]:
    """Everything that ``cs336-sft doctor`` says, as JSON has it. A calibration that fails is a note, not an error."""
    machine = look_at_machine()
    report: dict[str, Any] = {"machine": asdict(machine), "profiles": profile_verdicts(machine)}
    report["machine"]["gpus"] = [asdict(gpu) for gpu in machine.gpus]
    report |= {"speed": None, "lesson_seconds": None, "note": ""}
    if calibration:
        try:
            speed = calibrate(seconds)
            report["speed"] = asdict(speed)
            report["lesson_seconds"] = lesson_times(speed, *recorded_lessons())
        except CourseError as error:
            report["note"] = str(error)
    return report
