"""Masks: they follow the output, ends and drafts."""

from __future__ import annotations

import numpy as np
import pytest

from python_backend.engine.guided import GuideMatcher, GuideType
from python_backend.engine.sampling.state import GuideFault
from tests.guided_output import END_ID, TOKENIZER, VOCAB_SIZE, compiled


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text).ids
    return found


def started(expression: str, end_id: int | None = None) -> GuideMatcher:
    return compiled(GuideType.REGEX, expression).start(end_id)


def allowed_text(matcher: GuideMatcher, draft: list[int] | None = None) -> set[str]:
    return {TOKENIZER.id_to_token(int(token)) or "?" for token in matcher.allowed(draft or []).nonzero()[0]}


def test_the_end_is_allowed_where_the_guide_is_complete_and_alone_where_nothing_follows() -> None:
    matcher = started("ab?")
    assert allowed_text(matcher) >= {"a"}
    assert not matcher.allowed()[END_ID]
    assert not matcher.is_complete
    matcher.follow(ids("a"))
    assert allowed_text(matcher) == {"b", "<|im_end|>"}
    assert matcher.is_complete
    matcher.follow([*ids("a"), *ids("b")])
    assert allowed_text(matcher) == {"<|im_end|>"}


def test_a_request_may_end_with_another_token() -> None:
    (newline,) = ids("\n")
    matcher = started("a", newline)
    matcher.follow(ids("a"))
    assert matcher.allowed().nonzero()[0].tolist() == [newline]


def test_no_guide_allows_special_tokens_or_padding() -> None:
    allowed = started("(?s:.*)").allowed()
    special = [token for token, added in TOKENIZER.get_added_tokens_decoder().items() if added.special]
    assert allowed[special].nonzero()[0].tolist() == [special.index(END_ID)]
    assert not allowed[TOKENIZER.get_vocab_size() :].any()
    assert allowed.shape == (VOCAB_SIZE,)


def test_draft_tokens_leave_no_trace() -> None:
    matcher = started("(ab|cd)e")
    before = matcher.allowed().copy()
    a, b, c, e = (ids(letter)[0] for letter in "abce")
    assert allowed_text(matcher, [a]) == {"b"}
    assert allowed_text(matcher, [c]) == {"d"}
    assert allowed_text(matcher, [a, b]) == {"e"}
    assert allowed_text(matcher, [a, b, e]) == {"<|im_end|>"}
    assert allowed_text(matcher, [a, b, e, END_ID]) == {"<|im_end|>"}
    assert allowed_text(matcher, [a, b, e, END_ID, a]) == {"<|im_end|>"}
    assert allowed_text(matcher, [a, c]) == {"b"}
    assert allowed_text(matcher, [END_ID]) == allowed_text(matcher)
    np.testing.assert_array_equal(matcher.allowed(), before)


def test_a_matcher_that_is_given_the_whole_output_stands_where_one_stands_that_followed_it() -> None:
    guide = compiled(GuideType.JSON)
    output = ids('{"a": [1, "two", {"b": null}]}')
    step_by_step = guide.start()
    for count in range(len(output) + 1):
        step_by_step.follow(output[:count])
        at_once = guide.start()
        at_once.follow(output[:count])
        np.testing.assert_array_equal(step_by_step.allowed(), at_once.allowed())
        assert at_once.allowed()[END_ID] == (count == len(output))


def test_matchers_of_one_guide_do_not_know_of_each_other() -> None:
    guide = compiled(GuideType.REGEX, "ab")
    one, other = guide.start(), guide.start()
    one.follow(ids("a"))
    assert allowed_text(one) == {"b"}
    assert "a" in allowed_text(other)


def test_an_output_that_breaks_the_guide_is_a_fault() -> None:
    matcher = started("ab")
    with pytest.raises(GuideFault, match="cannot go on"):
        matcher.follow(ids("x"))


def test_a_guide_that_takes_too_much_work_for_a_token_is_a_fault() -> None:
    matcher = started("(.{0,50}a.{0,50}){50}")
    output = np.random.default_rng(0).choice(ids("a") + ids("b"), 100).tolist()

    def write_on() -> None:
        for count in range(len(output)):
            matcher.follow(output[:count])
            matcher.allowed()

    with pytest.raises(GuideFault, match=r"too many expressions constructed\. Simplify"):
        write_on()
