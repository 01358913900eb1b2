"""Stop words end a text where a search over the whole text says, however the text is cut into parts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, trainers

from build_engines.sources.demo_model import demo_gguf
from build_engines.sources.gguf_file import GgufFile
from build_engines.sources.gguf_tokenizer import tokenizer_files
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.stop_criteria import StopCriteria, StoppingDetokenizer
from python_backend.text.stop_words import StopWords, TokenStopWords
from python_backend.text.tokenizer import Tokenizer
from tests import tiny_llama

TEXT = st.text("abé🙂\n", max_size=30)
WORDS = st.lists(st.text("abé🙂\n", min_size=1, max_size=5), max_size=6)
IDS = st.lists(st.integers(0, 3), max_size=30)
ID_WORDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=6)
SIZES = st.lists(st.integers(0, 5), max_size=8)


def first_word(text: str, words: Sequence[str]) -> tuple[str, str | None]:
    """The text before the word that is complete first (of those, the longest), and the word."""
    found = [(text.find(word) + len(word), -len(word), word) for word in words if word in text]
    if not found:
        return text, None
    end, _, word = min(found)
    return text[: end - len(word)], word


def cut(length: int, sizes: list[int]) -> list[slice]:
    """Parts of the given sizes, then of size one."""
    slices, start = [], 0
    for size in sizes:
        slices.append(slice(start, start + size))
        start += size
    return slices + [slice(i, i + 1) for i in range(start, length)]


def held_back(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of the text that begins a word."""
    beginnings = {word[:size] for word in words for size in range(1, len(word))}
    return max((size for size in range(len(text) + 1) if text[len(text) - size :] in beginnings), default=0)


@given(text=TEXT, words=WORDS, sizes=SIZES)
@example(text="xabc", words=["ab", "abc"], sizes=[])
@example(text="xabz", words=["xabyz", "ab"], sizes=[])
@example(text="aab", words=["ab", "aab"], sizes=[])
@example(text="abé", words=["abé"], sizes=[1, 2])
@example(text="aaab", words=["aab"], sizes=[])
@example(text="abab🙂", words=["abab\n", "ba", "🙂"], sizes=[3])
def test_text_ends_before_the_first_word(text: str, words: list[str], sizes: list[int]) -> None:
    before, word = first_word(text, words)
    matcher, shown, seen = StopWords(words), "", ""
    for part in cut(len(text), sizes):
        shown += matcher.push(text[part])
        seen += text[part]
        assert before.startswith(shown)
        if matcher.found is None:
            assert shown == seen[: len(seen) - held_back(seen, words)]
    assert matcher.found == word
    assert shown + matcher.finish() == before
    assert matcher.push("ab") == "" or word is None


@given(ids=IDS, words=ID_WORDS, sizes=SIZES)
@example(ids=[1, 1, 2], words=[(1, 2), (2,)], sizes=[3])
def test_ids_end_with_the_first_word(ids: list[int], words: list[tuple[int, ...]], sizes: list[int]) -> None:
    found = [(end, -len(w), w) for w in words for end in range(len(ids) + 1) if tuple(ids[:end])[-len(w) :] == w]
    end, _, word = min(found) if found else (len(ids), 0, None)
    matcher = TokenStopWords(words)
    assert sum(matcher.push(ids[part]) for part in cut(len(ids), sizes)) == end
    assert matcher.found == word


@given(text=TEXT, words=WORDS, at=st.integers(0, 30))
def test_a_copy_goes_its_own_way(text: str, words: list[str], at: int) -> None:
    matcher = StopWords(words)
    shown = matcher.push(text[:at])
    twin = matcher.copy()
    assert shown + twin.push("ab") + twin.finish() == first_word(text[:at] + "ab", words)[0]
    assert shown + matcher.push(text[at:]) + matcher.finish() == first_word(text, words)[0]


def sentencepiece() -> RustTokenizer:
    """As Llama 2's: a mark before the first word, and bytes for characters outside the vocabulary."""
    rust = RustTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    rust.train_from_iterator(["▁the▁quick▁brown▁fox▁says▁hello▁world▁bad▁words▁User:"] * 2, trainer)
    content = json.loads(rust.to_str())
    vocab = content["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    return RustTokenizer.from_str(json.dumps(content))


def smollm2() -> RustTokenizer:
    return RustTokenizer.from_str(tokenizer_files(GgufFile(demo_gguf()))["tokenizer.json"])


@pytest.fixture(scope="module", params=["tiny llama", "SmolLM2", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made = {"tiny llama": tiny_llama.tokenizer, "SmolLM2": smollm2, "sentencepiece": sentencepiece}
    return Tokenizer(made[request.param](), {"eos_token": "<|im_end|>"})


def certain_text(tokenizer: Tokenizer, ids: list[int], finish: bool) -> str:
    detokenizer = Detokenizer(tokenizer)
    return detokenizer.push(ids) + (detokenizer.finish() if finish else "")


ANSWER = st.text("the quick fox: é🙂\n", max_size=30)


@settings(deadline=None)
@given(data=st.data(), answer=ANSWER, picks=st.lists(st.integers(0, 100_000), max_size=6), sizes=SIZES)
def test_words_in_the_text_of_tokens(
    tokenizer: Tokenizer, data: st.DataObject, answer: str, picks: list[int], sizes: list[int]
) -> None:
    ids = [*tokenizer.encode(answer, add_special_tokens=False).tolist(), *(p % tokenizer.vocab_size for p in picks)]
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    parts = st.tuples(st.integers(0, 40), st.integers(1, 6)).map(lambda at: whole[at[0] : at[0] + at[1]])
    words = data.draw(st.lists(parts.filter(bool) if whole else st.just("x"), max_size=3))

    before, word = first_word(whole, words)
    kept = next(
        (n for n in range(len(ids)) if any(w in certain_text(tokenizer, ids[:n], finish=False) for w in words)),
        len(ids),
    )
    stopping = StoppingDetokenizer(tokenizer, StopCriteria(texts=tuple(words)))
    passages = [stopping.push(ids[part]) for part in cut(len(ids), sizes)] + [stopping.finish()]
    assert "".join(passage.text for passage in passages) == before
    assert sum(passage.tokens for passage in passages) == kept
    assert [passage.stop_word for passage in passages if passage.stop_word is not None] == ([word] if word else [])


@settings(deadline=None)
@given(word=st.text("the quick fox:é🙂\n", min_size=1, max_size=8))
def test_a_word_given_as_ids_is_found_in_every_tokenization(tokenizer: Tokenizer, word: str) -> None:
    criteria = StopCriteria.of(tokenizer, [tuple(tokenizer.encode(word, False).tolist())], skip_special_tokens=True)
    assert criteria == StopCriteria(texts=(word,))
    for answer in ("so " + word + " on", "so" + word + "on"):
        characters = [token for character in answer for token in tokenizer.encode(character, False).tolist()]
        for ids in (tokenizer.encode(answer, False).tolist(), characters):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            stopping = StoppingDetokenizer(tokenizer, criteria)
            passage = stopping.push(ids)
            shown = passage.text + stopping.finish().text
            assert shown == (text[: text.index(word)] if word in text else text)


@settings(deadline=None)
@given(picks=st.lists(st.integers(0, 100_000), min_size=1, max_size=4))
def test_the_ids_of_a_word_always_stop(tokenizer: Tokenizer, picks: list[int]) -> None:
    word = tuple(pick % tokenizer.vocab_size for pick in picks)
    stopping = StoppingDetokenizer(tokenizer, StopCriteria.of(tokenizer, [word], skip_special_tokens=True))
    prompt = tokenizer.encode("the quick", False).tolist()
    passages = [stopping.push([*prompt, *word, *word]), stopping.finish()]
    assert any(passage.stop_word is not None for passage in passages)  # A lone space has no text of its own.
