"""Calibration samples: text as token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.quantization.settings import QuantizationSettings
from build_engines.quantization.token_pieces import TokenIds, even_pieces, prompt_prefix, text_tokens
from python_backend.errors import SetupError

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
    prefix = prompt_prefix(tokenizer)
    ids = text_tokens(tokenizer, _text(calibration.text_files))
    if not len(ids):
        raise SetupError(f"calibration text {', '.join(map(str, calibration.text_files))} is empty. Name other files.")
    largest = max(int(ids.max()), *prefix, 0)
    if largest >= config.vocab_size:
        raise SetupError(
            f"tokenizer.json gives token {largest}; vocab_size is {config.vocab_size}. "
            "Put the model's own tokenizer beside it."
        )
    wanted = settings.most_samples
    samples = even_pieces(ids, prefix, tokens=calibration.max_tokens, most=wanted)
    if len(samples) < wanted and calibration.samples:
        notice(
            f"the calibration text gives {len(samples)} samples of {samples.shape[1]} tokens; {wanted} were asked for. "
            "Name more text in quantization.calibration.files."
        )
    if not calibration.files:
        notice(
            f"calibrating with {len(samples)} samples of the built-in text. Text like what the model will be asked, in "
            "quantization.calibration.files, gives scales that fit it better."
        )
    return samples


def _text(files: list[Path]) -> str:
    try:
        return "\n\n".join(path.read_text(encoding="utf-8") for path in files)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"calibration text cannot be read ({error}). Name UTF-8 text files.") from error
