"""Our errors as Triton's: a code and a sentence for the client, the traceback for the log."""

from __future__ import annotations

import logging
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.errors import Cancelled, InvalidRequest, Overloaded, SlipstreamError, Unsupported

log = logging.getLogger(__name__)

# Names of pb_utils.TritonError's codes: Triton fills that module in after it has imported ours.
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (Unsupported, "UNSUPPORTED"),
    (InvalidRequest, "INVALID_ARG"),
    (Overloaded, "UNAVAILABLE"),
    (Cancelled, "CANCELLED"),
)


def error_response(error: Exception, request_id: str) -> Any:
    """The response for a failed request. An error that is not ours is logged in full and told as "internal error"."""
    if not isinstance(error, SlipstreamError):
        log.error("request failed: request_id=%s", request_id, exc_info=error)
        error = SlipstreamError("internal error; the server's log has the details")
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), getattr(pb_utils.TritonError, code)))
