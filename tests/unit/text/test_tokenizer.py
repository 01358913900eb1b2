"""What a tokenizer directory must hold, and what a prompt must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from python_backend.errors import InvalidRequest, SetupError
from python_backend.text.tokenizer import Tokenizer, decode_prompt

CONFIG: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<pad>"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        ["hello world"],
        trainers.BpeTrainer(vocab_size=265, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet),
    )
    rust.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    rust.enable_truncation(4)
    rust.enable_padding(length=16)
    rust.save(str(tmp_path / "tokenizer.json"))
    write_config(tmp_path, CONFIG)
    return tmp_path


def write_config(directory: Path, config: object) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def test_special_tokens_have_their_ids(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    assert (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id) == (0, 1, 2)
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.vocab_size == 265


def test_padding_falls_to_the_end_token(directory: Path) -> None:
    write_config(directory, {"eos_token": "</s>"})
    tokenizer = Tokenizer.load(directory)
    assert (tokenizer.pad_id, tokenizer.bos_id) == (1, None)


def test_a_prompt_is_neither_cut_nor_padded(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode("hello world, hello", add_special_tokens=True)
    assert ids.dtype == np.int32
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>hello world, hello"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world, hello"
    assert np.array_equal(tokenizer.encode("hello world, hello", add_special_tokens=False), ids[1:])


def test_punctuation_keeps_its_space(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)  # clean_up_tokenization_spaces would make "hello, it's"
    text = "hello , it 's"
    assert tokenizer.decode(tokenizer.encode(text, False), skip_special_tokens=True) == text


def test_half_a_surrogate_pair_is_refused(directory: Path) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        Tokenizer.load(directory).encode("a\ud800", add_special_tokens=False)


def test_impossible_ids_are_refused(directory: Path) -> None:
    with pytest.raises(InvalidRequest, match="-1 is no token id"):
        Tokenizer.load(directory).decode([3, -1], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"])
def test_a_missing_or_broken_file_is_named(directory: Path, name: str, content: bytes | None) -> None:
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    with pytest.raises(SetupError, match=rf"{name}(?s:.*)build the engine again"):
        Tokenizer.load(directory)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no eos_token"),
        ({"eos_token": "<end>"}, '"<end>" as eos_token'),
        (CONFIG | {"pad_token": "<p>"}, '"<p>"'),
    ],
)
def test_a_config_that_does_not_fit_is_refused(directory: Path, config: object, message: str) -> None:
    write_config(directory, config)
    with pytest.raises(SetupError, match=message):
        Tokenizer.load(directory)


@pytest.mark.parametrize(
    "decoder", [None, decoders.WordPiece(), decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])]
)
def test_a_decoder_that_cannot_be_streamed_is_refused(directory: Path, decoder: decoders.Decoder | None) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["decoder"] = decoder and json.loads(decoder.__getstate__())
    path.write_text(json.dumps(content))
    with pytest.raises(SetupError, match="decoder"):
        Tokenizer.load(directory)


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"", "empty"), (b"caf\xe9 au lait", "at byte 3 of 12"), ("🙂".encode()[:3], "at byte 0 of 3")],
)
def test_a_prompt_that_is_no_text_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        decode_prompt(raw)


def test_a_prompt_comes_through_unchanged() -> None:
    assert decode_prompt(" \n日本語 🙂".encode()) == " \n日本語 🙂"
