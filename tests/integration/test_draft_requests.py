"""Draft tokens that a client brings, through the real server: rounds of them give the answer of one plain request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import chatml
from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.test_words_and_guides import word_across_tokens, word_table
from tests.integration.triton_api import Answer, Tensors, stream, token_request, wait_until_idle

pytestmark = pytest.mark.server

PROMPT = [5, 80, 31, 7, 120, 44]
LENGTH = 40
SAMPLED: dict[str, Any] = {
    "runtime_top_k": np.int32(50), "runtime_top_p": np.float32(0.9), "temperature": np.float32(1.5),
    "repetition_penalty": np.float32(1.2), "seed": np.uint64(7),
}  # fmt: skip

Drafter = Callable[[list[int], np.random.Generator], list[int]]  # gets what is to come
DRAFTERS: dict[str, Drafter] = {
    "right": lambda truth, random: truth[:6],
    "wrong": lambda truth, random: [(token + 1) % 300 for token in truth[:6]],
    "random": lambda truth, random: random.integers(0, 300, 6).tolist(),
    "half-right": lambda truth, random: [*truth[:3], *random.integers(0, 300, 3).tolist()],
    "past the end": lambda truth, random: [*truth, *[0] * 16][:16],
    "by turns": lambda truth, random: truth[: int(random.integers(7))],
}


def with_draft(draft: list[int], logits: Any = None) -> Tensors:
    tensors: Tensors = {"draft_input_ids": np.array([draft], np.int32)}
    return tensors if logits is None else tensors | {"draft_logits": np.array(logits, np.float32)[np.newaxis]}


def in_rounds(
    server: TritonServer, prompt: list[int], truth: list[int], drafter: Drafter, length: int = LENGTH, **said: Any
) -> tuple[list[int], Answer]:
    """The tokens of as many requests as it takes, and the last one's answer."""
    tokens: list[int] = []
    random = np.random.default_rng(3)
    while True:
        draft = drafter(truth[len(tokens) :], random)
        request = token_request(prompt + tokens, length - len(tokens), return_perf_metrics=True, **said)
        answer = stream(server, "tensorrt_llm", request | with_draft(draft))
        assert answer.error is None, answer.error
        last = answer.responses[-1]
        proposed, accepted = (int(last[f"total_{kind}draft_tokens"].item()) for kind in ("", "accepted_"))
        if draft:
            assert 0 < len(answer.ids) <= len(draft) + 1
            assert proposed == min(len(draft), length - len(tokens) - 1)
            assert last["acceptance_rate"].item() == pytest.approx(accepted / proposed if proposed else 0)
        assert answer.ids[:accepted] == draft[:accepted]
        assert len(answer.ids) == accepted + 1 or answer.finish_reason == "stop" or not draft
        tokens += answer.ids
        if answer.finish_reason == "stop" or len(tokens) == length:
            return tokens, answer


@pytest.mark.parametrize("kind", DRAFTERS)
@pytest.mark.parametrize("said", [{}, SAMPLED, {"streaming": True}], ids=["greedy", "seeded", "streaming"])
def test_rounds_with_any_draft_give_the_plain_answer(
    tiny_server: TritonServer, kind: str, said: dict[str, Any]
) -> None:
    plain = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, LENGTH, **said))
    assert len(plain.ids) == LENGTH
    tokens, last = in_rounds(tiny_server, PROMPT, plain.ids, DRAFTERS[kind], **said)
    assert (tokens, last.finish_reason) == (plain.ids, "length")


def test_an_end_id_in_an_accepted_draft_ends_the_answer_there(tiny_server: TritonServer) -> None:
    truth = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, LENGTH)).ids
    end = next(token for token in truth[8:] if truth.index(token) >= 8)
    plain = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, LENGTH, end_id=np.int32(end)))
    for drafter in (lambda rest, random: rest[:16], lambda rest, random: [*rest[:2], end, *rest[:5]]):
        tokens, last = in_rounds(tiny_server, PROMPT, truth, drafter, end_id=np.int32(end))
        assert (tokens, last.finish_reason) == (plain.ids, "stop")
        assert tokens[-1] == end


def test_the_demo_model_answers_chat_in_rounds_as_it_does_at_once(
    exact_server: TritonServer, demo_engine: Path
) -> None:
    """Several conversations side by side, so that drafts are verified among other work."""
    tokenizer = Tokenizer.load(demo_engine)
    questions = ["What is the capital of France?", "Write a haiku about rain.", "def fibonacci(n):"]
    prompts = [tokenizer.encode(chatml(question), add_special_tokens=True).tolist() for question in questions]
    truths = [stream(exact_server, "tensorrt_llm", token_request(prompt, 24)).ids for prompt in prompts]
    cases = [(i, kind) for i in range(len(prompts)) for kind in ("right", "half-right")]
    found: dict[tuple[int, str], list[int]] = {}

    def ask(case: tuple[int, str]) -> None:
        i, kind = case
        found[case] = in_rounds(exact_server, prompts[i], truths[i], DRAFTERS[kind], length=24)[0]

    threads = [threading.Thread(target=ask, args=(case,)) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(i, kind): truths[i] for i, kind in cases}
    wait_until_idle(exact_server)


def test_a_draft_from_the_targets_own_logits_is_accepted_whole(tiny_server: TritonServer) -> None:
    """p_t / p_d is 1, but for the order in which floats were added. Tokens of two seeds would seldom agree."""
    hot = {"runtime_top_p": np.float32(1.0), "temperature": np.float32(1.0)}
    drawn = stream(
        tiny_server,
        "tensorrt_llm",
        token_request(PROMPT, 8, return_generation_logits=True, seed=np.uint64(1), **hot),
    )
    logits = drawn.responses[0]["generation_logits"][0, 0]
    request = token_request(PROMPT, 9, return_perf_metrics=True, seed=np.uint64(2), **hot)
    with_logits = stream(tiny_server, "tensorrt_llm", request | with_draft(drawn.ids, logits))
    assert with_logits.error is None, with_logits.error
    assert with_logits.ids[:8] == drawn.ids
    assert len(with_logits.ids) == 9
    assert with_logits.responses[-1]["acceptance_rate"].item() == 1
    without = stream(tiny_server, "tensorrt_llm", request | with_draft(drawn.ids))
    assert without.responses[-1]["acceptance_rate"].item() < 1


def test_what_the_threshold_of_a_request_accepts(tiny_server: TritonServer) -> None:
    """Token 9 is certain for the draft, so that the ratio is the target's own probability, which is far from 1."""
    logits = np.full((1, 320), -np.inf, np.float32)
    logits[0, 9] = 0
    for threshold, accepted in ((0.0, 1), (0.99, 0)):
        said = {"runtime_top_p": np.float32(1.0), "draft_acceptance_threshold": np.float32(threshold)}
        request = token_request(PROMPT, 5, return_perf_metrics=True, **said) | with_draft([9], logits)
        answer = stream(tiny_server, "tensorrt_llm", request)
        assert answer.error is None, answer.error
        assert answer.responses[-1]["total_accepted_draft_tokens"].item() == accepted
        assert (answer.ids[0] == 9) == bool(accepted)


def test_greedy_answers_do_not_change_with_logits(tiny_server: TritonServer) -> None:
    truth = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 6)).ids
    logits = np.random.default_rng(1).random((5, 320), dtype=np.float32)
    for draft in (truth[:5], [*truth[:2], 9, 9, 9]):
        answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 6) | with_draft(draft, logits))
        assert answer.ids == truth[: len(answer.ids)]
        assert len(answer.ids) == (6 if draft == truth[:5] else 3)


def test_a_stop_word_inside_an_accepted_draft_ends_the_text_there(tiny_server: TritonServer) -> None:
    tokenizer = Tokenizer.load(tiny_server.options.engine_dir or "")
    plain = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, LENGTH))
    word = word_across_tokens(plain, tokenizer)
    stopped = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, LENGTH) | word_table(tokenizer, word))
    at = len(stopped.ids) - 4  # so the word ends inside the draft, with accepted tokens behind it
    request = token_request(PROMPT + plain.ids[:at], LENGTH - at, return_log_probs=True)
    answer = stream(
        tiny_server, "tensorrt_llm", request | with_draft(plain.ids[at : at + 10]) | word_table(tokenizer, word)
    )
    assert (answer.finish_reason, answer.responses[-1]["stop_word"].item().decode()) == ("stop", word)
    assert answer.ids == stopped.ids[at:]
    assert answer.text == tokenizer.decode(answer.ids, skip_special_tokens=True).split(word)[0]
    assert answer.responses[-1]["output_log_probs"].shape == (1, 1, len(answer.ids))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (with_draft([5] * 17), "Number of draft tokens (17) is larger than maximum number of draft tokens (16)."),
        (with_draft([5, 320]), "token id 320 in draft_input_ids is not in the vocabulary"),
        (with_draft([5], np.zeros((2, 320))), "draft_logits has shape [2, 320]; 1 draft tokens"),
        (with_draft([5]) | {"num_draft_tokens": np.array([[2]], np.int32)}, "brings a draft already"),
        ({"num_draft_tokens": np.array([[17]], np.int32)}, "num_draft_tokens is 17; it lies between 0 and 16"),
        (with_draft([5]) | {"num_return_sequences": np.array([[2]], np.int32)}, "continues one sequence"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_drafts_that_cannot_be_are_refused(tiny_server: TritonServer, extra: Tensors, message: str) -> None:
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 8) | extra)
    assert answer.error is not None
    assert message in answer.error
    wait_until_idle(tiny_server)
