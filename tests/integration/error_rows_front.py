"""What can be wrong with a request to `tensorrt_llm_bls` or to `postprocessing` that is not wrong elsewhere."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tests.integration.error_row import Row, tensor_of, text_tensors


def _bls_row(did: str, message: str, error: str = "InvalidRequest", **more: Any) -> Row:
    return Row(did=did, message=message, error=error, model="tensorrt_llm_bls", tensors=text_tensors(**more))


def _postprocessing_row(did: str, message: str, lengths: list[int]) -> Row:
    tensors = {"TOKENS_BATCH": np.array([[[5, 6, 7]]], np.int32), "SEQUENCE_LENGTH": tensor_of(lengths)}
    return Row(did=did, message=message, model="postprocessing", tensors=tensors, doors=("stream", "unary", "infer"))


BLS: Final = (
    _bls_row(
        "num_draft_tokens above max_draft_len",
        "num_draft_tokens is 1000; it lies between 0 and … (max_draft_len). Leave it out, or set `drafter` and "
        "`max_draft_len` in tensorrt_llm_bls/config.pbtxt.",
        num_draft_tokens=1000,
    ),
    _bls_row(
        "beams",
        "beam_width = 2 is not available on tensorrt_llm_bls. Over TensorRT-LLM, ask `ensemble`.",
        error="Unsupported",
        beam_width=2,
    ),
    _bls_row(
        "num_return_sequences below 1",
        "num_return_sequences is 0; ask for at least 1.",
        num_return_sequences=0,
    ),
    Row(
        did="images",
        message="image_url_input is not available: the models served here read text. Leave image_url_input out.",
        error="Unsupported",
        model="tensorrt_llm_bls",
        tensors=text_tensors(image_url_input="http://127.0.0.1/cat.png"),
    ),
    Row(
        did="several prompts, num_return_sequences above 1 or stream in the profile `cpu-unary`",
        message="num_return_sequences is 2; a model that is not decoupled answers with one response for one prompt. "
        "Leave it out, or serve the profile whose model_transaction_policy is decoupled.",
        error="Unsupported",
        model="tensorrt_llm_bls",
        tensors=text_tensors(num_return_sequences=2),
        doors=("unary", "infer"),
    ),
)

POSTPROCESSING: Final = (
    _postprocessing_row(
        "other lengths than beams",
        "TOKENS_BATCH has shape [1, 1, 3] and SEQUENCE_LENGTH [1, 2]; send one length for each beam.",
        [3, 3],
    ),
    _postprocessing_row(
        "a length above the tokens of the beam",
        "SEQUENCE_LENGTH holds 4; it lies between 0 and 3, the tokens of each beam.",
        [4],
    ),
)
