"""The parts' texts joined are the text of the whole: for every decoder, sequence and way of cutting it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from python_backend.errors import InvalidRequest
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.tokenizer import Tokenizer

CORPUS = [
    "the quick brown fox says hello, hello world",
    "Grüße aus Köln, naïve café",
    "日本語のテキスト 漢字かな 中文字符",
    "emoji 🙂🙃 👩‍👩‍👧 🇩🇪 ok",
    "combining e\u0301 a\u0308 o\u0302",
    "  spaces   here ▁ ",
]
CONFIG = {"eos_token": "</s>", "bos_token": {"content": "<s>"}}
SPECIAL = ["<unk>", "<s>", "</s>", "<|ünïcode|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
#: how a byte-level vocabulary writes each byte: printable Latin-1 as it is, the others from U+0100 on
HIDDEN = [byte for byte in range(256) if byte <= 0x20 or 0x7F <= byte <= 0xA0 or byte == 0xAD]
BYTE_LEVEL_ALPHABET = [chr(256 + HIDDEN.index(byte)) if byte in HIDDEN else chr(byte) for byte in range(256)]


def byte_level() -> RustTokenizer:
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer.add_tokens(["<added é>"])
    return tokenizer


def sentencepiece(*parts: decoders.Decoder) -> RustTokenizer:
    tokenizer = RustTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(list(parts))
    odd = ["<0x+1>", "<0xG0>", "<0x1>", "▁▁", "<0xéA>"]  # nearly byte tokens
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, limit_alphabet=24)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(BYTES + odd)
    return tokenizer


TOKENIZERS: dict[str, Callable[[], RustTokenizer]] = {
    "byte-level": byte_level,
    "llama": lambda: sentencepiece(
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ),
    "gemma": lambda: sentencepiece(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()),
    "metaspace": lambda: sentencepiece(decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")),
    "metaspace, nothing prepended": lambda: sentencepiece(decoders.Metaspace(prepend_scheme="never")),
    "strips each token": lambda: sentencepiece(decoders.Strip("▁", 1, 0), decoders.ByteFallback()),
    "strips after fusing": lambda: sentencepiece(
        decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.Strip(" ", 3, 0)
    ),
}


class Case(Tokenizer):
    """A tokenizer that also knows the token of each single byte."""

    def __init__(self, rust: RustTokenizer) -> None:
        super().__init__(rust, CONFIG)
        vocab = rust.get_vocab()
        self._id_of_byte = [
            vocab.get(name, vocab.get(character)) for name, character in zip(BYTES, BYTE_LEVEL_ALPHABET, strict=True)
        ]

    def byte_ids(self, raw: bytes) -> list[int]:
        return [self._id_of_byte[byte] for byte in raw]


BYTE_LEVEL = Case(byte_level())


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Case:
    return Case(TOKENIZERS[request.param]())


def streamed(tokenizer: Tokenizer, parts: list[list[int]], skip: bool) -> str:
    detokenizer = Detokenizer(tokenizer, skip)
    return "".join([*(detokenizer.push(part) for part in parts), detokenizer.finish()])


def cut(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """``ids`` in parts of the given sizes, then one by one."""
    parts, start = [], 0
    for size in sizes:
        parts.append(ids[start : start + size])
        start += size
    return parts + [[token] for token in ids[start:]]


SIZES = st.lists(st.integers(0, 5), max_size=8)


@given(picks=st.lists(st.integers(0, 10_000), max_size=40), sizes=SIZES, skip=st.booleans())
def test_random_ids(tokenizer: Case, picks: list[int], sizes: list[int], skip: bool) -> None:
    ids = [pick % (tokenizer.vocab_size + 3) for pick in picks]  # a few lie outside the vocabulary
    assert streamed(tokenizer, cut(ids, sizes), skip) == tokenizer.decode(ids, skip)


@given(
    raw=st.binary(max_size=24),
    picks=st.lists(st.integers(0, 10_000), max_size=4),
    sizes=SIZES,
    skip=st.booleans(),
)
@example(raw="👩‍👩‍👧".encode()[:-2], picks=[], sizes=[], skip=True)
@example(raw="日本".encode() + b"\xff", picks=[], sizes=[1, 1, 1], skip=True)
@example(raw=b"\xf0\x9f\x99", picks=[1, 2], sizes=[], skip=True)
def test_bytes_that_need_not_be_utf8(
    tokenizer: Case, raw: bytes, picks: list[int], sizes: list[int], skip: bool
) -> None:
    ids = tokenizer.byte_ids(raw)
    for position, pick in enumerate(picks):
        ids.insert(pick % (len(ids) + 1), (pick + position) % tokenizer.vocab_size)
    assert streamed(tokenizer, cut(ids, sizes), skip) == tokenizer.decode(ids, skip)


@given(text=st.text(max_size=40), sizes=SIZES, skip=st.booleans())
@example(text="  two leading spaces", sizes=[], skip=True)
@example(text="e\u0301👩‍👩‍👧🇩🇪", sizes=[], skip=True)
@example(text="half</s>way<|ünïcode|>", sizes=[2], skip=True)
def test_text_of_every_script(tokenizer: Case, text: str, sizes: list[int], skip: bool) -> None:
    ids = tokenizer.encode(text, add_special_tokens=True).tolist()
    assert streamed(tokenizer, cut(ids, sizes), skip) == tokenizer.decode(ids, skip)


@given(text=st.text(max_size=30))
def test_byte_level_text_comes_back(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False).tolist()
    assert streamed(BYTE_LEVEL, [[token] for token in ids], skip=False) == text


@given(text=st.text(min_size=1, max_size=12))
def test_byte_level_shows_each_character_as_soon_as_it_is_whole(text: str) -> None:
    detokenizer = Detokenizer(BYTE_LEVEL)
    for character in text:
        *unfinished, last = BYTE_LEVEL.byte_ids(character.encode())
        assert detokenizer.push(unfinished) == ""
        assert detokenizer.push([last]) == character


@given(picks=st.lists(st.integers(0, 10_000), max_size=20), at=st.integers(0, 20))
def test_a_copy_goes_its_own_way(tokenizer: Case, picks: list[int], at: int) -> None:
    ids = [pick % tokenizer.vocab_size for pick in picks]
    detokenizer = Detokenizer(tokenizer)
    head = detokenizer.push(ids[:at])
    twin = detokenizer.copy()
    assert twin.push(ids[:at]) + twin.finish() == tokenizer.decode(ids[:at] * 2, True)[len(head) :]
    assert head + detokenizer.push(ids[at:]) + detokenizer.finish() == tokenizer.decode(ids, True)


@settings(max_examples=5)
@given(byte=st.sampled_from([0x80, 0xFF, 0xE2, 0xF0, 0x20]))
def test_ten_thousand_bytes(tokenizer: Case, byte: int) -> None:
    ids = tokenizer.byte_ids(bytes([byte])) * 10_000
    assert streamed(tokenizer, [[token] for token in ids], True) == tokenizer.decode(ids, True)


def test_an_impossible_id_changes_nothing(tokenizer: Case) -> None:
    ids = tokenizer.byte_ids("é".encode())
    detokenizer = Detokenizer(tokenizer)
    head = detokenizer.push(ids[:1])
    with pytest.raises(InvalidRequest, match="-1 is no token id"):
        detokenizer.push([*ids, -1])
    assert head + detokenizer.push(ids[1:]) + detokenizer.finish() == tokenizer.decode(ids, True)
