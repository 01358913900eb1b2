"""Calibration text becomes samples: evenly taken, never twice, and said when it is too little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from build_engines.quantization.calibration import calibration_samples
from build_engines.quantization.settings import QuantizationSettings
from build_engines.quantization.token_pieces import TokenIds
from python_backend.errors import SetupError
from tests import tiny_llama, tiny_models

CONFIG = tiny_models.config("LlamaForCausalLM")
WORDS = " ".join(f"word{i}" for i in range(400))


def samples(
    text: str, folder: Path, tokenizer: Tokenizer | None = None, **calibration: object
) -> tuple[TokenIds, list[str]]:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    keys = {"format": "fp8", "calibration": {"files": [folder / "text.txt"], **calibration}}
    notices: list[str] = []
    json = (tokenizer or tiny_llama.tokenizer()).to_str().encode()
    return calibration_samples(QuantizationSettings.model_validate(keys), CONFIG, json, notices.append), notices


def with_bos() -> Tokenizer:
    tokenizer = tiny_llama.tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    return tokenizer


def test_all_of_a_text_in_order(tmp_path: Path) -> None:
    ids = tiny_llama.tokenizer().encode(WORDS).ids
    made, notices = samples(WORDS, tmp_path, max_tokens=32)
    assert made.shape == (len(ids) // 32, 32)
    assert made.ravel().tolist() == ids[: made.size]
    assert notices == []


def test_fewer_samples_are_spread_over_the_whole_text(tmp_path: Path) -> None:
    everything, _ = samples(WORDS, tmp_path, max_tokens=16)
    made, notices = samples(WORDS, tmp_path, max_tokens=16, samples=5)
    rows = [row.tolist() for row in everything]
    chosen = [rows.index(row.tolist()) for row in made]
    assert (chosen[0], chosen[-1]) == (0, len(rows) - 1)
    steps = np.diff(chosen)
    assert steps.max() - steps.min() <= 1
    assert notices == []


def test_each_begins_as_a_prompt_does(tmp_path: Path) -> None:
    plain, _ = samples(WORDS, tmp_path, max_tokens=31, samples=4)
    made, _ = samples(WORDS, tmp_path, with_bos(), max_tokens=32, samples=4)
    assert made.shape == (4, 32)
    assert (made[:, 0] == 1).all()
    assert (made[:, 1:] == plain).all()


def test_too_little_text_is_said_and_not_repeated(tmp_path: Path) -> None:
    made, notices = samples(WORDS, tmp_path, max_tokens=16, samples=10_000)
    assert len(np.unique(made, axis=0)) == len(made) < 10_000
    (notice,) = notices
    assert f"gives {len(made)} samples of 16 tokens; 10000 were asked for" in notice


def test_a_text_shorter_than_a_sample_is_one(tmp_path: Path) -> None:
    made, _ = samples("seven wizards", tmp_path, max_tokens=512)
    assert made.tolist() == [tiny_llama.tokenizer().encode("seven wizards").ids]


def test_the_built_in_text_is_said() -> None:
    notices: list[str] = []
    json = tiny_llama.tokenizer().to_str().encode()
    made = calibration_samples(QuantizationSettings(format="int4_awq"), CONFIG, json, notices.append)
    assert made.shape == (32, 512)
    (notice,) = notices
    assert "32 samples of the built-in text" in notice


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"text\.txt is empty"):
        samples("", tmp_path)
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    settings = QuantizationSettings.model_validate({"calibration": {"files": [tmp_path / "text.txt"]}})
    with pytest.raises(SetupError, match=r"utf-8.*Name UTF-8 text files"):
        calibration_samples(settings, CONFIG, tiny_llama.tokenizer().to_str().encode(), print)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(SetupError, match=r"No such file.*text\.txt"):
        calibration_samples(settings, CONFIG, tiny_llama.tokenizer().to_str().encode(), print)


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox")
    settings = QuantizationSettings.model_validate({"calibration": {"files": [tmp_path / "text.txt"]}})
    small = CONFIG.changed(vocab_size=10)
    with pytest.raises(SetupError, match=r"gives token \d+; vocab_size is 10"):
        calibration_samples(settings, small, tiny_llama.tokenizer().to_str().encode(), print)
