"""``cs336-sft ei`` and ``grpo``: models that learn from their own graded answers, in rounds or by policy gradients.

cs336-sft ei --sft-size 128 --select random --match-samples-of runs/ei/ei --out runs/random
"""

from __future__ import annotations

import argparse
from typing import Any

from cs336_sft.cli import common
from cs336_sft.cli.config_options import HELP, add_run_options, given_fields
from cs336_sft.cli.sft import warn_of_overlap
from cs336_sft.experiments.config import ExpertIterationRunConfig, make_ei_config
from cs336_sft.grpo import run as grpo
from cs336_sft.model.loading import quiet_libraries

_SHARED = (
    *("profile", "model", "template", "data", "eval_data", "subset_seed", "eval_size", "max_new_tokens", "sampler"),
    *("gen_batch_size", "batch_size", "micro_batch_size", "warmup", "schedule", "weight_decay", "max_grad_norm"),
    *("mixed_precision", "weights_dtype"),
)
_GRPO_HELP = {name: HELP[name] for name in _SHARED} | grpo.HELP
_HELP = {name: HELP[name] for name in (*_SHARED, "gradient_checkpointing", "checkpoint_every")} | {
    "sft_size": "training problems for a first SFT, which are kept out of the pool (default 0)",
    "sft_epochs": "passes over the problems of the first SFT (default 3)",
    "sft_learning_rate": "learning rate of the first SFT (default: the profile's)",
    "skip_train": "leading training problems to leave out, because the model was trained on them (default 0)",
    "pool_size": "questions that rounds draw from (default: as many as a round asks)",
    "rounds": "number of rounds (default 3)",
    "questions_per_round": "questions in a round, D_b of the handout (default 128)",
    "num_samples": "samples per question, G of the handout (default 4)",
    "temperature": "sampling temperature of the rollouts (default 1.0)",
    "top_p": "nucleus sampling of the rollouts (default 1.0)",
    "min_new_tokens": "tokens of a rollout before end-of-text is allowed (default 4)",
    "select": "samples to train on: the correct ones, or a control (default correct)",
    "selection_grader": "grader that decides which samples are correct (default strict)",
    "add_format": "append the `#### N` line to kept samples, with --selection-grader lenient (default off)",
    "max_per_question": "samples kept per question, at most (default: all)",
    "drop_duplicates": "keep only the first of equal samples of a question (default on)",
    "append_eos": "end kept samples with end-of-text (default on)",
    "grader_error": "probability of flipping each reward before selection, as a control (default 0)",
    "train_from": "weights that each round trains: the previous round's, or the start's (default previous)",
    "epochs": "passes over the samples of a round (default 1)",
    "learning_rate": "learning rate of the rounds (default: the profile's)",
    "keep_rounds": "newest rounds whose weights stay on disk (default: all)",
    "test_checkpoint": "test at the end with the weights of the last round (default: no test)",
    "test_size": "number of test problems (default: as many as --eval-size)",
    "seed": "random seed for questions, samples and training (default 0)",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("ei", help="expert iteration: train on the model's own correct answers, in rounds")
    add_run_options(parser, ExpertIterationRunConfig, _HELP, run)
    shared = "run from which to take the number of samples, and so of steps, of each round"
    parser.add_argument("--match-samples-of", metavar="DIR", help=shared)
    parser.add_argument("--cache-dir", metavar="DIR", help="folder of rollouts, which runs can share")
    parser.add_argument("--plot", metavar="FILE", help="figure of the rounds to write: .png, .svg or .pdf")
    parser = subparsers.add_parser("grpo", help="policy gradients: answers compared with others to the same question")
    add_run_options(parser, grpo.GRPORunConfig, _GRPO_HELP, run_policy_gradients)


def run(args: argparse.Namespace) -> int:
    from cs336_sft.experiments.run_expert_iteration import run_expert_iteration, samples_of

    run_dir, plot = common.output_folder(args.out), common.picture_file(args.plot)
    given = given_fields(args, ExpertIterationRunConfig)
    config = make_ei_config(**given)
    if args.match_samples_of:
        config = make_ei_config(**given, samples_per_round=samples_of(args.match_samples_of, config.rounds))
    engine = common.vllm_config(args, config.sampler, config.max_new_tokens)
    quiet_libraries()
    result = run_expert_iteration(
        config,
        run_dir,
        engine=engine,
        cache_dir=args.cache_dir,
        report=lambda record: common.note(describe(record)),
        on_data=warn_of_overlap,
    )
    if plot is not None and result.rounds and common.is_main():
        from cs336_sft.experiments.ei_plots import plot_rounds

        common.save_picture(plot_rounds({run_dir.name: [result.rounds]}), plot)
    facts = {"profile": config.profile, "rounds": list(result.rounds), "test": result.test}
    header = "round,steps,kept,pass rate,coverage,accuracy,lenient,in format,length,entropy"
    cells = "{round} {steps} {kept_n} {rollout_pass_rate:.1%} {rollout_coverage:.1%} {accuracy:.1%} "
    cells += "{accuracy_lenient:.1%} {format_accuracy:.1%} {avg_gen_len:.1f} {rollout_entropy:.3f}"
    return common.finish_run(args, result, facts, header, cells, result.rounds)


def describe(record: dict[str, Any]) -> str:
    text = f"round {record['round']}: validation accuracy {100 * record['accuracy']:.1f} %"
    if record["round"]:
        text += f"; of {record['rollout_n']} samples {100 * record['rollout_pass_rate']:.1f} % correct"
        text += f", trained on {record['kept_n']} for {record['steps']} steps"
    return text


def run_policy_gradients(args: argparse.Namespace) -> int:
    run_dir, config = common.output_folder(args.out), grpo.make_grpo_config(**given_fields(args, grpo.GRPORunConfig))
    engine = common.vllm_config(args, config.sampler, config.max_new_tokens)
    quiet_libraries()
    said = {"report": lambda record: common.note(grpo.describe(record)), "on_data": warn_of_overlap}
    result = grpo.start_grpo(config, run_dir, engine=engine, **said)
    facts = {"profile": config.profile, "steps": result.steps, "summary": grpo.summarise(result)}
    return common.finish_run(args, result, facts, grpo.HEADER, grpo.CELLS, facts["summary"])
