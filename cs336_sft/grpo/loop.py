"""Run GRPO: sample groups of answers, grade them, compare within groups, update the policy, and again.

A step depends on the configuration, the problems, and the weights and optimizer before it, never on what happened in
the process. A run that was killed at any moment is resumed by the same call and ends with the same numbers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.evaluation.evaluate import evaluate, grade_generation
from cs336_sft.evaluation.response_scores import engine_gap, score_responses
from cs336_sft.expert_iteration.metrics import rollout_metrics, timed
from cs336_sft.expert_iteration.rollouts import as_sampled, sample_rollouts
from cs336_sft.expert_iteration.run_folder import engine_name
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.grading import get_reward_fn
from cs336_sft.grpo.advantages import group_advantages
from cs336_sft.grpo.config import GRPOConfig
from cs336_sft.grpo.losses import grpo_microbatch_train_step
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Example, Graded, Problem
from cs336_sft.tokenization import collate
from cs336_sft.training import checkpoints, schedules, setup
from cs336_sft.training.result import TrainingResult, load_result
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.session import checkpoint_to_continue
from cs336_sft.training.step import NonFiniteLossError, make_optimizer
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import JSONDict, plain, replace_folder, write_json
from cs336_sft.utils.interrupts import StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Nats by which engine and policy may differ on the answers' tokens. More, and the engine has other weights.
LARGEST_GAP = 0.1


def run_grpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: PromptTemplate,
    config: GRPOConfig,
    run_dir: str | Path,
    *,
    sampler: Sampler,
    validation: Sequence[Problem] = (),
    report: Callable[[JSONDict], Any] | None = None,
) -> TrainingResult:
    """Improve a model in place by policy gradients on its own answers.

    Each step draws questions from ``problems``. ``sampler`` gets the new weights before each; ``report`` receives each
    step's record. ``validation`` is answered greedily at ``config.eval_every``. A run directory like ``train_sft``'s.
    Raises ConfigError: too few problems, or several processes. CourseError: the sampler has other weights.
    Raises RunDirectoryError: see ``RunDirectory``. NonFiniteLossError: the update was not made.
    """
    if processes.world_size() > 1:
        raise ConfigError(f"GRPO in {processes.world_size()} processes", "start it in one")
    if len(problems) < config.questions_per_step:
        problem = f"questions_per_step is {config.questions_per_step}, there are {len(problems)} problems"
        raise ConfigError(problem, "lower it, or give more problems")
    directory = RunDirectory(run_dir)
    model.to(processes.own_device())
    setup.set_weights_dtype(model, config)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([model.device] if model.device.type == "cuda" else []))
        stack.enter_context(directory.locked())
        stop = stack.enter_context(StopRequest())
        stack.callback(model.eval)
        _check_identity(directory, model, config, template, sampler, problems, validation)
        finished = directory.result.exists()
        start = checkpoint_to_continue(directory, finished)
        optimizer, done = make_optimizer(model, config), start.step if start else 0
        if start:
            with torch.no_grad():
                checkpoints.load_weights(start, model)
            checkpoints.load_optimizer(start, model, optimizer)
        if finished:
            return load_result(directory.path)
        for lines in (directory.metrics, directory.evaluations):
            lines.keep(lambda record: record["step"] <= done)  # later steps are made again
        directory.add_session(setup.versions(model.device) | {"from_step": done})
        evaluated = {record["step"] for record in directory.evaluations.read()}
        due = schedules.evaluation_steps(config.steps, config.eval_every) if validation else ()
        for step in range(done, config.steps + 1):
            if step > done:
                record = _step(directory, model, tokenizer, optimizer, problems, template, config, step, sampler)
                directory.metrics.append(plain(record))
                if report is not None:
                    report(record)
                if step % config.checkpoint_every == 0 or step == config.steps:
                    _save(directory, step, model, optimizer, config)
            if step in due and step not in evaluated and not stop.requested:
                try:
                    with stop.at_once():  # an evaluation can be thrown away
                        found = _evaluate(directory, sampler, model, template, config, validation, step)
                    directory.evaluations.append(plain(found))
                except KeyboardInterrupt:
                    stop.requested = True
            if stop.requested:
                if step > done:
                    _save(directory, step, model, optimizer, config)
                break
        else:
            replace_folder(directory.final, lambda folder: setup.save_model(model, tokenizer, folder))
            write_json(directory.result, {"steps": config.steps})
        directory.write_tables()
    return load_result(directory.path)


def _step(directory, model, tokenizer, optimizer, problems, template, config, step, sampler) -> JSONDict:
    """Sample, grade and update once, and return the record of the step."""
    record: JSONDict = {"step": step}
    draw = random.Random(f"questions of step {step}, seed {config.seed}")
    questions = draw.sample(problems, config.questions_per_step)
    with timed(record, "rollout"):
        sampler.update_weights(model)
        rollouts = sample_rollouts(  # [questions][G], kept on disk
            sampler,
            [template.prompt(problem) for problem in questions],
            config.sampling(step, stop=template.stop),
            directory.path / "rollouts",
            weights=checkpoints.fingerprint_weights(model),
            engine=engine_name(sampler),
            chunk=config.chunk_questions,
        )
    reward_fn = get_reward_fn(template.style)
    pairs = zip(questions, rollouts, strict=True)
    graded = [grade_generation(problem, sample, reward_fn) for problem, samples in pairs for sample in samples]
    rewards = torch.tensor(rewards_of(graded, config, step))  # [N]
    advantages, informative = group_advantages(rewards, config.num_samples, by_std=config.normalize_by_std)
    samples = [item.generation for item in graded]
    examples = as_sampled(samples, tokenizer)
    with timed(record, "training"):
        scores = score_responses(model, examples)  # the policy that sampled, before any update
        gap = engine_gap(scores, samples)
        if gap is not None and gap > LARGEST_GAP:
            problem = f"step {step}: the sampler's log-probabilities differ by {gap:.2f} nats from the policy's"
            raise CourseError(problem, "correct the sampler's update_weights(), or sample at temperature 1 in float32")
        warmup = schedules.warmup_steps(config.warmup, config.steps)
        lr = config.learning_rate * schedules.lr_factor(step, config.steps, config.schedule, warmup)
        old = [torch.tensor(score.logprobs) for score in scores]
        record |= update(model, optimizer, examples, advantages, old, config, step, lr)
    found = {f"rollout_{name}": value for name, value in rollout_metrics(graded).items()}
    return record | {"reward": rewards.mean().item(), "informative": informative, "engine_gap": gap} | found


def rewards_of(graded: Sequence[Graded], config: GRPOConfig, step: int) -> list[float]:
    """Return the reward of each answer, as the configuration defines it."""
    if config.reward == "random":  # as often as the right answers get one, whatever the answer is
        order = list(range(len(graded)))
        random.Random(f"rewards of step {step}, seed {config.seed}").shuffle(order)
        return [float(graded[index].reward) for index in order]
    names = {"strict": "reward", "lenient": "lenient", "format": "format_reward"}
    return [float(getattr(item, names[config.reward])) for item in graded]


def update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Example],
    advantages: torch.Tensor,
    old_log_probs: Sequence[torch.Tensor],
    config: GRPOConfig,
    step: int,
    lr: float,
) -> JSONDict:
    """Make a step's optimizer updates on answers ``[N]`` and their advantages.

    ``old_log_probs`` holds one tensor for each answer's tokens. Batches without an informative group are left out.
    Returns numbers of all updates: means of ``loss``, ``grad_norm``, ``clip_fraction`` and ``kl`` (of the policy that
    sampled from the present one, in nats per token, estimated), and ``updates``.
    """
    model.train()
    torch.manual_seed(config.seed * 100_000 + step)  # for dropout
    for group in optimizer.param_groups:
        group["lr"] = lr
    device = next(model.parameters()).device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers: dict[str, list[float]] = {"loss": [], "grad_norm": [], "clip_fraction": [], "kl": []}
    for epoch in range(config.epochs):
        order = list(range(len(examples)))
        random.Random(f"epoch {epoch} of step {step}, seed {config.seed}").shuffle(order)
        for first in range(0, len(order), config.batch_size):
            batch = order[first : first + config.batch_size]
            if not advantages[batch].any():
                continue
            sums = dict.fromkeys(("loss", "clip_fraction", "kl"), 0.0)
            tokens = sum(len(examples[index].response_ids) for index in batch)
            size = config.micro_batch_size or len(batch)
            for part in (batch[at : at + size] for at in range(0, len(batch), size)):
                made, share = collate([examples[index] for index in part], pad_id=0), len(part) / len(batch)
                mask = made.response_mask.to(device)
                known = torch.cat([old_log_probs[index] for index in part]).to(device)
                old = known.new_zeros(mask.shape).masked_scatter(mask, known)  # [B, T]
                with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
                    found = get_response_log_probs(model, made.input_ids.to(device), made.labels.to(device))
                log_probs = found["log_probs"]  # [B, T]
                weights = advantages[part].unsqueeze(1).to(device)  # [B, 1]
                loss, metadata = grpo_microbatch_train_step(
                    log_probs,
                    mask,
                    1 / share,  # microbatches may differ in size
                    config.loss_type,
                    raw_rewards=weights,
                    advantages=weights,
                    old_log_probs=old,
                    cliprange=config.cliprange,
                    constant_normalize_factor=config.max_new_tokens if config.lengths == "constant" else None,
                )
                change = (log_probs.detach() - old)[mask]  # log of the ratio
                sums["loss"] += float(loss)
                sums["kl"] += float((change.exp() - 1 - change).sum()) / tokens
                if "is_clipped" in metadata:
                    sums["clip_fraction"] += int(metadata["is_clipped"][mask].sum()) / tokens
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf)
            if not (math.isfinite(sums["loss"]) and math.isfinite(norm)):
                optimizer.zero_grad()
                raise NonFiniteLossError(step, f"loss {sums['loss']}, gradient norm {float(norm)}")
            optimizer.step()
            optimizer.zero_grad()
            for name, value in (sums | {"grad_norm": float(norm)}).items():
                numbers[name].append(value)
    means = {name: fmean(values) if values else None for name, values in numbers.items()}
    return means | {"updates": len(numbers["loss"]), "lr": lr}


def _evaluate(directory, sampler, model, template, config, validation, step) -> JSONDict:
    record: JSONDict = {"step": step}
    sampling = SamplingConfig(max_new_tokens=config.max_new_tokens, stop=template.stop, record_entropy=True)
    with timed(record, "evaluation"):
        sampler.update_weights(model)
        path = directory.generations / f"step-{step:06d}.jsonl"
        found = evaluate(sampler, validation, template, get_reward_fn(template.style), sampling, path=path)
    return record | found.metrics.as_dict()


def _save(directory, step, model, optimizer, config) -> None:
    directory.metrics.sync()
    directory.evaluations.sync()
    last = optimizer if step < config.steps else None
    checkpoints.save_checkpoint(directory.checkpoints, step, model, last, config.keep_checkpoints)


def _check_identity(directory, model, config, template, sampler, problems, validation) -> None:
    """Store the identity of a new run, or compare it with that of an existing one."""
    identity = {
        **config.to_dict(),
        "starting_weights": setup.starting_weights(directory, model),
        "template": template.fingerprint,
        "sampler": engine_name(sampler),
        "problems": setup.fingerprint_problems(problems),
        "validation": setup.fingerprint_problems(validation),
    }
    directory.check_config(identity, free=setup.free_fields(config) | {"chunk_questions"})
