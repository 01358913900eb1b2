"""Every input and every output of the contract, through the real server, in earnest; and none left out.

A request uses the tensor, and the answer shows what it did: next to the reference model or the tokenizer where there
is one, next to the engine's own door for the doors in front of it, over gRPC and over HTTP. What the CPU engine does
not offer is refused as documented. The last test counts what went over the wire, so run the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backend.contract import (
    ENSEMBLE,
    POSTPROCESSING,
    PREPROCESSING,
    TENSORRT_LLM,
    TENSORRT_LLM_BLS,
    DataType,
    Model,
)
from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration import conformance_outputs as outputs
from tests.integration import conformance_queue as crowd
from tests.integration import conformance_steps as steps
from tests.integration.attempt import Attempt, send
from tests.integration.conformance import FRONT_NAME_OF, Bench, Wire, own_words, typed
from tests.integration.conformance_engine import PERFORMANCE, SETTINGS, Setting
from tests.integration.conformance_front import OWN, assert_same
from tests.integration.conftest import edited_repository, serving
from tests.integration.triton_api import wait_until_idle
from tests.reference_model import ReferenceModel

pytestmark = pytest.mark.server

FRONTS = (ENSEMBLE, TENSORRT_LLM_BLS)
DOORS = (TENSORRT_LLM, *FRONTS)
#: What `tensorrt_llm_bls` says of beams before the engine can.
BEAMS = "beam_width = 2 is not available on tensorrt_llm_bls. Over TensorRT-LLM, ask `ensemble`."
PASSED_ON = [
    (front, setting)
    for front in FRONTS
    for setting in SETTINGS
    if FRONT_NAME_OF.get(setting.input, setting.input) in {tensor.name for tensor in front.inputs}
]
IN_JSON = [
    (model, setting)
    for model, setting in [*((TENSORRT_LLM, setting) for setting in SETTINGS), *PASSED_ON]
    if setting.in_json
]
SERVED = (*DOORS, PREPROCESSING, POSTPROCESSING)
#: Outputs that the contract has and the CPU engine has nothing for: it serves no context phase for others.
NEVER_THERE = {("tensorrt_llm", "context_phase_params")}


def named(value: Model | Setting) -> str:
    return value.name if isinstance(value, Model) else value.input


@pytest.fixture(scope="module")
def bench(
    tiny_server: TritonServer, tiny_engine: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    repository = edited_repository(tmp_path_factory.mktemp("crowded"), **crowd.SETTINGS)
    with serving(repository, tiny_engine) as crowded:
        yield Bench(
            wire=Wire(tiny_server),
            crowded=Wire(crowded),
            tokenizer=Tokenizer.load(tiny_engine),
            reference=ReferenceModel(tiny_checkpoint, quantize_lm_head=True),
        )


each_door = pytest.mark.parametrize("model", DOORS, ids=named)
each_front = pytest.mark.parametrize("model", FRONTS, ids=named)


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_an_input_of_the_engine_does_what_it_is_for(bench: Bench, setting: Setting) -> None:
    with bench.about(TENSORRT_LLM, inputs=[setting.input]):
        setting.effect(bench, bench.engine.ask(**setting.inputs(bench)))


@pytest.mark.parametrize(("model", "setting"), PASSED_ON, ids=named)
def test_a_front_door_passes_it_on(bench: Bench, model: Model, setting: Setting) -> None:
    door = bench.door(model)
    inputs = setting.inputs(bench)
    with bench.about(model, inputs=[FRONT_NAME_OF.get(setting.input, setting.input)]):
        front, engine = door.ask(**inputs), bench.engine.ask(**inputs)
    front.error = own_words(front.error, model.name)
    if front.error == BEAMS:
        engine.error = BEAMS
    if setting.input == "streaming":
        assert front.text == engine.text
        assert len(front.responses) > 1
    else:
        assert_same(front, engine)


@pytest.mark.parametrize(("model", "setting"), IN_JSON, ids=named)
def test_it_means_the_same_over_http(bench: Bench, model: Model, setting: Setting) -> None:
    door = bench.door(model)
    tensors = door.tensors(**setting.inputs(bench))
    answer = bench.wire.ask(model, tensors)
    many = len(answer.responses) > 1
    outcome = send(
        bench.wire.server, Attempt(model=model.name, tensors=tensors, door="generate_stream" if many else "generate")
    )
    if answer.error:
        assert (outcome.status, outcome.errors) == (400, [answer.error])
        return
    assert (outcome.status, outcome.errors) == (200, [])
    whole = merged(answer.responses)
    assert {name: value for name, value in merged(outcome.responses).items() if name in whole} == whole


def merged(responses: list[dict[str, Any]]) -> dict[str, Any]:
    """Each output's values over all responses, however they were cut, by sequence; without those that time decides."""
    found: dict[str, Any] = {}
    for response in sorted(responses, key=lambda response: np.asarray(response.get("sequence_index", 0)).item()):
        for name, value in response.items():
            if name not in PERFORMANCE and name not in ("sequence_length", "cum_log_probs"):
                values = np.asarray(value).reshape(-1).tolist()
                if isinstance(values[0], bytes):
                    values = [values[0].decode()]
                found[name] = found[name] + values if name in found else values
    return {name: "".join(values) if isinstance(values[0], str) else values for name, values in found.items()}


def test_prompt_and_length(bench: Bench) -> None:
    """Token ids, of which ``input_lengths`` count, and the most tokens that come of them."""
    with bench.about(TENSORRT_LLM, inputs=["input_ids", "input_lengths", "request_output_len"]):
        for ids in ([5, 80, 31, 7, 120, 44], [9]):
            padded: dict[str, Any] = {
                "input_ids": [*ids, 6, 6, 6],
                "input_lengths": len(ids),
                "request_output_len": 7,
                "end_id": -1,
            }
            answer = bench.engine.ask(**padded)
            assert answer.ids == bench.reference.greedy(ids, 7)
            assert answer.finish_reason == "length"


@pytest.mark.parametrize("model", [TENSORRT_LLM, PREPROCESSING], ids=named)
def test_a_missing_input_is_named_though_an_optional_one_is_in_its_place(bench: Bench, model: Model) -> None:
    (first, *_, last) = [tensor for tensor in model.inputs if tensor.required]
    optional = next(tensor for tensor in model.inputs if not tensor.required and tensor.dtype is last.dtype)
    tensors = {
        tensor.name: typed(model, tensor.name, "5" if tensor.dtype is DataType.STRING else 5)
        for tensor in (first, optional)
    }
    error = bench.wire.ask(model, tensors).error
    missing = f"{last.name} ({last.ensemble_name} of the ensemble)" if last.ensemble_name else last.name
    assert error == f"{model.name} needs {missing}, which the request does not hold."


@each_front
@pytest.mark.parametrize("name", OWN)
def test_an_input_of_a_front_door_does_what_it_is_for(bench: Bench, model: Model, name: str) -> None:
    if bench.door(model).has(name):
        with bench.about(model, inputs=[name]):
            OWN[name](bench, bench.door(model))


def test_stop(bench: Bench) -> None:
    with bench.about(TENSORRT_LLM, inputs=["stop"]):
        crowd.stop_ends_the_request_of_the_same_id(bench.engine)


@each_door
def test_priority(bench: Bench, model: Model) -> None:
    with bench.about(model, inputs=["priority"]):
        crowd.the_urgent_one_overtakes(bench.door(model, crowded=True))


@each_door
def test_tenant(bench: Bench, model: Model) -> None:
    with bench.about(model, inputs=["tenant"]):
        crowd.one_tenant_fills_its_own_queue_only(bench.door(model, crowded=True))


def test_retention(bench: Bench) -> None:
    names = [f"retention_token_range_{name}" for name in ("starts", "ends", "priorities", "durations_ms")]
    with bench.about(TENSORRT_LLM, inputs=names):
        crowd.blocks_are_kept_as_asked(bench.door(TENSORRT_LLM, crowded=True))
    with bench.about(TENSORRT_LLM, inputs=["retention_decode_priority", "retention_decode_duration_ms"]):
        crowd.generated_blocks_are_kept_as_asked(bench.door(TENSORRT_LLM, crowded=True))


@each_door
@pytest.mark.parametrize("streaming", [False, True])
def test_details(bench: Bench, model: Model, streaming: bool) -> None:
    with bench.about(model, outputs=["text_output", "finish_reason", *outputs.DETAILS, *outputs.COUNTS]):
        outputs.details_are_the_references(bench, bench.door(model), streaming=streaming)


@each_door
def test_performance(bench: Bench, model: Model) -> None:
    with bench.about(model, outputs=PERFORMANCE):
        outputs.times_are_in_order(bench.door(model))
        outputs.blocks_add_up(bench, bench.door(model), seed=len(model.name))
        outputs.draft_figures_add_up(bench.door(model))


@each_door
def test_rows_and_sequences(bench: Bench, model: Model) -> None:
    with bench.about(model, outputs=["batch_index", "sequence_index"]):
        outputs.rows_and_sequences_are_numbered(bench.door(model))


@each_door
def test_stop_word(bench: Bench, model: Model) -> None:
    with bench.about(model, outputs=["stop_word"]):
        outputs.stop_word_is_named(bench, bench.door(model))


def test_tokens(bench: Bench) -> None:
    with bench.about(TENSORRT_LLM, outputs=["output_ids", "sequence_length", "text_output"]):
        (response,) = bench.engine.ask().responses
        ids = response["output_ids"][0, 0].tolist()
        assert ids == bench.reference.greedy(bench.prompt, len(ids))
        assert response["sequence_length"].item() == len(ids)
        assert response["text_output"].item().decode() == bench.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "case", [steps.a_plain_text, steps.everything_at_once, steps.a_conversation, steps.rows_of_different_length]
)
def test_preprocessing(bench: Bench, case: Callable[[Bench], None]) -> None:
    with bench.about(PREPROCESSING, inputs=steps.INPUTS_OF[case], outputs=[t.name for t in PREPROCESSING.outputs]):
        case(bench)


def test_postprocessing(bench: Bench) -> None:
    with bench.about(POSTPROCESSING, inputs=["TOKENS_BATCH", "SEQUENCE_LENGTH"], outputs=["OUTPUT"]):
        steps.tokens_become_text(bench)
        steps.lengths_must_fit_the_tokens(bench)


def test_nothing_is_left_in_use(bench: Bench) -> None:
    for wire in (bench.wire, bench.crowded):
        wait_until_idle(wire.server)


def test_no_input_and_no_output_is_left_out(bench: Bench) -> None:
    inputs = {(model.name, tensor.name) for model in SERVED for tensor in model.inputs}
    outputs = {(model.name, tensor.name) for model in SERVED for tensor in model.outputs}
    assert inputs - bench.exercised_inputs == set()
    assert outputs - NEVER_THERE - bench.exercised_outputs == set()
    assert not NEVER_THERE & bench.exercised_outputs
