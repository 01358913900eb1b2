"""Stop words one case at a time; that they agree with a search over the whole text is shown in tests/property."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as RustTokenizer

from python_backend.errors import InvalidRequest
from python_backend.text.stop_criteria import Passage, StopCriteria, StoppingDetokenizer
from python_backend.text.stop_words import MAX_WORD_SYMBOLS, StopWords, TokenStopWords
from python_backend.text.tokenizer import Tokenizer
from tests import tiny_llama


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    rust: RustTokenizer = tiny_llama.tokenizer()
    return Tokenizer(rust, {"eos_token": "<|im_end|>"})


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def test_a_possible_beginning_is_held_back() -> None:
    matcher = StopWords(["\n\nUser:"])
    assert [matcher.push(part) for part in ("Hi.", "\n", "\nUs", "ual")] == ["Hi.", "", "", "\n\nUsual"]
    assert [matcher.push(part) for part in ("\n\nUser", ":", " more")] == ["", "", ""]
    assert matcher.found == "\n\nUser:"
    assert matcher.finish() == ""


def test_what_is_held_comes_out_at_the_end() -> None:
    matcher = StopWords(["stop"])
    assert matcher.push("do not sto") == "do not "
    assert matcher.finish() == "sto"
    assert matcher.found is None


@pytest.mark.parametrize(
    ("words", "text", "shown", "found"),
    [
        (["ab", "abc"], "xabc", "x", "ab"),  # complete first
        (["b", "ab"], "xab", "x", "ab"),  # complete together: the longest
        (["abcd", "bc"], "xabce", "xa", "bc"),  # the earlier start comes too late
        (["all"], "all", "", "all"),
        (["é"], "cafe\u0301 café", "cafe\u0301 caf", "é"),  # characters are compared as they are
        ([], "text", "text", None),
        (["a", "a"], "ba", "b", "a"),
    ],
)
def test_which_word_counts(words: list[str], text: str, shown: str, found: str | None) -> None:
    matcher = StopWords(words)
    assert matcher.push(text) + matcher.finish() == shown
    assert matcher.found == found


def test_a_word_of_ids_is_part_of_the_output() -> None:
    matcher = TokenStopWords([(5, 6), (9,)])
    assert [matcher.push(part) for part in ([1, 5], [5, 6, 7], [8])] == [2, 2, 0]
    assert matcher.found == (5, 6)


def test_words_without_an_end_in_sight_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="stop word 2 of 2 is empty"):
        StopWords(["a", ""])
    with pytest.raises(InvalidRequest, match=f"{MAX_WORD_SYMBOLS + 1} characters; at most {MAX_WORD_SYMBOLS}"):
        StopWords(["a", "b" * MAX_WORD_SYMBOLS])
    with pytest.raises(InvalidRequest, match="65537 tokens"):
        TokenStopWords([(1,) * (MAX_WORD_SYMBOLS + 1)])


def test_words_that_ids_alone_can_tell(tokenizer: Tokenizer) -> None:
    end, (first, *_), text = tokenizer.end_id, ids(tokenizer, "é"), tuple(ids(tokenizer, "the fox"))
    words = [(end,), (first,), text, (*text, end), text]
    skipping = StopCriteria.of(tokenizer, words, skip_special_tokens=True)
    assert skipping == StopCriteria(texts=("the fox",), ids=((end,), (first,), (*text, end)))
    showing = StopCriteria.of(tokenizer, words, skip_special_tokens=False)
    assert showing == StopCriteria(texts=("<|im_end|>", "the fox", "the fox<|im_end|>"), ids=((first,),))
    assert skipping
    assert not StopCriteria.of(tokenizer, [], skip_special_tokens=True)


def test_the_replacement_character_can_be_a_word(tokenizer: Tokenizer) -> None:
    word = tuple(ids(tokenizer, "\ufffd"))
    assert StopCriteria.of(tokenizer, [word], skip_special_tokens=True) == StopCriteria(texts=("\ufffd",))


def test_tokens_count_up_to_the_one_that_completes_the_word(tokenizer: Tokenizer) -> None:
    before, last, after = ids(tokenizer, "the brown"), ids(tokenizer, " fox"), ids(tokenizer, " jumps")
    assert len(last) == 1
    answer = [*before, *last, *after]
    stopping = StoppingDetokenizer(tokenizer, StopCriteria(texts=("n fo",)))
    assert stopping.push(answer) == Passage("the brow", len(before) + 1, "n fo")
    assert stopping.push([answer[0]]) == stopping.finish() == Passage("", 0)


def test_a_hidden_special_token_stops_and_shows_what_was_held(tokenizer: Tokenizer) -> None:
    criteria = StopCriteria.of(tokenizer, [(tokenizer.end_id,)], skip_special_tokens=True)
    stopping = StoppingDetokenizer(tokenizer, StopCriteria(("fox trot",), criteria.ids))
    answer = ids(tokenizer, "the fox")
    assert stopping.push(answer) == Passage("the ", len(answer))
    assert stopping.push([tokenizer.end_id, answer[0]]) == Passage("fox", 1, "<|im_end|>")


def test_words_in_the_prompt_stop_nothing(tokenizer: Tokenizer) -> None:
    stopping = StoppingDetokenizer(tokenizer, StopCriteria(texts=("fox",)))
    assert stopping.prompt(ids(tokenizer, "a fo")) == "a fo"
    answer = ids(tokenizer, "x and a fox")
    assert stopping.push(answer) == Passage("x and a ", len(answer), "fox")


def test_the_last_flush_may_complete_a_word(tokenizer: Tokenizer) -> None:
    first, *_ = ids(tokenizer, "é")
    stopping = StoppingDetokenizer(tokenizer, StopCriteria(texts=("a\ufffd",)))
    assert stopping.push([*ids(tokenizer, "ba"), first]) == Passage("b", 3)
    assert stopping.finish() == Passage("", 0, "a\ufffd")


def test_a_copy_goes_its_own_way(tokenizer: Tokenizer) -> None:
    stopping = StoppingDetokenizer(tokenizer, StopCriteria(texts=("quick",)))
    shown = stopping.push(ids(tokenizer, "the qu")).text
    twin = stopping.copy()
    assert twin.push(ids(tokenizer, "ick")).stop_word == "quick"
    assert shown + stopping.push(ids(tokenizer, "iet")).text + stopping.finish().text == "the quiet"
