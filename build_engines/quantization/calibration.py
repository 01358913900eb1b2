"""Calibration samples: text as token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.quantization.settings import QuantizationSettings
from python_backend.errors import SetupError

TokenIds = npt.NDArray[np.int64]
Notice = Callable[[str], None]


def calibration_samples(
    settings: QuantizationSettings, config: CheckpointConfig, tokenizer_json: bytes, notice: Notice
) -> TokenIds:
    """Ids [samples, tokens]: pieces of equal length, taken evenly from the text. None is there twice.

    Each begins with what the tokenizer puts before a prompt, for that token's activations are often the largest.
    ``notice`` hears of it when the text is the built-in one, or too short for the samples asked for. Raises
    SetupError when a file cannot be read, or has no text, or the tokenizer is another model's.
    """
    calibration = settings.calibration
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prefix = _prefix(tokenizer)
    ids = np.array(tokenizer.encode(_text(calibration.text_files), add_special_tokens=False).ids, np.int64)
    if not len(ids):
        raise SetupError(f"calibration text {', '.join(map(str, calibration.text_files))} is empty. Name other files.")
    largest = max(int(ids.max()), *prefix, 0)
    if largest >= config.vocab_size:
        raise SetupError(
            f"tokenizer.json gives token {largest}; vocab_size is {config.vocab_size}. "
            "Put the model's own tokenizer beside it."
        )
    length = min(len(ids), max(1, calibration.max_tokens - len(prefix)))
    pieces = ids[: len(ids) // length * length].reshape(-1, length)
    wanted = settings.most_samples
    if len(pieces) < wanted and calibration.samples:
        notice(
            f"the calibration text gives {len(pieces)} samples of {length + len(prefix)} tokens; {wanted} were asked "
            "for. Name more text in quantization.calibration.files."
        )
    chosen = pieces[np.linspace(0, len(pieces) - 1, min(wanted, len(pieces))).round().astype(np.int64)]
    if not calibration.files:
        notice(
            f"calibrating with {len(chosen)} samples of the built-in text. Text like what the model will be asked, in "
            "quantization.calibration.files, gives scales that fit it better."
        )
    return np.hstack([np.tile(np.array(prefix, np.int64), (len(chosen), 1)), chosen])


def _prefix(tokenizer: Tokenizer) -> list[int]:
    """The special tokens that begin every prompt: BOS, mostly, or none."""
    encoded = tokenizer.encode("a")
    count = encoded.special_tokens_mask.index(0) if 0 in encoded.special_tokens_mask else 0
    prefix: list[int] = encoded.ids[:count]
    return prefix


def _text(files: list[Path]) -> str:
    try:
        return "\n\n".join(path.read_text(encoding="utf-8") for path in files)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"calibration text cannot be read ({error}). Name UTF-8 text files.") from error
