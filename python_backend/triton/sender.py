"""The thread that answers clients, so that the engine's loop never waits for one.

A send can take longer than the engine's next step, and its price is per response, not per token. So tokens that come
while the sender is busy join what already waits for the same stream: the queue holds each stream at most once, and is
bounded by the number of streams whatever the speed of the engine. The sender also asks, now and then, whether clients
are still there.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.engine.engine import StepReport
from python_backend.engine.sampling import TokenDetails
from python_backend.errors import Cancelled, EngineFault, SlipstreamError
from python_backend.metrics import FINISHED, ITL, OUTPUT_LENGTH, QUEUE_TIME, TOKENS, TTFT, Recorder
from python_backend.scheduling.deadline import timeout_error
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.scheduling.step_plan import Progress
from python_backend.triton.answer import Pending
from python_backend.triton.failure import error_response
from python_backend.triton.request_id import is_meant
from python_backend.triton.stream import Stream
from python_backend.triton.tensors import check_shared_memory

log = logging.getLogger(__name__)

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Reply:
    """The way back to the client of one Triton request, shared by its sequences; for one thread."""

    def __init__(self, request: Any, *, sequences: int, decoupled: bool) -> None:
        self.request_id: str = request.request_id()
        self._sender = request.get_response_sender()
        self._open_sequences = sequences
        self._decoupled = decoupled

    def is_cancelled(self) -> bool:
        """Whether the client has left. Asks the server: tens of microseconds."""
        return bool(self._sender.is_cancelled())

    def send(self, response: Any | None, *, ends: bool) -> None:
        """Send a response; None only says that a sequence ends, which only a decoupled client can be told."""
        self._open_sequences -= ends
        flags = FINAL if self._open_sequences == 0 else 0
        if response is None and not self._decoupled:
            response = error_response(Cancelled("the request was cancelled"), self.request_id)
        if response is not None:
            self._sender.send(response, flags=flags)
        elif flags:
            self._sender.send(flags=FINAL)


class Sender:
    """Sends what the engine reports. ``cancel`` frees a sequence whose client has left."""

    def __init__(self, recorder: Recorder, cancel: Callable[[Sequence], bool], *, poll_period_s: float) -> None:
        self._recorder = recorder
        self._cancel = cancel
        self._poll_period_s = poll_period_s
        self._changed = threading.Condition()  # guards all below and the pending tokens of streams
        self._streams: dict[Sequence, tuple[Stream, Reply]] = {}
        self._due: deque[Stream] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def open(self, stream: Stream, reply: Reply) -> None:
        """Expect reports about the stream's sequence."""
        with self._changed:
            self._streams[stream.sequence] = (stream, reply)
            self._changed.notify()  # from now on somebody may leave

    def refuse(self, stream: Stream, error: SlipstreamError) -> None:
        """Answer a stream that was opened with the reason why its sequence does not run."""
        with self._changed:
            stream.refusal = error
            stream.finish = FinishReason.ERROR
            self._queue(stream)
            self._changed.notify()

    def with_id(self, request_id: str) -> list[Sequence]:
        """Sequences of the open requests with this id, or of front doors' requests for a client's with it."""
        with self._changed:
            return [
                sequence for sequence, (_, reply) in self._streams.items() if is_meant(reply.request_id, request_id)
            ]

    def report(self, report: StepReport) -> None:
        """Take over the outcome of a step. Called by the engine's thread; returns at once."""
        with self._changed:
            for sequence, tokens, finish in report.progress:
                if sequence in self._streams:
                    stream = self._streams[sequence][0]
                    stream.fault = report.faults.get(sequence)
                    self._note(stream, tokens, report.details.get(sequence), finish, report.at_s)
            self._changed.notify()

    def end(self, sequence: Sequence, finish: FinishReason) -> None:
        """A sequence ended outside a step."""
        self.report(StepReport([Progress(sequence, [], finish)], time.monotonic()))

    def close(self) -> None:
        """Send what is due, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _note(
        self,
        stream: Stream,
        tokens: list[int],
        details: TokenDetails | None,
        finish: FinishReason | None,
        at_s: float,
    ) -> None:
        previous_s = stream.last_token_s
        is_first = stream.first_token_s is None
        stream.add(tokens, details, finish, at_s)
        if tokens:
            self._recorder.count(TOKENS, "generated", len(tokens))
            if is_first:
                sequence = stream.sequence
                self._recorder.observe(TTFT, at_s - sequence.arrival_s)
                self._recorder.observe(QUEUE_TIME, (sequence.first_scheduled_s or at_s) - sequence.arrival_s)
                self._recorder.count(TOKENS, "prompt", sequence.prompt_tokens)
                self._recorder.count(TOKENS, "reused", sequence.reused_tokens)
            else:
                # Tokens of one step (accepted drafts) share its duration.
                for _ in tokens:
                    self._recorder.observe(ITL, (at_s - previous_s) / len(tokens))
        self._queue(stream)

    def _queue(self, stream: Stream) -> None:
        if stream.is_due and not stream.queued:
            stream.queued = True
            self._due.append(stream)

    def _run(self) -> None:
        try:
            poll_at_s = 0.0
            while not (self._closing and not self._due):
                due = self._next()
                if due is not None:
                    self._send(*due)
                if time.monotonic() >= poll_at_s:
                    self._cancel_abandoned()
                    poll_at_s = time.monotonic() + self._poll_period_s
        except Exception:
            # Without this thread every client waits for ever. A dead process is noticed, and the launcher restarts it.
            log.critical("the sender died; ending the process", exc_info=True)
            os._exit(1)

    def _next(self) -> tuple[Stream, Reply, Pending] | None:
        """What to send next, or None after waiting for a while."""
        with self._changed:
            if not self._due and not self._closing:
                self._changed.wait(self._poll_period_s if self._streams else None)
            if not self._due:
                return None
            stream = self._due.popleft()
            stream.queued = False
            pending = stream.take()
            if stream.sequence not in self._streams:
                return None  # it ended before this came: with a stop word, or a failed send
            return stream, self._streams[stream.sequence][1], pending

    def _send(self, stream: Stream, reply: Reply, pending: Pending) -> None:
        answer = stream.answer
        try:
            answer.add(pending)
            if not answer.is_due:
                return
            finish, response = answer.finish, self._response(stream, reply)
        except Exception as error:
            # One answer that cannot be written never hurts another: it ends with the error.
            finish, response = FinishReason.ERROR, error_response(error, reply.request_id)
        if finish is not None:
            self._end(stream, finish)
        try:
            reply.send(response, ends=finish is not None)
        except Exception:
            # Whatever Triton makes of a client that vanished mid-send, the other streams go on.
            log.exception("send failed: request_id=%s", reply.request_id)
            self._end(stream, FinishReason.ERROR)

    def _end(self, stream: Stream, finish: FinishReason) -> None:
        """The answer is over, as its client is told; the engine may still work on it (a stop word, a failed send)."""
        self._cancel(stream.sequence)
        with self._changed:
            if self._streams.pop(stream.sequence, None) is None:
                return
        if stream.refusal is not None:
            self._recorder.count(FINISHED, "rejected")
        else:
            self._recorder.count(FINISHED, finish.value)
            self._recorder.observe(OUTPUT_LENGTH, len(stream.sequence.output))

    def _response(self, stream: Stream, reply: Reply) -> Any | None:
        finish = stream.answer.finish
        if finish is FinishReason.ERROR:
            error = stream.refusal or stream.fault or EngineFault("the engine failed while it served this request")
            return error_response(error, reply.request_id)
        if finish is FinishReason.TIMED_OUT and not stream.sequence.output:
            return error_response(timeout_error(stream.sequence), reply.request_id)
        if finish is FinishReason.CANCELLED:
            return None
        arrays = stream.answer.arrays()
        check_shared_memory(arrays)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])

    def _cancel_abandoned(self) -> None:
        with self._changed:
            replies = {id(reply): reply for _, reply in self._streams.values()}
        gone = {key for key, reply in replies.items() if reply.is_cancelled()}
        with self._changed:
            abandoned = [sequence for sequence, (_, reply) in self._streams.items() if id(reply) in gone]
        for sequence in abandoned:
            if self._cancel(sequence):
                self.end(sequence, FinishReason.CANCELLED)
