"""Whole and streamed, with drafts and without: what the engine writes is what the client gets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton

from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.over_tensorrt_llm.doors import (
    DOORS,
    DRAFT,
    DRAFTER_OF,
    ENGINE_OF,
    NGRAM,
    PLAIN,
    PROMPTS,
    SCRIPTS,
    ask,
    ask_until_drafted,
)
from tests.integration.triton_api import (
    Answer,
    infer_inputs,
    metric,
    post,
    server_sent_events,
    settle,
    stream,
    text_request,
    wait_for_metric,
)

pytestmark = pytest.mark.server


def tokens_of(tokenizer: Tokenizer, name: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(SCRIPTS[name], add_special_tokens=False)]


def joined(answer: Answer, name: str) -> npt.NDArray[Any]:
    return np.concatenate([response[name].reshape(-1) for response in answer.responses if name in response])


def words(*values: str) -> npt.NDArray[np.object_]:
    return np.array([[value.encode() for value in values]], np.object_)


@pytest.mark.parametrize("model", DOORS)
@pytest.mark.parametrize("name", ["tale", "copy"])
def test_streamed_and_whole_it_is_the_text_that_the_engine_writes(server: TritonServer, model: str, name: str) -> None:
    whole = ask(server, model, name)
    assert [response["text_output"].item().decode() for response in whole.responses] == [SCRIPTS[name]]
    pieces = ask(server, model, name, stream=True)
    assert len(pieces.responses) > 3
    assert pieces.text == SCRIPTS[name]


@pytest.mark.parametrize("model", DOORS)
@pytest.mark.parametrize("max_tokens", [1, 16, 17, 40])
def test_max_tokens_is_the_limit_wherever_rounds_stand(
    server: TritonServer, tokenizer: Tokenizer, model: str, max_tokens: int
) -> None:
    expected = tokenizer.decode(tokens_of(tokenizer, "tale")[:max_tokens], skip_special_tokens=True)
    answer = ask(server, model, "tale", max_tokens, stream=True, return_num_output_tokens=True)
    assert answer.text == expected
    assert joined(answer, "num_output_tokens").sum() == max_tokens


@pytest.mark.parametrize("model", DOORS)
@pytest.mark.parametrize("streams", [True, False])
def test_stop_words_are_found_across_tokens_and_rounds(server: TritonServer, model: str, streams: bool) -> None:
    request = text_request(PROMPTS["tale"], 400, stream=streams) | {
        "stop_words": words("never", "my vow", "zards. The q")
    }
    answer = stream(server, model, request)
    assert answer.text == SCRIPTS["tale"].partition("zards. The q")[0]
    wait_for_metric(server, 0, "stand_in_running", model=ENGINE_OF[model])


@pytest.mark.parametrize("model", DOORS)
def test_an_end_id_of_the_clients_ends_the_text_before_it(
    server: TritonServer, tokenizer: Tokenizer, model: str
) -> None:
    ids = tokens_of(tokenizer, "copy")
    place = next(place for place, token in enumerate(ids) if place > 25 and token not in ids[:place])
    answer = ask(server, model, "copy", end_id=np.int32(ids[place]), stream=True)
    assert answer.text == tokenizer.decode(ids[:place], skip_special_tokens=True)


@pytest.mark.parametrize("model", DOORS)
def test_without_an_end_id_and_with_min_tokens_it_goes_on(
    server: TritonServer, tokenizer: Tokenizer, model: str
) -> None:
    ids = tokens_of(tokenizer, "copy")
    onward = ask(server, model, "copy", len(ids) + 20, end_id=np.int32(-1))
    assert onward.text == SCRIPTS["copy"] + tokenizer.decode(ids[:19], skip_special_tokens=True)
    longer = ask(server, model, "copy", len(ids) + 9, min_tokens=np.int32(len(ids) + 5), return_num_output_tokens=True)
    assert longer.text.startswith(SCRIPTS["copy"])
    assert joined(longer, "num_output_tokens").sum() == len(ids) + 9


@pytest.mark.parametrize("model", DOORS)
def test_rows_and_sequences_are_told_apart(server: TritonServer, model: str) -> None:
    names = ["copy", "tale", "copy"]
    request = {
        "text_input": np.array([[PROMPTS[name].encode()] for name in names], np.object_),
        "max_tokens": np.array([[400], [30], [7]], np.int32),
        "stream": np.array([[True]] * 3),
        "num_return_sequences": np.array([[2]] * 3, np.int32),
    }
    answer = stream(server, model, request)
    texts: dict[tuple[int, int], str] = {}
    for response in answer.responses:
        key = (response["batch_index"].item(), response["sequence_index"].item())
        texts[key] = texts.get(key, "") + response["text_output"].item().decode()
    alone = [ask(server, PLAIN, name, most).text for name, most in zip(names, (400, 30, 7), strict=True)]
    assert texts == {(row, index): alone[row] for row in range(3) for index in range(2)}


@pytest.mark.parametrize("model", DOORS)
def test_log_probabilities_of_all_rounds_are_joined(server: TritonServer, tokenizer: Tokenizer, model: str) -> None:
    expected = -(np.array(tokens_of(tokenizer, "copy"), np.float32) % 7) / 8
    for streams in (True, False):
        answer = ask(server, model, "copy", stream=streams, return_log_probs=True)
        np.testing.assert_allclose(joined(answer, "output_log_probs"), expected)
        assert joined(answer, "cum_log_probs")[-1] == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize("model", DOORS)
def test_logits_of_all_rounds_are_joined(server: TritonServer, tokenizer: Tokenizer, model: str) -> None:
    answer = ask(server, model, "copy", return_generation_logits=True)
    logits = np.concatenate([response["generation_logits"] for response in answer.responses], axis=2)
    assert logits.shape[:2] == (1, 1)
    assert logits[0, 0].argmax(-1).tolist() == tokens_of(tokenizer, "copy")


@pytest.mark.parametrize("model", [NGRAM, DRAFT])
def test_performance_metrics_count_drafts(server: TritonServer, tokenizer: Tokenizer, model: str) -> None:
    (response,) = ask_until_drafted(server, model, "copy").responses
    drafted, accepted = response["total_draft_tokens"].item(), response["total_accepted_draft_tokens"].item()
    assert 0 < accepted <= drafted
    assert response["acceptance_rate"].item() == pytest.approx(accepted / drafted)
    times = [response[f"{name}_time_ns"].item() for name in ("arrival", "first_scheduled", "first_token", "last_token")]
    assert 0 < times[0] <= times[1] <= times[2] <= times[3]
    reused = response["kv_cache_reused_blocks"].item()
    prompt = tokenizer.encode(PROMPTS["copy"], add_special_tokens=False)
    assert reused == len(prompt) // 32  # the stand-in's figure for the prompt, and not those of later calls
    assert response["kv_cache_alloc_total_blocks"].item() == reused + response["kv_cache_alloc_new_blocks"].item()


def test_drafts_can_be_limited_and_left_out_by_a_request(server: TritonServer) -> None:
    def drafted(most: int) -> int:
        answer = ask(server, DRAFT, "copy", num_draft_tokens=np.int32(most), return_perf_metrics=True)
        assert answer.text == SCRIPTS["copy"]
        return int(answer.responses[0]["total_draft_tokens"].item())

    assert drafted(0) == 0
    assert any(drafted(1) for _ in range(20)), "a busy machine may have no use for one draft token, but not for long"


@pytest.mark.parametrize("model", [NGRAM, DRAFT])
def test_metrics_tell_what_became_of_drafts(server: TritonServer, model: str) -> None:
    def count(kind: str) -> float:
        return metric(server, f"slipstream_{kind}_tokens_total", model=model, drafter=DRAFTER_OF[model])

    ask_until_drafted(server, model, "copy")
    settle(server)
    before = count("draft"), count("accepted_draft")
    (response,) = ask(server, model, "copy", return_perf_metrics=True).responses
    drafted, accepted = response["total_draft_tokens"].item(), response["total_accepted_draft_tokens"].item()
    wait_for_metric(
        server, before[0] + drafted, "slipstream_draft_tokens_total", model=model, drafter=DRAFTER_OF[model]
    )
    assert count("accepted_draft") == before[1] + accepted
    shown = {
        kind: metric(server, "slipstream_drafting_metrics", model=model, drafting_metric=kind)
        for kind in ("acceptance_rate", "draft_length", "speedup")
    }
    assert 0 < shown["acceptance_rate"] <= 1
    assert 1 <= shown["draft_length"] <= 6
    assert shown["speedup"] > 0


DRAWING: dict[str, Any] = {"top_p": np.float32(0.9), "temperature": np.float32(1.0)}


def test_draft_logits_change_nothing_for_greedy_requests(server: TritonServer) -> None:
    answer = ask_until_drafted(server, DRAFT, "copy", use_draft_logits=True)
    assert answer.text == SCRIPTS["copy"]


@pytest.mark.parametrize("extra", [{}, {"use_draft_logits": True}])
def test_draws_are_the_targets_with_drafts_too(
    server: TritonServer, tokenizer: Tokenizer, extra: dict[str, Any]
) -> None:
    """Three of four tokens are the script's; the draft's errors are none that the target could make."""
    asked = 200
    request = {"end_id": np.int32(-1), "return_log_probs": True, "seed": np.uint64(3), **DRAWING}
    answer = ask_until_drafted(server, DRAFT, "long", asked, stream=True, **request, **extra)
    expected = np.array(tokens_of(tokenizer, "long")[:asked], np.float32)
    seen = joined(answer, "output_log_probs")
    as_written, other = -(expected % 7) / 8, -((expected + 1) % 7) / 8
    assert seen.size == asked
    assert np.all(np.isclose(seen, as_written) | np.isclose(seen, other))
    assert 0.6 < np.isclose(seen, as_written).mean() < 0.9  # 0.75, give or take five standard deviations


def test_seeds_repeat_an_answer_and_their_absence_does_not(server: TritonServer) -> None:
    def text(**seed: Any) -> str:
        return ask(server, PLAIN, "copy", 60, **DRAWING, **seed).text

    assert text(seed=np.uint64(7)) == text(seed=np.uint64(7)) != text(seed=np.uint64(8))
    assert text() != text()


def test_a_seed_is_the_engines_own_and_gives_each_sequence_another(server: TritonServer) -> None:
    request = text_request(PROMPTS["copy"], 60, seed=np.uint64(7), **DRAWING)
    request["num_return_sequences"] = np.array([[2]], np.int32)
    texts = {
        r["sequence_index"].item(): r["text_output"].item().decode() for r in stream(server, PLAIN, request).responses
    }
    assert texts == {
        index: ask(server, PLAIN, "copy", 60, seed=np.uint64(7 + index), **DRAWING).text for index in range(2)
    }
    assert texts[0] != texts[1]


def test_accumulating_each_response_repeats_the_text_so_far(server: TritonServer) -> None:
    answer = ask(server, "bls_accumulating", "tale", stream=True)
    texts = [response["text_output"].item().decode() for response in answer.responses]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == SCRIPTS["tale"]


@pytest.mark.parametrize(("model", "default"), [(DRAFT, True), ("bls_accumulating", False)])
def test_the_prompt_is_shown_when_it_is_not_excluded(server: TritonServer, model: str, default: bool) -> None:
    prompt = PROMPTS["copy"].removesuffix("<|im_start|>")
    for said, excluded in ((None, default), (True, True), (False, False)):
        extra = {} if said is None else {"exclude_input_in_output": said}
        expected = "" if excluded else prompt
        assert ask(server, model, "copy", **extra).text == expected + SCRIPTS["copy"]


def test_unary_it_drafts_as_well_and_refuses_what_takes_more_than_one_response(server: TritonServer) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        request = text_request(PROMPTS["tale"], 400, return_perf_metrics=True)
        results = [client.infer("bls_unary", infer_inputs(request)) for _ in range(3)]
    assert {result.as_numpy("text_output").item().decode() for result in results} == {SCRIPTS["tale"]}
    ask_until_drafted(server, "bls_unary", "tale")
    two_rows = {
        "text_input": np.array([[b"copy"], [b"copy"]], np.object_),
        "max_tokens": np.array([[3], [3]], np.int32),
    }
    several = text_request(PROMPTS["copy"], 3, num_return_sequences=np.int32(2))
    for refused in (two_rows, several, text_request(PROMPTS["copy"], 3, stream=True)):
        error = stream(server, "bls_unary", refused).error
        assert error is not None
        assert "a model that is not decoupled answers with one response" in error


def test_over_http_too(server: TritonServer) -> None:
    body = {"text_input": PROMPTS["tale"], "max_tokens": 400}
    assert post(server, f"{DRAFT}/generate", body).json()["text_output"] == SCRIPTS["tale"]
    events = server_sent_events(server, DRAFT, {**body, "stream": True})
    assert "".join(event["text_output"] for event in events) == SCRIPTS["tale"]


@pytest.mark.parametrize(
    ("model", "extra", "reason"),
    [
        (PLAIN, {"num_draft_tokens": np.int32(3)}, "this server drafts nothing"),
        (DRAFT, {"num_draft_tokens": np.int32(7)}, "between 0 and 6 (max_draft_len)"),
        (DRAFT, {"num_draft_tokens": np.int32(-1)}, "num_draft_tokens is -1"),
        (NGRAM, {"use_draft_logits": True}, "use_draft_logits needs a draft model"),
        (DRAFT, {"beam_width": np.int32(2)}, "ask `ensemble`"),
        (DRAFT, {"num_return_sequences": np.int32(0)}, "ask for at least 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    server: TritonServer, model: str, extra: dict[str, Any], reason: str
) -> None:
    answer = ask(server, model, "copy", **extra)
    assert answer.responses == []
    assert answer.error is not None
    assert reason in answer.error


def test_a_target_built_without_max_draft_len_says_so(server: TritonServer) -> None:
    answer = ask(server, "bls_undrafted", "tale")
    assert answer.error is not None
    assert "is larger than maximum number of draft tokens (0)" in answer.error


def test_a_draft_engine_that_is_not_there_is_named(server: TritonServer) -> None:
    answer = ask(server, "bls_without_draft", "tale")
    assert answer.error is not None
    assert "nowhere" in answer.error
    assert "internal error" not in answer.error
    assert ask(server, "bls_without_draft", "tale", num_draft_tokens=np.int32(0)).text == SCRIPTS["tale"]
