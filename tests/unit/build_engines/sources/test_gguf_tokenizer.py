"""SmolLM2's tokenizer from its GGUF file, against the algorithm itself and against transformers."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from build_engines.sources.demo_model import demo_gguf
from build_engines.sources.gguf_file import GgufFile
from build_engines.sources.gguf_tokenizer import tokenizer_files
from tests import tiny_llama
from tests.unit.build_engines.sources.slow_tokenizer import SlowTokenizer, gpt4_words
from tests.unit.build_engines.sources.tiny_gguf import config, write_gguf

Rule = tuple[Any, Callable[[str], list[int]]]
FRAGMENTS = [
    "Hello", " world", "don't", "I'LL", " we've", "naïve", " Ångström", "e\u0301", "ß", "ﬁ", "Ⅻ", "½", "٣", "٤٥",
    "1", "42", " 7", "3.14", "1,000", "0x1F", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u2003",
    "\u3000", "\u200b", "你好", "世界", "日本語", "かな", "カタカナ", "한국어", "Привет", "שלום", "مرحبا", "ไทย",
    "नमस्ते", "🙂", "\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "🇫🇷", "\U0010ffff",
    "def f(x):\n    return x ** 2  # squared\n", '{"a": [1, 2]}', '<div class="x">', "a_b", "C++", "/usr/bin", "--flag",
    "...", "!?", "$", "€9", "#1", "'", '"', "“”", "\u2019s", "—", "<|im_start|>", "<|im_end|>\n", "<|endoftext|>",
    "<|im_", "|>", "\x00", "\x07", "\x1c", "\x7f", "\u0378", "\ufeff", "\ufffd",
]  # fmt: skip


def texts(count: int = 400) -> list[str]:
    random = np.random.default_rng(0)
    return FRAGMENTS + ["".join(random.choice(FRAGMENTS, random.integers(2, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def gguf() -> GgufFile:
    return GgufFile(demo_gguf())


@pytest.fixture(scope="module")
def folder(gguf: GgufFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    for name, text in tokenizer_files(gguf).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def slow(gguf: GgufFile) -> SlowTokenizer:
    tokens = gguf.get("tokenizer.ggml.tokens", list)
    types = gguf.get("tokenizer.ggml.token_type", list)
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    return SlowTokenizer(tokens, gguf.get("tokenizer.ggml.merges", list), special)


def test_ids_equal_the_algorithm(tokenizer: Tokenizer, slow: SlowTokenizer) -> None:
    for text in texts():
        assert tokenizer.encode(text).ids == slow.encode(text), repr(text)


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=60))
def test_ids_equal_the_algorithm_for_any_text(tokenizer: Tokenizer, slow: SlowTokenizer, text: str) -> None:
    assert tokenizer.encode(text).ids == slow.encode(text)


@pytest.fixture(scope="module", params=["llama-bpe", "qwen2"])
def another_rule(request: pytest.FixtureRequest, gguf: GgufFile, tmp_path_factory: pytest.TempPathFactory) -> Rule:
    """SmolLM2's vocabulary, split by another family's rule; and what it must give."""
    tokens, merges = (gguf.get(f"tokenizer.ggml.{key}", list) for key in ("tokens", "merges"))
    types = gguf.get("tokenizer.ggml.token_type", list)
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    # Without this merge, "Ġworld" can only be taken whole, as Llama 3 does.
    merges = [merge for merge in merges if merge.replace(" ", "") != "Ġworld"]
    path = write_gguf(
        tmp_path_factory.mktemp("rule") / "model.gguf",
        config(),
        tiny_llama.tensors(config()),
        tokenizer__ggml__pre=request.param,
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__merges=merges,
        tokenizer__ggml__token_type=types,
        tokenizer__ggml__add_bos_token=False,
    )
    fast = Tokenizer.from_str(tokenizer_files(GgufFile(path))["tokenizer.json"])
    if request.param == "llama-bpe":
        llama3 = SlowTokenizer(tokens, merges, special, partial(gpt4_words, digits_together=3), whole_words=True)
        return fast, llama3.encode
    qwen2 = SlowTokenizer(tokens, merges, special, partial(gpt4_words, digits_together=1))
    return fast, lambda text: qwen2.encode(unicodedata.normalize("NFC", text))


def test_other_rules_give_the_ids_of_the_algorithm(another_rule: Rule) -> None:
    fast, encode = another_rule
    for text in texts():
        assert fast.encode(text).ids == encode(text), repr(text)


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=60))
def test_other_rules_give_the_ids_of_the_algorithm_for_any_text(another_rule: Rule, text: str) -> None:
    fast, encode = another_rule
    assert fast.encode(text).ids == encode(text)


def test_llama3_adds_its_bos_unless_the_file_says_no(tmp_path: Path) -> None:
    for said, expected in ((None, ["<|im_start|>", "ab"]), (True, ["<|im_start|>", "ab"]), (False, ["ab"])):
        path = write_gguf(
            tmp_path / "model.gguf",
            config(),
            tiny_llama.tensors(config()),
            tokenizer__ggml__pre="llama-bpe",
            tokenizer__ggml__add_bos_token=said,
        )
        assert Tokenizer.from_str(tokenizer_files(GgufFile(path))["tokenizer.json"]).encode("ab").tokens == expected


def test_ids_equal_transformers_reading_the_gguf_but_for_digits(tokenizer: Tokenizer) -> None:
    """transformers ignores ``tokenizer.ggml.pre``: it does not take digits out first, so that a run of spaces (or an
    unfinished character) before one is cut otherwise. It also adds <|im_start|> to every text, though the file says
    add_bos_token false, and encodes bytes outside the vocabulary as <|endoftext|>. Everything else must agree."""
    path = demo_gguf()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, legacy=False)
    compared = 0
    for text in texts():
        if any(character.isnumeric() for character in text):
            continue
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        if 0 in ids and "<|endoftext|>" not in text:
            continue
        assert tokenizer.encode(text).ids == ids, repr(text)
        compared += 1
    assert compared > 100
    assert theirs("Hello")["input_ids"] == [1, *tokenizer.encode("Hello").ids]


def test_digits_stand_alone_and_leave_spaces_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]


def test_decoding_gives_the_text_back(tokenizer: Tokenizer) -> None:
    for text in texts():
        lost = any(ord(character) < 32 and character not in "\t\n\r" for character in text) or "\U0010ffff" in text
        assert lost or tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_add_bos_is_what_the_file_says(gguf: GgufFile, folder: Path, tokenizer: Tokenizer) -> None:
    assert gguf.get("tokenizer.ggml.add_bos_token", bool) is False
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is False
    assert tokenizer.encode("Hello").ids == tokenizer.encode("Hello", add_special_tokens=False).ids


def test_a_file_that_asks_for_bos_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, config(), tiny_llama.tensors(config()), tokenizer__ggml__add_bos_token=True)
    tokenizer = Tokenizer.from_str(tokenizer_files(GgufFile(path))["tokenizer.json"])
    assert tokenizer.encode("ab ab").tokens == ["<|im_start|>", "ab", "Ġab"]
    assert tokenizer.encode("ab<user>1").tokens == ["<|im_start|>", "ab", "<user>", "1"]
    assert tokenizer.decode(tokenizer.encode("ab<user><|im_end|>").ids, skip_special_tokens=True) == "ab<user>"


def test_transformers_reads_the_files(folder: Path, tokenizer: Tokenizer) -> None:
    loaded = PreTrainedTokenizerFast.from_pretrained(folder)
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    chat = loaded.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert chat.startswith("<|im_start|>system\n")
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    for text in texts(50):
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
