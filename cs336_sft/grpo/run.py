"""One run of GRPO from its configuration: problems, model, sampler, steps, and a short table of what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cs336_sft.experiments.config import RunFields, make_config
from cs336_sft.grpo.config import GRPOConfig
from cs336_sft.utils.files import JSONDict
from cs336_sft.utils.validation import check_choice, check_counts, is_count, narrow

if TYPE_CHECKING:
    from cs336_sft.experiments.run import RunData
    from cs336_sft.generation.vllm_backend.config import VLLMConfig
    from cs336_sft.training.result import TrainingResult

# Help texts of the fields that other commands lack, or have with other words.
HELP = {
    "train_size": "training problems that steps draw questions from (default: the profile's, 512)",
    "steps": "number of steps: sample, grade, update (default 50)",
    "questions_per_step": "questions in a step (default 8)",
    "num_samples": "answers to each question, the group that an answer is compared with (default 8)",
    "temperature": "sampling temperature of the answers (default 1.0)",
    "min_new_tokens": "tokens of an answer before end-of-text is allowed (default 4)",
    "reward": "grader that gives the rewards, or a control (default strict)",
    "loss_type": "policy-gradient loss (default grpo_clip)",
    "cliprange": "change of a token's probability at which grpo_clip stops pushing it (default 0.2)",
    "normalize_by_std": "divide advantages by the group's standard deviation; off: Dr. GRPO (default on)",
    "lengths": "mean over each answer's tokens, or sum over --max-new-tokens: Dr. GRPO (default answer)",
    "epochs": "passes over the answers of a step; above 1 off-policy (default 1)",
    "batch_size": "answers in one optimizer update; fewer than a step has: off-policy (default: all of the step)",
    "learning_rate": "peak learning rate (default: the profile's)",
    "eval_every": "steps between evaluations, a JSON list of steps, log (1, 2, 4, ...) or none (default 10)",
    "checkpoint_every": "steps between checkpoints (default 10)",
    "seed": "random seed for questions, answers and updates (default 0)",
}
# The table: what was measured on the answers of the steps, and on validation problems.
HEADER = "step,reward,informative,entropy,length,accuracy,lenient,in format"
CELLS = (
    "{step} {reward:.3f} {informative:.1%} {rollout_entropy:.3f} {rollout_length:.1f} "
    "{accuracy:.1%} {accuracy_lenient:.1%} {format_accuracy:.1%}"
)


@dataclass(frozen=True)
class GRPORunConfig(RunFields, GRPOConfig):
    """Everything that one run of GRPO is made of."""

    train_size: int = 512  # problems that steps draw questions from
    subset_seed: int = 0  # chooses them

    def __post_init__(self) -> None:
        GRPOConfig.__post_init__(self)
        RunFields.__post_init__(self)
        check_counts(self, "train_size")
        check_counts(self, "subset_seed", least=0)
        check_choice(self, "test_checkpoint", (None,))


def make_grpo_config(**overrides: Any) -> GRPORunConfig:
    """Make a configuration of GRPO (see ``make_config``).

    ``epochs`` and ``batch_size`` are of a step: by default one update on all of its answers, whatever the profile.

    >>> make_grpo_config(num_samples=16).batch_size
    128
    """
    sizes = [overrides.get(name, getattr(GRPOConfig, name)) for name in ("questions_per_step", "num_samples")]
    defaults = {"epochs": 1} | ({"batch_size": sizes[0] * sizes[1]} if all(map(is_count, sizes)) else {})
    return make_config(config_class=GRPORunConfig, **defaults | overrides)


def start_grpo(
    config: GRPORunConfig,
    run_dir: str | Path,
    *,
    engine: VLLMConfig | None = None,
    report: Callable[[JSONDict], Any] | None = None,
    on_data: Callable[[RunData], None] | None = None,
) -> TrainingResult:
    """Run GRPO, or resume it, or return a finished run's result.

    ``engine`` holds the settings of a new vLLM engine. ``report`` receives each step's record, ``on_data`` the
    problems before training.
    Raises CourseError: see ``Profile.problems``, ``load_model_and_tokenizer`` and ``run_grpo``.
    """
    from cs336_sft.experiments.run import load_data, open_sampler
    from cs336_sft.grpo.loop import run_grpo
    from cs336_sft.model.loading import load_model_and_tokenizer
    from cs336_sft.prompts import get_template
    from cs336_sft.utils.distributed import own_device

    source, template, data = config.model_source(), get_template(config.template), load_data(config)
    if on_data:
        on_data(data)
    model, tokenizer = load_model_and_tokenizer(source, device=str(own_device()))
    with open_sampler(config, model, tokenizer, source, engine) as sampler:
        given = {"sampler": sampler, "validation": data.validation, "report": report}
        return run_grpo(model, tokenizer, data.training, template, narrow(config, GRPOConfig), run_dir, **given)


def summarise(result: TrainingResult) -> list[JSONDict]:
    """Join each evaluation with the means of the steps since the last one.

    The last steps get a row even if nothing was evaluated after them.
    """
    evaluations, rows, before = {record["step"]: record for record in result.evaluations}, [], 0
    for step in sorted({*evaluations, result.steps}):
        row: JSONDict = {"step": step} | evaluations.get(step, {})
        steps = [record for record in result.metrics if before < record["step"] <= step]
        for name in ("reward", "informative", "rollout_entropy", "rollout_length"):
            values = [record[name] for record in steps if record[name] is not None]
            row |= {name: fmean(values)} if values else {}
        rows.append(row)
        before = step
    return rows


def describe(record: JSONDict) -> str:
    """Write the line that is shown after a step."""
    made = f"gradient norm {record['grad_norm']:.3g}" if record["updates"] else "no update: each group has one reward"
    informative = f"{100 * record['informative']:.0f} % informative"
    return f"step {record['step']}: reward {record['reward']:.3f}, {informative}, {made}"
