"""The doors in front of the engine: inputs of their own, and that they give what the engine gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.integration.conformance import TEXT, Bench, Door, own_words
from tests.integration.conformance_outputs import COUNTS, DETAILS
from tests.integration.conformance_steps import CONVERSATION, rendered
from tests.integration.triton_api import Answer


def assert_same(front: Answer, engine: Answer) -> None:
    """Text, end and everything else that does not depend on when it was asked."""
    assert front.error == engine.error
    assert [r.keys() - {"output_ids", "sequence_length"} for r in engine.responses] == [
        r.keys() for r in front.responses
    ]
    for ours, theirs in zip(front.responses, engine.responses, strict=True):
        for name in {"text_output", "finish_reason", "stop_word", "sequence_index", *DETAILS, *COUNTS} & ours.keys():
            assert ours[name].tolist() == theirs[name].tolist(), name


def _text(bench: Bench, door: Door) -> None:
    assert door.ask("fox").text == bench.engine.ask("fox").text != bench.plain.text


def _max_tokens(bench: Bench, door: Door) -> None:
    ids = bench.plain.ids[:9]
    assert door.ask(length=9).text == bench.tokenizer.decode(ids, skip_special_tokens=True)


def _changes_nothing(**inputs: Any) -> Callable[[Bench, Door], None]:
    def effect(bench: Bench, door: Door) -> None:
        answer = door.ask(**inputs)
        assert (answer.error, answer.text) == (None, bench.plain.text)

    return effect


def _bad_words(bench: Bench, door: Door) -> None:
    assert "ow" in bench.plain.text
    assert "ow" not in door.ask(bad_words=["ow", ""]).text


def _stop_words(bench: Bench, door: Door) -> None:
    answer = door.ask(stop_words=["never there", "ow.", ""])
    assert answer.text == bench.plain.text[: bench.plain.text.index("ow.")]
    assert answer.responses[-1]["stop_word"].item() == b"ow."


def _bias(bench: Bench, door: Door) -> None:
    assert (
        door.ask(length=4, embedding_bias_words=[" seven", "zz"], embedding_bias_weights=[99.0, -1.0]).text
        == " seven" * 4
    )
    without = door.ask(length=1, embedding_bias_words=[" seven"], embedding_bias_weights=[0.5])
    assert without.text == bench.engine.ask(length=1).text


def _messages(bench: Bench, door: Door) -> None:
    assert door.ask("", messages=CONVERSATION).text == bench.engine.ask(rendered(bench)).text
    both = door.ask(TEXT, messages=CONVERSATION).error
    assert own_words(both, door.model.name) == (
        "both text_input and messages are there. Send messages with an empty text_input."
    )


def _use_draft_logits(bench: Bench, door: Door) -> None:
    answer = door.ask(use_draft_logits=True)
    assert answer.responses == []
    assert (answer.error or "").startswith('use_draft_logits needs a draft model; drafter is "engine". Leave it out,')
    assert door.ask(use_draft_logits=False).text == bench.plain.text


def _refused(name: str, value: Any) -> Callable[[Bench, Door], None]:
    def effect(bench: Bench, door: Door) -> None:
        message = f"{name} is not available: the models served here read text. Leave {name} out."
        answer = door.ask(**{name: value})
        assert (answer.error, answer.responses) == (message, [])

    return effect


#: Of each input that the engine does not have under any name.
OWN: dict[str, Callable[[Bench, Door], None]] = {
    "text_input": _text,
    "max_tokens": _max_tokens,
    "decoder_text_input": _changes_nothing(decoder_text_input="a decoder only has none"),
    "prompt_table_extra_id": _changes_nothing(prompt_table_extra_id=6),
    "bad_words": _bad_words,
    "stop_words": _stop_words,
    "embedding_bias_words": _bias,
    "embedding_bias_weights": _bias,
    "messages": _messages,
    "use_draft_logits": _use_draft_logits,
    "image_input": _refused("image_input", [[[[0.5]]] * 3]),
    "image_bytes_input": _refused("image_bytes_input", [[[[1]]]]),
    "image_url_input": _refused("image_url_input", "http://example.org/a.png"),
    "image_sizes_input": _refused("image_sizes_input", [[1, 1]]),
    "video_bytes_input": _refused("video_bytes_input", [[[[1]]]]),
}
