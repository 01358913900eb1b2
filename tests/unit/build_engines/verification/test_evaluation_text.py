from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors

from build_engines.quantization.settings import BUILT_IN_TEXT
from build_engines.verification.evaluation_text import default_text, read_text, token_sequences
from python_backend.errors import SetupError
from tests import tiny_llama


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    """One that begins every text with a token, as many do."""
    tokenizer = tiny_llama.tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    return tmp_path / "tokenizer.json"


def test_default_text_is_long_enough_and_not_what_calibration_reads() -> None:
    text = default_text()
    assert len(text) > 300_000

    def lines(of: str) -> set[str]:
        return {line.strip() for line in of.splitlines() if len(line.strip()) > 40}

    assert not lines(text) & lines(BUILT_IN_TEXT.read_text(encoding="utf-8"))


def test_sequences_are_spread_over_the_text(tokenizer_json: Path) -> None:
    text = "".join(map(chr, np.random.default_rng(0).integers(ord("a"), ord("z") + 1, 5000)))
    ids = tiny_llama.tokenizer().encode(text).ids
    found = token_sequences(text, tokenizer_json, max_tokens=100, sequence_tokens=20)
    assert found.shape == (5, 20)
    assert (found[:, 0] == 1).all()
    pieces = [ids[begin : begin + 19] for begin in range(0, len(ids) - 18, 19)]
    places = [pieces.index(sequence) for sequence in found[:, 1:].tolist()]
    assert places == sorted(set(places))
    assert (places[0], places[-1]) == (0, len(pieces) - 1)


@pytest.mark.parametrize(("max_tokens", "shape"), [(2, (1, 2)), (7, (1, 7)), (1000, (1, 11))])
def test_a_short_text_or_a_low_limit_makes_one_sequence(
    tokenizer_json: Path, max_tokens: int, shape: tuple[int, int]
) -> None:
    found = token_sequences("0123456789", tokenizer_json, max_tokens=max_tokens, sequence_tokens=512)
    assert found.shape == shape
    expected = np.array(tiny_llama.tokenizer().encode("0123456789").ids)
    assert np.array_equal(found[0, 1:], expected[: shape[1] - 1])


def test_a_text_of_one_token_is_refused(tokenizer_json: Path) -> None:
    with pytest.raises(SetupError, match="has 1 tokens; at least 2 are needed"):
        token_sequences("a", tokenizer_json, max_tokens=100, sequence_tokens=100)


def test_files_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ä", encoding="utf-8")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    assert read_text([tmp_path / "a.txt", tmp_path / "b.txt"]) == "ä\n\nb"
    (tmp_path / "b.txt").write_bytes(b"\xff")
    for missing in ("b.txt", "c.txt"):
        with pytest.raises(SetupError, match="evaluation text cannot be read"):
            read_text([tmp_path / missing])
