"""What every lesson uses: claims, and differences told in words."""

from __future__ import annotations

import pandas as pd
import pytest

from cs336_sft.evaluation.intervals import Interval, mean_interval, paired_difference_over_seeds
from cs336_sft.lessons.common import accuracy_interval, begin, claim, outcomes, rate_difference, tell, told


def test_a_claim_that_does_not_hold_is_an_error_only_with_the_embedded_model(monkeypatch, capsys) -> None:
    monkeypatch.setenv("CS336_PROFILE", "tiny")
    with pytest.raises(AssertionError, match="the text claims: it stops"):
        claim(False, "it stops")
    claim(True, "it stops")
    monkeypatch.setenv("CS336_PROFILE", "smollm2")
    claim(False, "it stops")
    assert capsys.readouterr().out == "ok: it stops\nnot so with this profile: it stops\n"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.001, 0.2, "higher"), (-0.2, -0.001, "lower"), (-0.1, 0.1, "can't tell"), (0.0, 0.1, "can't tell")],
)
def test_a_difference_is_higher_lower_or_can_not_be_told(low, high, word) -> None:
    assert told(Interval((low + high) / 2, low, high)).endswith(f": {word}")


def test_points_are_hundredths_and_other_units_stay() -> None:
    gap = Interval(0.1234, -0.01, 0.5)
    assert told(gap) == "+12.3 points [-1.0, +50.0]: can't tell"
    assert told(gap, "nats") == "+0.123 nats [-0.010, +0.500]: can't tell"


@pytest.fixture
def runs():
    """Seed 1 stands first, and seed 0 has two runs."""
    return pd.DataFrame({"seed": [1, 0, 0], "outcomes": ["RRFW", "RWFC", "WWFC"]})


def test_outcomes_are_a_list_for_each_seed_the_mean_of_its_runs(runs) -> None:
    assert outcomes(runs) == [[0.5, 0, 0, 0], [1, 1, 0, 0]]
    assert outcomes(runs, lenient=True) == [[0.5, 0, 1, 0], [1, 1, 1, 0]]


def test_an_accuracy_has_the_interval_of_its_difference_to_nothing() -> None:
    found = accuracy_interval([[1, 0, 1, 1] * 25, [1, 1, 1, 1] * 25, [1, 0, 1, 1] * 25])
    assert found.value == pytest.approx(10 / 12) and found.low < 0.8 < found.high


def test_a_comparison_is_strict_and_lenient_the_second_minus_the_first(runs, capsys) -> None:
    first, second = (runs.assign(outcomes=[letters * 40] * 3) for letters in ("FWWW", "RRRW"))
    tell("more", first, second)
    by_frames = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(", ")[1].strip() for line in by_frames] == ["strict", "lenient"]
    for line, lenient in zip(by_frames, (False, True), strict=True):
        assert line.endswith(told(paired_difference_over_seeds(outcomes(first, lenient), outcomes(second, lenient))))
    assert "+75.0 points" in by_frames[0] and "+50.0 points" in by_frames[1]
    tell("more", lambda lenient: outcomes(first, lenient), lambda lenient: outcomes(second, lenient))
    assert capsys.readouterr().out.splitlines() == by_frames


def test_a_lesson_begins_with_the_profile_and_its_model(monkeypatch) -> None:
    monkeypatch.setenv("CS336_PROFILE", "tiny")
    profile, template, load = begin()
    (model, tokenizer), (another, _) = load(), load()
    assert (profile.name, template.name) == ("tiny", profile.template)
    assert model is not another, "each run of a lesson starts from weights of its own"
    assert tokenizer.decode(tokenizer("#### 4")["input_ids"]) == "#### 4" and len(tokenizer) <= model.config.vocab_size


def test_a_difference_of_rates_counts_seeds_and_problems() -> None:
    first, second = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    steady = rate_difference(first, second, 100)  # no spread between the seeds: the problems' noise alone
    half = 1.96 * ((0.3 * 0.7 + 0.6 * 0.4) / 100) ** 0.5
    assert steady.value == pytest.approx(0.3) and steady.high - steady.value == pytest.approx(half, rel=0.02)
    assert steady.value - steady.low == pytest.approx(steady.high - steady.value)
    seeds = mean_interval([0.1, 0.3, 0.5])
    spread = rate_difference(first, [0.3, 0.6, 0.9], 10**9)  # endless problems: the seeds' spread alone
    assert (spread.low, spread.high) == pytest.approx((seeds.low, seeds.high), rel=1e-3)
    assert rate_difference(second, first, 100).value == pytest.approx(-0.3)
