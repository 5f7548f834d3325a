"""Supervised fine-tuning: ``train_sft`` evaluates, makes an optimizer step, logs it, and saves checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from cs336_sft.data.batching import epoch_batches
from cs336_sft.errors import ConfigError
from cs336_sft.records import Example
from cs336_sft.tokenization import padding_id
from cs336_sft.training import schedules
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.result import TrainingResult, load_result
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.session import Session, open_session
from cs336_sft.training.setup import check_examples, check_saving
from cs336_sft.training.step import make_microbatches, optimizer_step
from cs336_sft.utils.files import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Evaluator = Callable[[int], Mapping[str, float]]


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: SFTConfig,
    run_dir: str | Path,
    *,
    evaluator: Evaluator | None = None,
    evaluation: Mapping[str, Any] | None = None,
    keep_weights: bool = True,
) -> TrainingResult:
    """Fine-tune ``model`` in place, or resume or read the run of ``run_dir``.

    ``evaluator(step)`` returns flat metrics; it is called at the steps of ``config.eval_every``, with the model in
    evaluation mode, in every process. ``evaluation`` describes it: a run can't be resumed with another description.
    Without ``keep_weights`` a checkpoint is written only when the run is interrupted, and no final model.
    Raises RunDirectoryError (the directory is another run's, in use, or damaged), DataError, ContextLengthError or
    ConfigError (examples, model and configuration do not go together), or NonFiniteLossError.
    """
    examples = tuple(examples)
    check_examples(examples, model)
    check_saving(model, tokenizer)
    run, pad_id = RunDirectory(run_dir), padding_id(tokenizer, model.get_input_embeddings().num_embeddings)
    lengths = [len(example) for example in examples]
    steps_per_epoch = schedules.total_steps(len(examples), config.batch_size, epochs=1)
    total = schedules.total_steps(len(examples), config.batch_size, config.epochs, config.max_steps)
    warmup = schedules.warmup_steps(config.warmup, total)
    evaluate_at = schedules.evaluation_steps(total, config.eval_every) if evaluator else ()
    checkpoint_at = schedules.checkpoint_steps(total, config.checkpoint_every, steps_per_epoch) if keep_weights else ()

    @lru_cache(1)
    def batches_of(epoch: int) -> list[tuple[int, ...]]:
        return epoch_batches(lengths, config.batch_size, seed=config.seed, epoch=epoch)

    with open_session(model, tokenizer, examples, config, run, evaluation or {}, keep_weights) as session:
        if session.finished:
            return load_result(run.path)
        done = session.first_step - 1
        # disable=None: off if stderr is no terminal (a log file, CI); a notebook shows it all the same.
        hidden = None if config.progress and session.group.is_main else True
        with tqdm(total=total, initial=done, desc="SFT", unit="step", disable=hidden) as bar:
            for step in range(done, total + 1):  # the first round only evaluates: step 0, or the checkpoint's
                epoch = step / steps_per_epoch
                if step > done:
                    began = time.perf_counter()
                    number, position = divmod(step - 1, steps_per_epoch)
                    indices = batches_of(number)[position]
                    own = session.group.own_part(indices, lengths)
                    microbatches = make_microbatches(examples, own, config.micro_batch_size, pad_id)
                    lr = config.learning_rate * schedules.lr_factor(step, total, config.schedule, warmup)
                    with session.logging_failure(step, examples, indices):
                        numbers = optimizer_step(
                            session.trained, session.optimizer, microbatches, config, step, lr, session.group
                        )
                    tokens, seconds = sum(lengths[index] for index in indices), time.perf_counter() - began
                    speed = {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
                    session.log_step({"step": step, "epoch": epoch, **numbers, **speed})
                    bar.set_postfix(loss=f"{numbers['loss']:.3f}", tokens_per_s=f"{tokens / seconds:.0f}")
                    bar.update()
                    if step in checkpoint_at:  # before the evaluation, so that a crash in it loses nothing
                        last = step == total
                        if last or config.checkpoint_every != "epoch" or session.is_worth_saving():
                            session.save(step, last=last)
                due = step in evaluate_at and step not in session.evaluated
                if due and not session.stop_requested():
                    _evaluate(session, evaluator, step, epoch)
                if session.stop_requested():
                    session.save(step)
                    if session.group.is_main:
                        text = f"Stopped. To continue, call the same again with the run directory {run.path}"
                        tqdm.write(text, file=sys.stderr)
                    break
            else:
                session.finish(total)
    return load_result(run.path)


def _evaluate(session: Session, evaluator: Evaluator, step: int, epoch: float) -> None:
    group = session.group
    session.model.eval()
    began = time.perf_counter()
    # An evaluation can be thrown away, so Ctrl-C ends it at once. Several processes stop after it, together.
    at_once = session.stop.at_once() if group.size == 1 else nullcontext()
    try:
        with group.evaluating(), at_once:
            metrics = plain(evaluator(step))
    except KeyboardInterrupt:
        session.stop.requested = True
        return
    except Exception:
        if group.saves_alone:
            session.save(step)  # a failing evaluator must not lose the steps so far
        raise
    if taken := [name for name in ("step", "epoch", "seconds") if name in metrics]:
        raise ConfigError(f"the evaluator returned a metric called {taken[0]!r}", "give it another name")
    seconds = time.perf_counter() - began
    session.log_evaluation({"step": step, "epoch": epoch, **metrics, "seconds": seconds})
