"""A row of a request of the front door that the CPU engine answers by itself: its responses are the client's."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import triton_python_backend_utils as pb_utils

from python_backend.triton.front_reply import FrontReply
from python_backend.triton.front_request import Arrays
from python_backend.triton.interruption import Interrupted, Interruption
from python_backend.triton.other_model import Call, OtherModel
from python_backend.triton.tensors import check_shared_memory

_FINISH = "finish_reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOn:
    """One call of the engine, text included."""

    engine: OtherModel
    inputs: Arrays
    outputs: tuple[str, ...]
    request_id: str
    sequences: int
    batch_index: int | None
    interruption: Interruption
    deadline_s: float | None

    def run(self, reply: FrontReply) -> None:
        """Answer. Raises ModelError when the engine refuses."""
        open_sequences = self.sequences
        # Interrupted or not: an answer that was complete by then has ended, and must not end twice.
        with suppress(Interrupted), self.interruption.over(self._call) as call:
            for arrays in call.responses():
                open_sequences -= _FINISH in arrays
                reply.send(self._response(arrays), ends=not open_sequences)
        if open_sequences:
            reply.send(None, ends=True)

    def _call(self) -> Call:
        return self.engine.call(self.inputs, (*self.outputs, _FINISH), self.request_id, self._timeout_us())

    def _response(self, arrays: Arrays) -> object:
        if self.batch_index is not None:
            arrays["batch_index"] = np.array([[self.batch_index]], np.int32)
        check_shared_memory(arrays)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in self.outputs]
        )

    def _timeout_us(self) -> int | None:
        if self.deadline_s is None:
            return None
        return max(round((self.deadline_s - time.monotonic()) * 1e6), 1)
