"""`postprocessing`: token ids to text, for the three-step ensemble.

While streaming, each call carries only the new tokens, so what a half character leaves behind is kept by request id,
which must therefore be unique. Triton tells a composing model neither who it serves nor when a stream ends: without a
request id each piece is decoded alone, and a stream that breaks off inside a character loses that character's bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from python_backend.errors import InvalidRequest
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.tokenizer import Tokenizer
from python_backend.triton.failure import error_response
from python_backend.triton.logs import log_to_stderr
from python_backend.triton.settings import PostprocessingSettings
from python_backend.triton.tensors import read_inputs


class TritonPythonModel:
    """Detokenizes whole answers and streams."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer. Raises SetupError, whose message Triton shows as the reason."""
        log_to_stderr()
        self._settings = PostprocessingSettings.of(args)
        self._tokenizer = Tokenizer.load(self._settings.tokenizer_dir)
        self._open: OrderedDict[tuple[str, int], Detokenizer] = OrderedDict()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request; a bad request fails alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            inputs = read_inputs(request)
            tokens, lengths = inputs["TOKENS_BATCH"], inputs["SEQUENCE_LENGTH"]
            _check_lengths(tokens, lengths)
            texts = [
                [
                    self._text(request.request_id(), beam, ids[:length])
                    for beam, (ids, length) in enumerate(zip(*row, strict=True))
                ]
                for row in zip(tokens, lengths, strict=True)
            ]
        except Exception as error:
            # Also what nobody foresaw must fail this request alone, and without a traceback to its client.
            return error_response(error, request.request_id())
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array(texts, dtype=np.object_))])

    def _text(self, request_id: str, beam: int, ids: Any) -> bytes:
        if not request_id:
            return self._tokenizer.decode(ids, self._settings.skip_special_tokens).encode()
        key = (request_id, beam)
        detokenizer = self._open.pop(key, None) or Detokenizer(self._tokenizer, self._settings.skip_special_tokens)
        text = detokenizer.push(ids)
        self._open[key] = detokenizer
        if len(self._open) > self._settings.max_open_streams:
            self._open.popitem(last=False)
        return text.encode()


def _check_lengths(tokens: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> None:
    """Raises InvalidRequest unless each beam has one length, and that many tokens."""
    if tokens.shape[:2] != lengths.shape:
        raise InvalidRequest(
            f"TOKENS_BATCH has shape {list(tokens.shape)} and SEQUENCE_LENGTH {list(lengths.shape)}; "
            "send one length for each beam."
        )
    wrong = lengths[(lengths < 0) | (lengths > tokens.shape[2])]
    if wrong.size:
        raise InvalidRequest(
            f"SEQUENCE_LENGTH holds {wrong[0]}; it lies between 0 and {tokens.shape[2]}, the tokens of each beam."
        )
