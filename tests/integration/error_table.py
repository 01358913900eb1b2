"""Everything that can be wrong with a request: the rows that docs/errors.md shows and test_errors.py sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tests.integration.error_row import Row, id_tensors, text_tensors
from tests.integration.error_rows_answer import DRAFTS, GUIDES, RETENTION, SAMPLING, WORDS
from tests.integration.error_rows_form import CHAT, FORM, PROMPT
from tests.integration.error_rows_front import BLS, POSTPROCESSING


def _unavailable(name: str, value: Any, feature: str, article: str = "", *, over_json: bool = True) -> Row:
    shown = f" = {value}" if np.ndim(value) == 0 else ""
    return Row(
        did=f"asks for {article}{feature}",
        message=f"{name}{shown} is not available on the CPU engine, which has no {feature}. "
        f"Leave {name} out, or serve a TensorRT-LLM engine.",
        error="Unsupported",
        model="tensorrt_llm",
        tensors=id_tensors(**{name: value}),
        doors=("stream", "generate", "unary", "infer") if over_json else ("stream", "unary"),
    )


_HALF: Final = np.zeros((1, 2, 64), np.float16)

_UNAVAILABLE: Final = (
    _unavailable("beam_width", 2, "beam search"),
    _unavailable("lora_task_id", np.uint64(4), "LoRA adapters"),
    _unavailable("prompt_embedding_table", _HALF, "virtual tokens", over_json=False),
    _unavailable("encoder_input_features", _HALF, "encoder", "an ", over_json=False),
    _unavailable("mrope_position_deltas", np.int64(1), "images"),
    _unavailable("context_phase_params", np.zeros((1, 4), np.uint8), "disaggregated serving"),
    _unavailable("lookahead_window_size", 2, "lookahead decoding"),
)

_LOAD: Final = (
    Row(
        did="comes when max_queue_size requests wait",
        message="2 requests are waiting; max_queue_size is 2. Try again later, add instances, or raise max_queue_size.",
        error="Overloaded",
        model="tensorrt_llm",
        tensors=id_tensors(),
        server="narrow",
        busy=("a", "b", "c"),
    ),
    Row(
        did="comes when max_queue_size_per_tenant requests of its tenant wait",
        message='1 requests of tenant "b" are waiting; max_queue_size_per_tenant is 1. Try again later, or raise '
        "max_queue_size_per_tenant.",
        error="Overloaded",
        model="tensorrt_llm",
        tensors=id_tensors(tenant="b"),
        server="narrow",
        busy=("a", "b"),
    ),
    Row(
        did="sets a timeout that passes before the first token",
        message="timeout 1 ms passed while the request waited to be scheduled. Allow more time, ask for less, or try "
        "again when the load is lower.",
        error="Overloaded",
        model="tensorrt_llm",
        tensors=id_tensors(),
        timeout_us=1000,
        server="narrow",
        busy=("a",),
    ),
    Row(
        did="sets a timeout that is no number of microseconds",
        message="timeout is -1; it is a whole number of microseconds, 0 for none.",
        tensors=text_tensors(),
        parameters={"timeout": -1},
        doors=("generate",),
    ),
    Row(
        did="is stopped by a `stop` with its id, in the profile `cpu-unary`",
        message="the request was cancelled",
        error="Cancelled",
        model="tensorrt_llm",
        tensors=id_tensors(request_output_len=50_000),
        server="narrow",
        stopped=True,
        doors=("unary", "infer"),
        todo="Nothing: that was asked for. A decoupled model ends the stream without an error.",
    ),
    Row(
        did="sends `stop` without a request id",
        message="Trying to stop a request but request ID is not provided",
        model="tensorrt_llm",
        tensors=id_tensors(stop=True),
        todo="Send the id of the request that is to end. An id that nobody has is no error.",
    ),
    Row(
        did="was computed together with one whose logits are not numbers, or another failure of the engine",
        message="the engine failed while it served this request",
        error="EngineFault",
        model="tensorrt_llm",
        tensors=id_tensors(runtime_top_k=10),
        server="odd",
        todo="Look into the server's log.",
    ),
)

SECTIONS: Final[Mapping[str, tuple[Row, ...]]] = {
    "The form of a request": FORM,
    "Prompt and length": PROMPT,
    "Conversations": CHAT,
    "Sampling and answers": SAMPLING,
    "Words and biases": WORDS,
    "Guided decoding": GUIDES,
    "KV retention": RETENTION,
    "Draft tokens": DRAFTS,
    "Only at `tensorrt_llm_bls`": BLS,
    "Only at `postprocessing`": POSTPROCESSING,
    "What the CPU engine does not have": _UNAVAILABLE,
    "Load, time and failures": _LOAD,
}
ROWS: Final = tuple(row for rows in SECTIONS.values() for row in rows)
