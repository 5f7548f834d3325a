"""The settings of expert iteration, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from cs336_sft.errors import ConfigError
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.training.config import SFTConfig

Select = Literal["correct", "random", "finished", "human"]
Judge = Literal["strict", "lenient"]


@dataclass(frozen=True)
class ExpertIterationConfig:
    """How to iterate. Together with the problems and the starting weights it fixes every number of a run.

    Attributes:
        rounds: how often to sample, select and train.
        questions_per_round: D_b of the handout's Algorithm 2: questions drawn from the pool in each round, without
            replacement within a round. As many as the pool has: the same questions in every round.
        rollouts: G, samples a question.
        temperature, top_p, min_new_tokens, max_new_tokens: of the rollouts; ``max_new_tokens`` is also the limit of
            the evaluations, which are greedy.
        continue_from: each round trains on from the ``"previous"`` round's weights (the handout), or anew from the
            ``"start"`` (STaR, ReST-EM); the samples are the previous round's policy's in both cases.
        optimizer: ``"reset"`` begins every round with fresh AdamW states, ``"keep"`` takes over those of the round
            before.
        select: what is trained on: ``"correct"`` samples (expert iteration), or a control: as many ``"random"`` ones,
            unfiltered; as many random ones of those that ``"finished"`` before the limit, right or wrong; or the
            ``"human"`` reference answers to the round's questions, for as many steps.
        per_question_cap: at most so many samples of one question; 1 is the control "one per question"; None: no cap.
        drop_duplicates: of equal samples of a question keep the first.
        judge: what makes a sample correct: its ``"strict"`` reward, or a ``"lenient"`` reading of its final answer
            (for a base model, whose strict reward is near zero).
        add_format: end each kept sample with the reference's ``#### N`` line, for samples judged leniently.
        grader_error: probability with which a verdict is turned around, right to wrong and wrong to right (control).
        truncated: what becomes of a correct sample that the limit cut off: ``"drop"`` it, or ``"trim"`` it to the
            end of its answer.
        append_eos: end kept samples with end-of-text where they ended otherwise (at a stop string, or trimmed).
        samples_per_round: for each round the number of samples that decides its number of steps, and that ``random``
            draws; a larger selection is thinned out to it. Taken from another arm it makes two arms equal in steps.
            None: the number that this arm's own filter keeps.
        chunk_questions: questions sampled at a time; what a killed run loses at most.
        record_entropy: record the entropy of every sampled token (the sampler's; else the policy's, in chunks).
        keep_rounds: rounds whose weights stay on the disk, counted from the newest; None: all.
        seed: of questions, samples, control draws, grader errors and the order of training.
        sft: of each round's training (``epochs`` is epochs per round; ``seed`` and ``eval_every`` are not used: each
            round has a seed of its own, and evaluations come after rounds).

    Raises:
        ConfigError: a field out of range, or two that contradict each other.

    >>> ExpertIterationConfig(rounds=5, rollouts=8).questions_per_round
    128
    >>> ExpertIterationConfig(rollouts=4, temperature=0.0)
    Traceback (most recent call last):
    ...
    cs336_sft.errors.ConfigError: ExpertIterationConfig.temperature is 0.0. Remedy: samples at temperature 0 are all ...
    """

    rounds: int = 3
    questions_per_round: int = 128
    rollouts: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    min_new_tokens: int = 4
    max_new_tokens: int = 160
    continue_from: Literal["previous", "start"] = "previous"
    optimizer: Literal["reset", "keep"] = "reset"
    select: Select = "correct"
    per_question_cap: int | None = None
    drop_duplicates: bool = True
    judge: Judge = "strict"
    add_format: bool = False
    grader_error: float = 0.0
    truncated: Literal["drop", "trim"] = "drop"
    append_eos: bool = True
    samples_per_round: tuple[int, ...] | None = None
    chunk_questions: int = 32
    record_entropy: bool = True
    keep_rounds: int | None = None
    seed: int = 0
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(epochs=1, progress=False))

    def __post_init__(self) -> None:
        def demand(ok: bool, name: str, remedy: str) -> None:
            if not ok:
                raise ConfigError(f"ExpertIterationConfig.{name} is {getattr(self, name)!r}", remedy)

        for name in ("rounds", "questions_per_round", "rollouts", "chunk_questions"):
            demand(_is_count(getattr(self, name)), name, "give a whole number of at least 1")
        for name in ("per_question_cap", "keep_rounds"):
            value = getattr(self, name)
            demand(value is None or _is_count(value), name, "give a whole number of at least 1, or None")
        demand(
            self.rollouts == 1 or self.temperature != 0,
            "temperature",
            "samples at temperature 0 are all the same: raise it, or set rollouts=1",
        )
        for name in ("continue_from", "optimizer", "select", "judge", "truncated"):
            allowed = get_args(_LITERALS[name])
            demand(getattr(self, name) in allowed, name, f"choose one of {', '.join(allowed)}")
        for name in ("drop_duplicates", "add_format", "append_eos", "record_entropy"):
            demand(isinstance(getattr(self, name), bool), name, "give True or False")
        demand(0 <= self.grader_error <= 1, "grader_error", "give a probability from 0 to 1")
        demand(_is_count(self.seed, least=0), "seed", "give a whole number of at least 0")
        demand(
            not (self.optimizer == "keep" and self.continue_from == "start"),
            "optimizer",
            "set 'reset': the states belong to weights that continue_from='start' gives up",
        )
        demand(
            not self.add_format or self.judge == "lenient",
            "add_format",
            "leave it False, or set judge='lenient': a sample that passes the strict judge has the format",
        )
        demand(
            not (self.judge == "lenient" and self.truncated == "trim"),
            "truncated",
            "set 'drop': a lenient reading does not say where the answer ends",
        )
        counts = self.samples_per_round
        demand(
            counts is None
            or (
                isinstance(counts, tuple)
                and len(counts) == self.rounds
                and all(_is_count(count, least=0) for count in counts)
            ),
            "samples_per_round",
            f"give one whole number for each of the {self.rounds} rounds, or None",
        )
        demand(self.sft.max_steps is None, "sft", "leave its max_steps None: epochs and samples give the steps")
        self.sampling()  # checks the rest

    def sampling(self, round_number: int = 1, *, stop: tuple[str, ...] = ()) -> SamplingConfig:
        """How the rollouts of a round are sampled. Every round has a seed of its own: the policy may not have
        changed (nothing was correct), and the same questions must still get new samples."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            n=self.rollouts,
            seed=self.seed * 1000 + round_number,
            stop=stop,
            min_new_tokens=self.min_new_tokens,
            # No engine but ours records distributions in which end-of-text was not yet forbidden and finds stop strings
            # at once; the policy then gives the entropies.
            record_entropy=self.record_entropy and not (stop and self.min_new_tokens),
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat, as JSON has it: the training's fields as ``sft.learning_rate`` and so on.

        >>> ExpertIterationConfig().to_dict()["sft.epochs"]
        1
        """
        own = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items() if name != "sft"}
        return own | {f"sft.{name}": value for name, value in self.sft.to_dict().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExpertIterationConfig:
        """The inverse of ``to_dict``. Fields that are left out have their defaults.

        Raises:
            ConfigError: a field that does not exist, or a value out of range.

        >>> config = ExpertIterationConfig(rounds=2, samples_per_round=(5, 6))
        >>> ExpertIterationConfig.from_dict(config.to_dict()) == config
        True
        """
        known = [item.name for item in fields(cls)]
        own = {name: value for name, value in values.items() if not name.startswith("sft.")}
        for name in own:
            if name not in known:
                raise ConfigError(f"ExpertIterationConfig has no field {name!r}", f"choose from {', '.join(known)}")
        nested = {name[4:]: value for name, value in values.items() if name.startswith("sft.")}
        if nested:
            own["sft"] = SFTConfig.from_dict(nested)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()})


_LITERALS = {
    "continue_from": Literal["previous", "start"],
    "optimizer": Literal["reset", "keep"],
    "select": Select,
    "judge": Judge,
    "truncated": Literal["drop", "trim"],
}


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
