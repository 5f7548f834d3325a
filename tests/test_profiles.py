"""Profiles: the table of the design, and where problems come from."""

from __future__ import annotations

import json

import pytest

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.experiments.profiles import GSM8K_HUB_NAME, PROFILE_NAMES, get_profile, with_model


@pytest.fixture
def small_gsm8k(tmp_path):
    """A folder in GSM8K's form: 600 problems in train, 20 in test."""
    for split, n in (("train", 600), ("test", 20)):
        lines = [json.dumps({"question": f"{split} {i}?", "answer": f"{i}\n#### {i}"}) for i in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_profiles_in_order_of_size() -> None:
    assert PROFILE_NAMES == ("tiny", "smollm2", "qwen2.5-math-1.5b", "qwen2.5-coder-1.5b")


def test_tiny_is_the_default_and_the_environment_chooses(monkeypatch) -> None:
    monkeypatch.delenv("CS336_PROFILE", raising=False)
    assert get_profile().name == "tiny"
    monkeypatch.setenv("CS336_PROFILE", "smollm2")
    assert get_profile().name == "smollm2"
    assert get_profile("tiny").name == "tiny", "what is asked for by name wins"


def test_an_unknown_profile_names_the_choices_and_its_origin(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="'big'.*choose one of tiny, smollm2"):
        get_profile("big")
    monkeypatch.setenv("CS336_PROFILE", "big")
    with pytest.raises(ConfigError, match="CS336_PROFILE"):
        get_profile()


def test_tiny_has_the_settings_of_the_lessons() -> None:
    tiny = get_profile("tiny")
    assert tiny.max_new_tokens == 160
    assert (tiny.train_size, tiny.eval_size) == (512, 256)
    assert (tiny.learning_rate, tiny.batch_size, tiny.epochs) == (1e-4, 8, 3)
    assert tiny.mixed_precision == "no" and tiny.data == "generated"


def test_the_coder_has_the_settings_of_the_notes() -> None:
    coder = get_profile("qwen2.5-coder-1.5b")
    assert (coder.learning_rate, coder.batch_size, coder.micro_batch_size, coder.epochs) == (1e-5, 8, 8, 3)
    assert (coder.max_new_tokens, coder.eval_size, coder.mixed_precision, coder.data) == (1024, 512, "bf16", "gsm8k")


def test_settings_of_every_profile_make_a_configuration() -> None:
    from cs336_sft.prompts import get_template
    from cs336_sft.training.config import SFTConfig

    for name in PROFILE_NAMES:
        profile = get_profile(name)
        assert get_template(profile.template).name == "gsm8k"
        SFTConfig(
            learning_rate=profile.learning_rate,
            batch_size=profile.batch_size,
            micro_batch_size=profile.micro_batch_size,
            epochs=profile.epochs,
            mixed_precision=profile.mixed_precision,
        )


def test_another_model_leaves_the_rest() -> None:
    profile = get_profile("qwen2.5-math-1.5b")
    other = with_model(profile, "allenai/OLMo-2-0425-1B")
    assert other.model_source() == "allenai/OLMo-2-0425-1B"
    assert (other.max_new_tokens, other.data) == (profile.max_new_tokens, profile.data)
    assert with_model(profile, None) is profile


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5-coder-1.5b"])
def test_an_unfetched_model_says_how_to_fetch_it(monkeypatch, tmp_path, name) -> None:
    monkeypatch.setenv("CS336_DATA", str(tmp_path))
    with pytest.raises(CourseError, match=f"cs336-sft fetch {name}"):
        get_profile(name).model_source()


def test_generated_splits_are_seeded_and_disjoint() -> None:
    tiny = get_profile("tiny")
    train, again = tiny.problems("train", 40, seed=1), tiny.problems("train", 40, seed=1)
    assert train == again and train != tiny.problems("train", 40, seed=2)
    validation, test = tiny.problems("validation", 40), tiny.problems("test", 40)
    questions = [
        {p.question for p in part} for part in (train, validation, test, tiny.problems("heldout_templates", 40))
    ]
    assert len(set.union(*questions)) == sum(len(q) for q in questions)


def test_generated_data_falls_back_to_the_profiles_sizes() -> None:
    assert len(get_profile("tiny").problems("validation")) == 256


def test_gsm8k_validation_is_held_out_of_train(small_gsm8k, monkeypatch) -> None:
    monkeypatch.setenv("CS336_GSM8K", str(small_gsm8k))
    profile = get_profile("smollm2")
    train, validation, test = (profile.problems(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (88, 512, 20)
    assert not {p.question for p in train} & {p.question for p in validation}
    assert {p.question for p in train + validation} == {f"train {i}?" for i in range(600)}
    assert {p.question for p in test} == {f"test {i}?" for i in range(20)}


def test_gsm8k_samples_are_seeded_and_nested(small_gsm8k) -> None:
    profile = get_profile("smollm2")
    take = {n: profile.problems("train", n, seed=3, source=small_gsm8k) for n in (8, 32)}
    assert take[32][:8] == take[8]
    assert take[8] != profile.problems("train", 8, seed=4, source=small_gsm8k)
    assert len({p.question for p in take[32]}) == 32


def test_one_file_is_taken_whole(small_gsm8k) -> None:
    problems = get_profile("tiny").problems("validation", source=small_gsm8k / "test.jsonl")
    assert [p.question for p in problems] == [f"test {i}?" for i in range(20)]


def test_a_missing_file_is_not_taken_for_a_hub_name(tmp_path) -> None:
    with pytest.raises(CourseError, match="nowhere.jsonl"):
        get_profile("tiny").problems("train", source=tmp_path / "nowhere.jsonl")


def test_the_hub_is_asked_where_nothing_else_is_named(monkeypatch) -> None:
    from cs336_sft.data import gsm8k

    asked = []
    monkeypatch.delenv("CS336_GSM8K", raising=False)
    monkeypatch.setattr(gsm8k, "load_gsm8k", lambda source, split: asked.append((source, split)) or [])
    get_profile("smollm2").problems("test")
    assert asked == [(GSM8K_HUB_NAME, "test")]


@pytest.mark.parametrize(("n", "message"), [(21, "20 there"), (0, "at least 1")])
def test_impossible_sizes(small_gsm8k, n, message) -> None:
    with pytest.raises(ConfigError, match=message):
        get_profile("smollm2").problems("test", n, source=small_gsm8k)


def test_gsm8k_has_no_split_of_held_out_templates(small_gsm8k) -> None:
    with pytest.raises(ConfigError, match="heldout_templates"):
        get_profile("smollm2").problems("heldout_templates", source=small_gsm8k)
