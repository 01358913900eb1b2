"""How tokens are chosen, and what is told besides them: every tensor of it through the real server."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.triton_api import (
    Answer,
    post,
    server_sent_events,
    stream,
    text_request,
    token_request,
    wait_until_idle,
)
from tests.reference_model import ReferenceModel

pytestmark = pytest.mark.server

PROMPT = [5, 80, 31, 7, 120, 44]
VOCAB_SIZE = 320


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> ReferenceModel:
    return ReferenceModel(tiny_checkpoint, quantize_lm_head=True)


def tokens(server: TritonServer, max_tokens: int = 24, **extra: Any) -> list[int]:
    answer = stream(server, "tensorrt_llm", token_request(PROMPT, max_tokens, **extra))
    assert answer.error is None, answer.error
    return answer.ids


def row(values: npt.ArrayLike, dtype: type) -> npt.NDArray[Any]:
    """A tensor of one row of the batch."""
    return np.array([values], dtype)


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def joined(answer: Answer, name: str, axis: int) -> npt.NDArray[Any]:
    return np.concatenate([response[name] for response in answer.responses if name in response], axis)


def test_a_seed_repeats_the_text_and_its_absence_does_not(tiny_server: TritonServer) -> None:
    random: dict[str, Any] = {"runtime_top_k": np.int32(50), "temperature": np.float32(1.5)}
    seeded = tokens(tiny_server, seed=np.uint64(7), **random)
    assert tokens(tiny_server, seed=np.uint64(7), **random) == seeded
    assert tokens(tiny_server, random_seed=np.uint64(7), **random) == seeded
    assert tokens(tiny_server, seed=np.uint64(8), **random) != seeded
    assert tokens(tiny_server, **random) != tokens(tiny_server, **random)


@pytest.mark.parametrize(
    "extra",
    [
        {"runtime_top_k": np.int32(1), "temperature": np.float32(3)},
        {"runtime_top_k": np.int32(50), "temperature": np.float32(0)},
        {"runtime_top_p": np.float32(1e-6)},
        {"runtime_top_p": np.float32(0), "runtime_top_p_min": np.float32(0), "runtime_top_p_reset_ids": np.int32(-1)},
        {"return_log_probs": np.True_},
    ],
    ids=lambda extra: "-".join(extra),
)
def test_what_leaves_no_choice_is_greedy(tiny_server: TritonServer, extra: dict[str, Any]) -> None:
    assert tokens(tiny_server, **extra) == tokens(tiny_server)


def test_penalties_bias_and_min_tokens_change_the_greedy_answer_as_they_say(
    tiny_server: TritonServer, reference: ReferenceModel
) -> None:
    greedy = tokens(tiny_server)
    assert len(set(tokens(tiny_server, frequency_penalty=np.float32(1e6)) + PROMPT)) == 24 + len(PROMPT)
    assert len(set(tokens(tiny_server, presence_penalty=np.float32(1e6)) + PROMPT)) == 24 + len(PROMPT)
    assert tokens(tiny_server, repetition_penalty=np.float32(50)) != greedy
    bias = np.zeros(VOCAB_SIZE, np.float32)
    bias[greedy[0]] = -np.inf
    banned = token_request(PROMPT, 1) | {"embedding_bias": bias[None]}
    second = int(reference.logits(PROMPT)[-1].argsort()[-2])
    assert stream(tiny_server, "tensorrt_llm", banned).ids == [second]
    end: dict[str, Any] = {"end_id": np.int32(greedy[2])}
    first_end = greedy.index(greedy[2]) + 1
    assert len(tokens(tiny_server, **end)) == first_end
    assert len(tokens(tiny_server, min_tokens=np.int32(20), **end)) >= 20
    assert tokens(tiny_server, min_length=np.int32(20), **end) == tokens(tiny_server, min_tokens=np.int32(20), **end)


@pytest.mark.parametrize("streaming", [False, True])
def test_log_probs_and_logits_are_those_of_the_reference(
    tiny_server: TritonServer, reference: ReferenceModel, streaming: bool
) -> None:
    wanted = {f"return_{name}": True for name in ("log_probs", "context_logits", "generation_logits")}
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 12, streaming=streaming, **wanted))
    assert answer.error is None, answer.error
    assert (len(answer.responses) > 1) == streaming
    ids = answer.ids
    logits = reference.logits(PROMPT + ids)
    expected = log_softmax(logits[len(PROMPT) - 1 : -1])[np.arange(12), ids]
    log_probs = joined(answer, "output_log_probs", 2)
    assert log_probs.shape == (1, 1, 12)
    np.testing.assert_allclose(log_probs[0, 0], expected, atol=1e-3)
    np.testing.assert_allclose(answer.responses[-1]["cum_log_probs"], [[expected.sum()]], atol=1e-3)
    assert [response["cum_log_probs"].shape for response in answer.responses] == [(1, 1)] * len(answer.responses)
    generation = joined(answer, "generation_logits", 2)
    assert generation.shape == (1, 1, 12, VOCAB_SIZE)
    np.testing.assert_allclose(generation[0, 0], logits[len(PROMPT) - 1 : -1], atol=1e-2)
    assert ["context_logits" in response for response in answer.responses].count(True) == 1
    context = answer.responses[0]["context_logits"]
    assert context.shape == (1, len(PROMPT), VOCAB_SIZE)
    np.testing.assert_allclose(context[0], logits[: len(PROMPT)], atol=1e-2)


def test_the_ensemble_passes_everything_on(tiny_server: TritonServer) -> None:
    text = "the quick brown"
    plain = stream(tiny_server, "ensemble", text_request(text, 10))
    asked = {f"return_{name}": True for name in ("log_probs", "context_logits", "generation_logits")}
    answer = stream(tiny_server, "ensemble", text_request(text, 10, return_num_input_tokens=True, **asked))
    (response,) = answer.responses
    assert answer.text == plain.text
    assert response["output_log_probs"].shape == (1, 1, 10)
    assert response["cum_log_probs"].item() == pytest.approx(response["output_log_probs"].sum(), abs=1e-4)
    assert response["generation_logits"].shape == (1, 1, 10, VOCAB_SIZE)
    assert response["context_logits"].shape == (1, response["num_input_tokens"].item(), VOCAB_SIZE)
    hot = {"top_k": np.int32(40), "temperature": np.float32(1.2), "seed": np.uint64(3)}
    assert stream(tiny_server, "ensemble", text_request(text, 10, **hot)).text != plain.text
    body = {"text_input": text, "max_tokens": 10, "top_k": 40, "temperature": 1.2, "seed": 3}
    over_http = post(tiny_server, "ensemble/generate", body).json()["text_output"]
    assert over_http == stream(tiny_server, "ensemble", text_request(text, 10, **hot)).text
    events = server_sent_events(tiny_server, "ensemble", {**body, "stream": True, "return_log_probs": True})
    assert "".join(event["text_output"] for event in events) == over_http
    assert [len(np.atleast_1d(event["cum_log_probs"])) for event in events] == [1] * len(events)


def test_several_sequences_of_one_prompt(tiny_server: TritonServer) -> None:
    random: dict[str, Any] = {
        "runtime_top_k": np.int32(50),
        "temperature": np.float32(1.5),
        "num_return_sequences": np.int32(3),
    }
    request = token_request(PROMPT, 16, seed=np.uint64(11), streaming=True, return_num_output_tokens=True, **random)
    answer = stream(tiny_server, "tensorrt_llm", request)
    assert answer.error is None, answer.error
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    reasons: dict[int, str] = {}
    for response in answer.responses:
        index = int(response["sequence_index"].item())
        found[index] += response["output_ids"].reshape(-1).tolist()
        assert response["num_output_tokens"].item() == response["output_ids"].size
        if "finish_reason" in response:
            reasons[index] = response["finish_reason"].item().decode()
    assert reasons == {0: "length", 1: "length", 2: "length"}
    assert [len(ids) for ids in found.values()] == [16] * 3
    assert len({tuple(ids) for ids in found.values()}) == 3
    alone = {name: value for name, value in random.items() if name != "num_return_sequences"}
    assert found[1] == tokens(tiny_server, 16, seed=np.uint64(12), **alone)


def test_several_sequences_of_several_prompts_over_the_ensemble(tiny_server: TritonServer) -> None:
    batch = {
        "text_input": np.array([[b"quick fox"], [b"lazy dog"]], np.object_),
        "max_tokens": np.array([[4], [6]], np.int32),
        "num_return_sequences": np.array([[2], [2]], np.int32),
    }
    answer = stream(tiny_server, "ensemble", batch)
    keys = {(r["batch_index"].item(), r["sequence_index"].item()): r["text_output"].item() for r in answer.responses}
    assert keys.keys() == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert keys[0, 0] == keys[0, 1] == stream(tiny_server, "ensemble", text_request("quick fox", 4)).text.encode()


def test_several_sequences_over_http(tiny_server: TritonServer) -> None:
    body = {"text_input": "quick fox", "max_tokens": 5, "num_return_sequences": 3, "top_k": 50, "stream": True}
    events = server_sent_events(tiny_server, "ensemble", body)
    assert [event["sequence_index"] for event in events if "finish_reason" in event] in permutations_of_three()
    refused = post(tiny_server, "ensemble/generate", {**body, "stream": False})
    assert "generate expects model to produce exactly 1 response" in refused.json()["error"]  # Triton's own limit
    wait_until_idle(tiny_server)


def permutations_of_three() -> list[list[int]]:
    return [list(order) for order in permutations(range(3))]


def test_bad_words_never_appear(tiny_server: TritonServer) -> None:
    tokenizer = Tokenizer.load(tiny_server.options.engine_dir or "")
    plain = stream(tiny_server, "ensemble", text_request("seven wizards", 40))
    words = sorted({word for word in plain.text.split() if word.isalpha()})[:3]
    assert words, "the random model writes some letters"
    bad = {"bad_words": row([word.encode() for word in words], np.object_)}
    changed = stream(tiny_server, "ensemble", text_request("seven wizards", 40) | bad)
    assert changed.error is None, changed.error
    assert changed.text != plain.text
    greedy = tokens(tiny_server, 6)
    table = row([[greedy[1], greedy[2]], [2, -1]], np.int32)
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 30) | {"bad_words_list": table})
    pairs = list(zip(answer.ids, answer.ids[1:], strict=False))
    assert (greedy[1], greedy[2]) not in pairs
    assert answer.text == tokenizer.decode(answer.ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"runtime_top_k": np.int32(5000)}, "top_k (runtime_top_k) is 5000; it must lie between 0 (unset) and 1024"),
        ({"runtime_top_p": np.float32(1.5)}, "top_p (runtime_top_p) is 1.5; it must be above 0 and at most 1"),
        ({"temperature": np.float32(-1)}, "temperature is -1.0; it must be a number from 0 up"),
        ({"temperature": np.float32(np.nan)}, "temperature is nan"),
        ({"repetition_penalty": np.float32(0)}, "repetition_penalty is 0.0; it must lie between"),
        ({"min_tokens": np.int32(-4)}, "min_tokens is -4"),
        ({"num_return_sequences": np.int32(0)}, "num_return_sequences is 0; it lies between 1 and 64"),
        ({"num_return_sequences": np.int32(1000)}, "num_return_sequences is 1000"),
        ({"beam_width": np.int32(4)}, "beam_width = 4 is not available on the CPU engine, which has no beam search"),
        ({"lora_task_id": np.uint64(4)}, "lora_task_id = 4 is not available"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_values_out_of_range(tiny_server: TritonServer, extra: dict[str, Any], message: str) -> None:
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 4, **extra))
    assert answer.responses == []
    assert answer.error is not None
    assert message in answer.error


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embedding_bias": np.ones((1, 7), np.float32)}, "embedding_bias has 7 values; this model's vocabulary has"),
        ({"bad_words_list": np.array([[[5, 6], [2, 1]]], np.int32)}, "bad_words_list has a word that starts at 2"),
        ({"stop_words_list": np.array([[[5, 999], [2, -1]]], np.int32)}, "stop_words_list has token id 999"),
        (
            {"seed": np.array([[1]], np.uint64), "random_seed": np.array([[2]], np.uint64)},
            "seed is 1 and random_seed, its older name, is 2",
        ),
        (
            {"retention_token_range_starts": np.array([[0]], np.int32)},
            "retention_token_range_ends has 0 values",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_tensors_of_a_wrong_form(tiny_server: TritonServer, arrays: dict[str, Any], message: str) -> None:
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 4) | arrays)
    assert answer.error is not None
    assert message in answer.error


def test_errors_over_http_are_400(tiny_server: TritonServer) -> None:
    body = {"text_input": "hi", "max_tokens": 5, "top_p": 2.0}
    response = post(tiny_server, "ensemble/generate", body)
    assert response.status_code == 400
    assert "top_p (runtime_top_p) is 2.0" in response.json()["error"]


def test_nothing_is_left_in_use(tiny_server: TritonServer) -> None:
    wait_until_idle(tiny_server)
