"""The table of bad inputs: what is given, and words that the message must hold. Data of ``test_bad_inputs.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOOD = '{"question": "2 + 3?", "answer": "#### 5"}\n'
GENERATION = {
    **{"id": "a", "template": "", "question": "2 + 3?", "answer": "#### 5", "final": "5", "prompt": "Q", "sample": 0},
    **{"text": " 5", "token_ids": [5], "finish_reason": "stop", "stop_reason": None},
    **{"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0, "lenient": 1.0},
}


def generation(**changes: Any) -> str:
    """A line of a file of generations, with fields changed, or left out where the change is ``...``."""
    row = {name: value for name, value in {**GENERATION, **changes}.items() if value is not ...}
    return json.dumps(row) + "\n"


# Files that the rows name, by what stands in them.
FILES: dict[str, str | bytes] = {
    "good.jsonl": GOOD * 3,
    "empty.jsonl": "",
    "blank.jsonl": "\n \n",
    "not-json.jsonl": GOOD + "{question: 2}\n",
    "cut.jsonl": GOOD + '{"question": "2 + 3?", "ans',
    "list.jsonl": '["2 + 3?", "#### 5"]\n',
    "no-answer.jsonl": GOOD + '{"question": "2 + 3?"}\n',
    "no-question.jsonl": '{"answer": "#### 5"}\n',
    "number.jsonl": '{"question": "2 + 3?", "answer": 5}\n',
    "null.jsonl": '{"question": null, "answer": "#### 5"}\n',
    "empty-question.jsonl": '{"question": " ", "answer": "#### 5"}\n',
    "no-marker.jsonl": '{"question": "2 + 3?", "answer": "It is 5."}\n',
    "word.jsonl": '{"question": "2 + 3?", "answer": "#### five"}\n',
    "bad-commas.jsonl": '{"question": "2 + 3?", "answer": "#### 10,80"}\n',
    "latin-1.jsonl": GOOD.encode() + '{"question": "Wie viele Äpfel?", "answer": "#### 5"}\n'.encode("latin-1"),
    "surrogate.jsonl": '{"question": "\\ud83d?", "answer": "#### 5"}\n',
    "binary.jsonl": b"\x00\x01\x02\xff" * 20,
    "deep.jsonl": "[" * 100_000 + "\n",
    "ungraded.jsonl": '{"response": "#### 5", "ground_truth": "5"}\n{"answer": "#### 5"}\n',
    "response-number.jsonl": '{"response": 5, "ground_truth": "5"}\n',
    "truth-word.jsonl": '{"response": "#### 5", "ground_truth": "none"}\n',
    "truth-null.jsonl": '{"response": "#### 5", "ground_truth": null}\n',
    "gen-not-json.jsonl": generation() + "{\n",
    "gen-list.jsonl": "[]\n",
    "gen-no-text.jsonl": generation(text=...),
    "gen-text-number.jsonl": generation(text=5),
    "gen-reward-text.jsonl": generation(reward="1"),
    "gen-reward-bool.jsonl": generation(reward=True),
    "gen-reason.jsonl": generation(finish_reason="eos"),
    "gen-ids.jsonl": generation(token_ids=[1, 2.5]),
    "gen-ids-text.jsonl": generation(token_ids="12"),
    "strangers/thesis.txt": "precious",
    "broken-run/config.json": "{",
    "list-run/config.json": "[]",
    "cut-run/config.json": "{}",
    "cut-run/metrics.jsonl": '{"step": 1}\n{"step": \n{"step": 3}\n',
    "cut-run/evaluations.jsonl": '{"step": 0}\n[]\n',
    "unknown-run/config.json": '{"seed": 0, "learning_rat": 0.1}',
    "pickled/config.json": '{"model_type": "qwen2"}',
    "pickled/pytorch_model.bin": b"\x80\x04.",
    "weightless/config.json": '{"model_type": "qwen2"}',
    "unconfigured/model.safetensors": b"",
    "broken-model/config.json": "{",
    "broken-model/model.safetensors": b"",
    "unknown-grid.json": '{"grid": {"learning_rat": [0.1]}, "seeds": [0]}',
    "mine.py": "def f(): pass\n",
}


def make_files(folder: Path) -> None:
    """Write ``FILES`` below a folder."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        given: the command line, or the call in words.
        words: what the message must hold: the file and line, or the field and value.
        call: what to call with the folder of ``FILES``, for readers and configurations; None for a command line.
        usage: the command line is so wrong that argparse says it, with the usage.
    """

    given: str
    words: str
    call: Callable[[Path], Any] | None = None
    usage: bool = False


def usage(given: str, words: str) -> Bad:
    return Bad(given, words, usage=True)


COMMANDS = (
    usage("trainn", "invalid choice: 'trainn'"),
    usage("eval --num-samples 0", "argument --num-samples: 0 is not a whole number of 1 or more"),
    usage("eval --num-samples many", "argument --num-samples: many is not a whole number"),
    Bad("eval --eval-size 0", "eval_size is 0"),
    Bad("eval --max-new-tokens -5", "max_new_tokens is -5"),
    usage("eval --temperature warm", "argument --temperature"),
    usage("eval --split validatoin", "argument --split"),
    Bad("eval --profile huge", "'huge'"),
    Bad("eval --model ./nowhere", "no model folder ./nowhere"),
    Bad("eval --model good.jsonl", "good.jsonl is a file, not a model folder"),
    Bad("eval --model ./pickled", "only as a pickle (pytorch_model.bin), which can run code"),
    Bad("eval --model ./weightless", "no *.safetensors file"),
    Bad("eval --model ./unconfigured", "no config.json"),
    Bad("eval --model ./broken-model", "broken-model"),
    Bad("eval --data nowhere.jsonl", "nowhere.jsonl"),
    Bad("eval --data no-answer.jsonl", "no-answer.jsonl, line 2: no field 'answer'"),
    Bad("eval --data good.jsonl --eval-size 99", "99"),
    Bad("eval --data good.jsonl --eval-size 2 --max-new-tokens 5000", "max_new_tokens=5000"),
    Bad("eval --data good.jsonl --eval-size 2 --num-samples 2", "raise temperature"),
    Bad("eval --data good.jsonl --eval-size 2 --temperature -1", "SamplingConfig.temperature is -1.0"),
    Bad("eval --data good.jsonl --eval-size 2 --temperature nan", "SamplingConfig.temperature is nan"),
    Bad("eval --out .", "is a folder"),
    Bad("eval --out good.jsonl/x.jsonl", "good.jsonl is a file"),
    usage("sft", "--out"),
    Bad("sft --out run --learning-rate 0", "learning_rate is 0"),
    Bad("sft --out run --learning-rate NaN", "learning_rate is nan"),
    Bad("sft --out run --batch-size 0", "batch_size is 0"),
    usage("sft --out run --learning-rat 1", "Remedy: write '--learning-rate'"),
    usage("sft --out run --schedule cosin", "argument --schedule"),
    Bad("sft --out run --eval-every never", "eval_every is 'never'"),
    Bad("sft --out run --eval-every [1,0]", "eval_every is (1, 0)"),
    Bad("sft --out run --warmup -1", "warmup is -1"),
    Bad("sft --out run --seed -1", "seed"),
    Bad("sft --out good.jsonl", "good.jsonl is a file"),
    Bad("sft --out run --data good.jsonl --train-size 99", "99"),
    Bad("sft --out run --data binary.jsonl", "binary.jsonl, line 1"),
    Bad("sft --out strangers --train-size 2 --eval-size 1", "'thesis.txt'"),
    Bad("sft --out broken-run --train-size 2 --eval-size 1", "config.json: not JSON (column 2"),
    Bad("sft --out unknown-run --train-size 2 --eval-size 1", "learning_rat was 0.1, now null"),
    Bad("sft --out run --method lora --lora-r 0", "RunConfig.lora_r is 0"),
    usage("sft --out run --method prefix", "argument --method"),
    usage("ei", "--out"),
    Bad("ei --out run --rounds 0", "rounds is 0"),
    usage("ei --out run --selection-grader fair", "argument --selection-grader"),
    Bad("ei --out good.jsonl", "good.jsonl is a file"),
    Bad("ei --out run --data no-answer.jsonl --questions-per-round 1", "no-answer.jsonl, line 2"),
    usage("grpo", "--out"),
    usage("grpo --out run --reward best", "argument --reward"),
    Bad("grpo --out run --steps 0", "steps is 0"),
    Bad("grpo --out run --cliprange -1", "cliprange is -1"),
    Bad("grpo --out run --train-size all", "train_size is 'all'"),
    Bad("grpo --out good.jsonl", "good.jsonl is a file"),
    Bad("grpo --out run --data no-answer.jsonl", "no-answer.jsonl, line 2"),
    Bad("sweep nowhere.json --out runs", "nowhere.json"),
    Bad("sweep not-json.jsonl --out runs", "not-json.jsonl"),
    Bad("sweep unknown-grid.json --out runs", "learning_rat"),
    usage("lengths --tokenizer qwen2.5", "--data"),
    Bad("lengths --data good.jsonl --tokenizer ./nowhere", "no tokenizer folder ./nowhere"),
    Bad("lengths --data . --tokenizer tiny", "directory"),
    Bad("plot nowhere --out x.png", "nowhere does not exist"),
    Bad("plot good.jsonl --out x.png", "good.jsonl is a file"),
    Bad("plot strangers --out x.png", "not a run"),
    Bad("plot cut-run --out x.png", "metrics.jsonl, line 2"),
    Bad("plot cut-run --out x.exe", ".png"),
    Bad("grade nowhere.jsonl", "nowhere.jsonl"),
    Bad("grade empty.jsonl", "no lines"),
    Bad("grade not-json.jsonl", "no column 'response'"),
    Bad("grade gen-list.jsonl", "gen-list.jsonl, line 1: not a JSON object"),
    Bad("grade deep.jsonl", "deep.jsonl, line 1: not JSON"),
    Bad("grade ungraded.jsonl", "ungraded.jsonl, line 2: no column 'response'"),
    Bad("grade response-number.jsonl", "column 'response' is int"),
    Bad("grade truth-word.jsonl", "no number in the ground truth 'none'"),
    Bad("grade truth-null.jsonl", "line 1"),
    Bad("grade ungraded.jsonl --out .", "is a folder"),
    usage("grade ungraded.jsonl --style latex", "argument --style"),
    usage("generate-data --out x.jsonl --n 0", "argument --n"),
    usage("generate-data --out x.jsonl --n 2 --split exam", "argument --split"),
    usage("fetch llama", "llama"),
    Bad("check ex99", "no exercise is called 'ex99'"),
    Bad("check ex03 --file nowhere.py", "nowhere.py: no such file"),
    Bad("check --file mine.py", "--file without an exercise"),
    usage("hint ex03 4", "invalid choice: 4"),
    Bad("reset ex03 --file strangers --yes", "strangers is a folder"),
)


def _read_problems(name: str, words: str) -> Bad:
    def call(folder: Path) -> Any:
        from cs336_sft.data.gsm8k import read_problems

        return read_problems(folder / name)

    return Bad(f"read_problems({name!r})", words, call)


def _read_generations(name: str, words: str) -> Bad:
    def call(folder: Path) -> Any:
        from cs336_sft.evaluation.generations_file import read_generations

        return read_generations(folder / name)

    return Bad(f"read_generations({name!r})", words, call)


def _load_result(name: str, words: str) -> Bad:
    def call(folder: Path) -> Any:
        from cs336_sft.training.result import load_result

        return load_result(folder / name)

    return Bad(f"load_result({name!r})", words, call)


READERS = (
    _read_problems("nowhere.jsonl", "nowhere.jsonl can't be read"),
    _read_problems("strangers", "strangers can't be read"),
    _read_problems("empty.jsonl", "empty.jsonl holds no problem"),
    _read_problems("blank.jsonl", "blank.jsonl holds no problem"),
    _read_problems("not-json.jsonl", "not-json.jsonl, line 2: not JSON (column 2"),
    _read_problems("cut.jsonl", "cut.jsonl, line 2: not JSON"),
    _read_problems("list.jsonl", "list.jsonl, line 1: not a JSON object"),
    _read_problems("no-question.jsonl", "line 1: no field 'question'"),
    _read_problems("number.jsonl", "line 1: field 'answer' is int, not a string"),
    _read_problems("null.jsonl", "line 1: field 'question' is NoneType, not a string"),
    _read_problems("empty-question.jsonl", "line 1: field 'question' is empty"),
    _read_problems("no-marker.jsonl", "the last line of 'answer' is 'It is 5.'"),
    _read_problems("word.jsonl", "'#### five'"),
    _read_problems("bad-commas.jsonl", "'#### 10,80'"),
    _read_problems("latin-1.jsonl", "latin-1.jsonl, line 2: byte 25 is not UTF-8"),
    _read_problems("surrogate.jsonl", "field 'question' has half of a surrogate pair"),
    _read_problems("binary.jsonl", "binary.jsonl, line 1"),
    _read_problems("deep.jsonl", "deep.jsonl, line 1: not JSON"),
    _read_generations("nowhere.jsonl", "nowhere.jsonl can't be read: No such file"),
    _read_generations("gen-not-json.jsonl", "gen-not-json.jsonl, line 2"),
    _read_generations("gen-list.jsonl", "line 1: not a JSON object"),
    _read_generations("gen-no-text.jsonl", "no field 'text'"),
    _read_generations("gen-text-number.jsonl", "field 'text' is 5"),
    _read_generations("gen-reward-text.jsonl", "field 'reward' is '1'"),
    _read_generations("gen-reward-bool.jsonl", "field 'reward' is True"),
    _read_generations("gen-reason.jsonl", "'finish_reason' is 'eos'"),
    _read_generations("gen-ids.jsonl", "'token_ids' holds something that is not a whole number"),
    _read_generations("gen-ids-text.jsonl", "field 'token_ids' is '12'"),
    _read_generations("binary.jsonl", "binary.jsonl, line 1"),
    _load_result("nowhere", "nowhere: is not a run (no config.json)"),
    _load_result("strangers", "is not a run"),
    _load_result("cut-run", "metrics.jsonl, line 2: not JSON"),
)


def _config(module: str, name: str, field: str, value: Any, **others: Any) -> Bad:
    """A field with a value that makes no sense; the message must name both and give a remedy."""

    def call(folder: Path) -> Any:
        from importlib import import_module

        return getattr(import_module(f"cs336_sft.{module}"), name)(**{field: value}, **others)

    arguments = ", ".join(f"{key}={v!r}" for key, v in {field: value, **others}.items())
    return Bad(f"{name}({arguments})", f"{name}.{field} is {value!r}", call)


def _sft(field: str, value: Any, **others: Any) -> Bad:
    return _config("training.config", "SFTConfig", field, value, **others)


def _sampling(field: str, value: Any, **others: Any) -> Bad:
    return _config("generation.sampler", "SamplingConfig", field, value, **others)


def _expert(field: str, value: Any) -> Bad:
    return _config("expert_iteration.config", "ExpertIterationConfig", field, value)


def _adapter(field: str, value: Any) -> Bad:
    return _config("model.lora", "AdapterConfig", field, value)


def _engine(field: str, value: Any) -> Bad:
    return _config("generation.vllm_backend.config", "VLLMConfig", field, value)


def _settings(flat: dict[str, Any], words: str) -> Bad:
    def call(folder: Path) -> Any:
        from cs336_sft.experiments.config import make_config

        return make_config(**flat)

    return Bad(f"make_config(**{flat!r})", words, call)


def _saved(name: str, words: str) -> Bad:
    def call(folder: Path) -> Any:
        from cs336_sft.training.config import SFTConfig

        return SFTConfig.from_dict(json.loads((folder / name).read_text()))

    return Bad(f"SFTConfig.from_dict(...{name})", words, call)


NAN, INF = float("nan"), float("inf")
CONFIGS = (
    *(_sft("learning_rate", value) for value in (0.0, -1e-4, NAN, INF, "1e-4", None, True)),
    *(_sft("epochs", value) for value in (0, 1.5, "3")),
    *(_sft("batch_size", value) for value in (0, True, None)),
    *(_sft("warmup", value) for value in (-1, 1.0, NAN)),
    *(_sft("betas", value) for value in ((0.9, 1.0), [0.9, 0.95], (0.9,))),
    _sft("max_grad_norm", 0.0),
    _sft("seed", -1),
    _sft("schedule", "cosin"),
    _sft("mixed_precision", "fp16"),
    *(_sft("eval_every", value) for value in ((), (4, 0), "epoch")),
    _sft("checkpoint_every", None),
    _sft("keep_checkpoints", 0),
    _saved("unknown-run/config.json", "SFTConfig has no field 'learning_rat'"),
    *(_sampling("max_new_tokens", value) for value in (0, 1.5, "160", True)),
    *(_sampling("temperature", value) for value in (-0.1, NAN, INF, "1")),
    *(_sampling("top_p", value) for value in (0.0, 1.5, NAN, "1")),
    *(_sampling("num_samples", value) for value in (0, 2.0, 4)),
    *(_sampling("stop", value) for value in ("\n", ["\n"], ("",))),
    _sampling("seed", "0"),
    _sampling("min_new_tokens", 20, max_new_tokens=10),
    _sampling("min_new_tokens", -1),
    _sampling("record_entropy", 1),
    *(_expert(field, value) for field, value in (("rounds", 0), ("questions_per_round", 0), ("num_samples", 0))),
    *(_expert(field, value) for field, value in (("selection_grader", "fair"), ("select", "best"))),
    *(_expert(field, value) for field, value in (("temperature", 0.0), ("grader_error", 2.0), ("seed", -1))),
    *(_expert(field, value) for field, value in (("max_per_question", 0), ("samples_per_round", (1,)))),
    *(_adapter(field, value) for field, value in (("r", 0), ("alpha", -1), ("dropout", 1.5), ("targets", "q_proj"))),
    *(_engine(field, value) for field, value in (("gpu_memory_utilization", 2.0), ("max_model_len", 0))),
    *(_engine(field, value) for field, value in (("dtype", "fp8"), ("sleep", 1))),
    _settings({"learning_rat": 0.1}, "RunConfig has no field 'learning_rat'"),
    _settings({"method": "dora"}, "RunConfig.method is 'dora'"),
    _settings({"train_size": 0}, "RunConfig.train_size is 0"),
    _settings({"learning_rate": 0}, ".learning_rate is 0"),
)
