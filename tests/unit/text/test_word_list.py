"""The [2, n] tensors that clients send, and what bars a bad word."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers

from python_backend.errors import InvalidRequest
from python_backend.text.tokenizer import Tokenizer
from python_backend.text.word_list import bad_word_ids, parse_word_list
from tests import tiny_llama

VOCAB = 100


def written_upstream(rows: list[list[list[int]]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """[rows, 2, n] as upstream's preprocessing writes it: at least one column, zeros behind ids, -1 behind ends."""
    longest = max(1, max(sum(map(len, words)) for words in rows))
    table = np.zeros((len(rows), 2, longest), np.int32)
    table[:, 1] = -1
    for row, words in zip(table, rows, strict=True):
        flat = [token for word in words for token in word]
        row[0, : len(flat)] = flat
        row[1, : len(words)] = np.cumsum([len(word) for word in words])
    return table


def test_rows_of_a_batch_as_upstream_writes_them() -> None:
    rows = [[[5, 6, 7], [9]], [], [[0]], [[1], [2], [3], [4]]]
    for row, words in zip(written_upstream(rows), rows, strict=True):
        expected = [tuple(word) for word in words]
        assert parse_word_list("stop_words_list", row, VOCAB) == expected
        assert parse_word_list("stop_words_list", row.reshape(-1), VOCAB) == expected


@pytest.mark.parametrize("shape", [(2, 0), (0,)])
def test_nothing_is_no_words(shape: tuple[int, ...]) -> None:
    assert parse_word_list("bad_words_list", np.empty(shape, np.int32), VOCAB) == []


def test_ids_behind_the_last_end_are_padding() -> None:
    assert parse_word_list("bad_words_list", np.array([[4, 5, -7, 900], [2, -1, -1, -1]]), VOCAB) == [(4, 5)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2, 3], r"shape \[3\]; send \[2, n\]"),
        ([[1, 2], [1, 2], [1, 2]], r"shape \[3, 2\]"),
        ([[[1], [1]]], r"shape \[1, 2, 1\]"),
        ([[5, 6], [3, -1]], "starts at 0 and ends at 3, with 2 ids"),
        ([[5, 6], [0, 1]], "starts at 0 and ends at 0"),
        ([[5, 6], [2, 2]], "starts at 2 and ends at 2"),
        ([[5, 6], [2, 1]], "starts at 2 and ends at 1"),
        ([[5, 6], [-2, 1]], "starts at 0 and ends at -2"),
        ([[5, 6], [-1, 1]], "1 behind a -1"),
        ([[5, 100], [2, -1]], "token id 100; ids of this model lie between 0 and 99"),
        ([[5, -3], [2, -1]], "token id -3"),
    ],
)
def test_a_malformed_list_is_named_and_explained(table: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"stop_words_list has .*{message}"):
        parse_word_list("stop_words_list", np.array(table, np.int32), VOCAB)


def tokenizer_of(rust: RustTokenizer) -> Tokenizer:
    return Tokenizer(rust, {"eos_token": "<|im_end|>"})


def sentencepiece() -> Tokenizer:
    """Knows ``bad`` with and without the mark before it, and single letters."""
    pieces = ["<unk>", "<|im_end|>", "▁", "▁▁", "\n", *"badsfox", "ba", "bad", "▁bad"]
    merges = [("▁", "▁"), ("b", "a"), ("ba", "d"), ("▁", "bad")]
    rust = RustTokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    rust.add_special_tokens(["<|im_end|>"])
    return tokenizer_of(rust)


def occurrences(text: list[int], words: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [word for word in words for i in range(len(text)) if tuple(text[i : i + len(word)]) == word]


@pytest.mark.parametrize("made", [lambda: tokenizer_of(tiny_llama.tokenizer()), sentencepiece])
@pytest.mark.parametrize("word", ["bad", " bad", "a", "bad bad", "fox"])
def test_a_bad_word_is_barred_at_the_start_in_a_line_and_after_a_space(made: object, word: str) -> None:
    assert callable(made)
    tokenizer: Tokenizer = made()
    barred = bad_word_ids(tokenizer, word)
    for text in (word, f"\n{word}", f"s {word.strip()}", f"a\n{word}\na"):
        ids = tokenizer.encode(text, add_special_tokens=False).tolist()
        assert occurrences(ids, barred), text


def test_the_tokenizations_of_a_bad_word() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.encode("bad", False).tolist() == [14]  # ▁bad
    assert bad_word_ids(tokenizer, "bad") == [(14,), (13,)]  # and bad, as in a word or after a line break
    assert bad_word_ids(tokenizer, " bad") == [(3, 13), (14,)]  # after two spaces, which are one token here


def test_a_bad_word_that_ends_with_another_is_left_out() -> None:
    barred = bad_word_ids(sentencepiece(), "bads")
    assert not any(a != b and a[-len(b) :] == b for a in barred for b in barred)


def test_a_bad_word_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="bad word '' has no tokens"):
        bad_word_ids(tokenizer_of(tiny_llama.tokenizer()), "")
