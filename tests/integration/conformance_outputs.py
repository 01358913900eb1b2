"""What comes back: the value of each output, at the engine's door and at those in front of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.integration.conformance import LENGTH, Bench, Door
from tests.integration.triton_api import Answer

EVERYTHING: dict[str, Any] = dict.fromkeys(
    (
        "return_log_probs", "return_context_logits", "return_generation_logits", "return_perf_metrics",
        "return_num_input_tokens", "return_num_output_tokens",
    ),
    True,
)  # fmt: skip
DETAILS = ("cum_log_probs", "output_log_probs", "context_logits", "generation_logits")
COUNTS = ("num_input_tokens", "num_output_tokens")
TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
BLOCKS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
DRAFTS = ("acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens")


def value(answer: Answer, name: str) -> Any:
    """The only value of an output, in the last response."""
    return answer.responses[-1][name].item()


def log_softmax(logits: Any) -> Any:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def joined(answer: Answer, name: str, axis: int) -> Any:
    return np.concatenate([response[name] for response in answer.responses if name in response], axis)


def details_are_the_references(bench: Bench, door: Door, *, streaming: bool) -> None:
    answer = door.ask(streaming=streaming, **EVERYTHING)
    assert answer.text == bench.plain.text
    assert (len(answer.responses) > 1) == streaming
    ids = bench.plain.ids
    logits = bench.logits(ids)[:-1]
    expected = log_softmax(logits)[np.arange(LENGTH), ids]
    np.testing.assert_allclose(joined(answer, "output_log_probs", 2)[0, 0], expected, atol=1e-3)
    np.testing.assert_allclose(joined(answer, "generation_logits", 2)[0, 0], logits, atol=1e-2)
    sums = [response["cum_log_probs"].item() for response in answer.responses]
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] == pytest.approx(expected.sum(), abs=1e-3)
    assert ["context_logits" in response for response in answer.responses] == [
        index == 0 for index in range(len(answer.responses))
    ]
    context = bench.reference.logits(bench.prompt)
    np.testing.assert_allclose(answer.responses[0]["context_logits"][0], context, atol=1e-2)
    assert value(answer, "num_input_tokens") == len(bench.prompt)
    assert sum(response["num_output_tokens"].item() for response in answer.responses) == LENGTH
    reasons = [response["finish_reason"].item() for response in answer.responses if "finish_reason" in response]
    assert reasons == [b"length"]


def times_are_in_order(door: Door) -> None:
    times = [value(door.ask(return_perf_metrics=True), name) for name in TIMES]
    assert 0 < times[0] <= times[1] <= times[2] < times[3]


def blocks_add_up(bench: Bench, door: Door, seed: int) -> None:
    """A prompt of more than three blocks, asked twice: the second time it reuses what is full of the first."""
    text = "".join(np.random.default_rng(seed).choice(list("abcdefgh"), 110))
    length = bench.tokenizer.encode(text, add_special_tokens=True).size
    full, needed = (length - 1) // 32, (length + 4 - 1 + 31) // 32
    first, second = (door.ask(text, 4, return_perf_metrics=True) for _ in range(2))
    assert [value(first, name) for name in BLOCKS] == [needed, 0, needed]
    new, reused, total = (value(second, name) for name in BLOCKS)
    assert full <= reused <= needed
    assert (new + reused, total) == (needed, needed)


def draft_figures_add_up(door: Door) -> None:
    rate, accepted, proposed = (value(door.ask(return_perf_metrics=True), name) for name in DRAFTS)
    assert 0 <= accepted <= proposed
    assert rate == pytest.approx(accepted / proposed if proposed else 0.0)


def rows_and_sequences_are_numbered(door: Door, rows: int = 2, sequences: int = 2) -> None:
    one = door.tensors(length=4, num_return_sequences=sequences)
    answer = door.wire.ask(door.model, {name: np.repeat(array, rows, axis=0) for name, array in one.items()})
    found = {
        tuple(value_of(response, name) for name in ("batch_index", "sequence_index")) for response in answer.responses
    }
    assert found == {(row, sequence) for row in range(rows) for sequence in range(sequences)}
    assert [response["text_output"].item().decode() for response in answer.responses] == [door.ask(length=4).text] * (
        rows * sequences
    )


def value_of(response: dict[str, Any], name: str) -> Any:
    return response[name].item()


def stop_word_is_named(bench: Bench, door: Door) -> None:
    """The text of tokens of the plain answer stops it."""
    word = [int(token) for token in bench.plain.ids[8:11]]
    text = bench.tokenizer.decode(word, skip_special_tokens=True)
    if door.has("stop_words_list"):
        answer = door.ask(stop_words_list=[word, [3, -1, -1]])
    else:
        answer = door.ask(stop_words=[text])
    assert (value(answer, "stop_word").decode(), answer.finish_reason) == (text, "stop")
    assert answer.text == bench.plain.text[: bench.plain.text.index(text)]
