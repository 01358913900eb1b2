"""`tensorrt_llm_bls`: the front door that sees its clients leave, and where drafts run ahead of the target.

What it calls blocks, so each part of a request has a thread while it is served. Over the CPU engine a row is one call,
whose responses are passed on as they are: that engine writes text and drafts by itself. Otherwise a sequence is a
conversation with the target in speculative rounds, and text is made here.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.contract import TENSORRT_LLM_BLS
from python_backend.errors import Cancelled
from python_backend.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, DRAFTING
from python_backend.triton.failure import error_response
from python_backend.triton.front_parts import FrontParts, Job, Part
from python_backend.triton.front_reply import FrontReply
from python_backend.triton.front_request import front_inputs
from python_backend.triton.interruption import Interrupted, Interruption, Watcher
from python_backend.triton.logs import log_to_stderr
from python_backend.triton.metrics import MetricsPublisher, drafting_gauges
from python_backend.triton.other_model import ModelError
from python_backend.triton.periodic import Periodic
from python_backend.triton.request_parameters import refuse_unknown, timeout_s
from python_backend.triton.settings import BlsSettings
from python_backend.triton.tensors import read_inputs

#: gRPC's name of a status code, where Triton's is another
_CODES = {"INVALID_ARGUMENT": "INVALID_ARG", "UNIMPLEMENTED": "UNSUPPORTED"}


class TritonPythonModel:
    """Serves many requests at once; ``execute`` returns at once and the answers follow."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer. Raises SetupError, whose message Triton shows as the reason."""
        log_to_stderr()
        settings = BlsSettings.of(args)
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))
        self._front = FrontParts(settings, decoupled=self._decoupled)
        self._engine_has_deadlines = settings.target_backend == "python" and settings.drafter.is_in_engine
        self._threads = ThreadPoolExecutor(settings.max_concurrent_requests, thread_name_prefix="request")
        self._watcher = Watcher(settings.cancellation_check_period_ms / 1000)
        self._statistics: Periodic | None = None
        if not settings.drafter.is_in_engine:
            metrics = (DRAFT_TOKENS, ACCEPTED_DRAFT_TOKENS, DRAFTING)
            self._publisher = MetricsPublisher(args["model_name"], args["model_version"], metrics)
            period_s = settings.stats_check_period_ms / 1000
            self._statistics = Periodic(self._publish, period_s=period_s, name="statistics")
            self._statistics.start()

    def _publish(self) -> None:
        self._publisher.publish(drafting_gauges(self._front.statistics), self._front.recorder.take())

    def execute(self, requests: list[Any]) -> None:
        """Take the requests; each is answered through its response sender."""
        for request in requests:
            self._accept(request)

    def finalize(self) -> None:
        """Finish what was accepted, then stop."""
        self._threads.shutdown()
        self._watcher.end()
        if self._statistics is not None:
            self._statistics.end()

    def _accept(self, request: Any) -> None:
        reply = FrontReply(request, decoupled=self._decoupled)
        now_s = time.monotonic()
        try:
            refuse_unknown(request, TENSORRT_LLM_BLS)
            job = Job(
                front=front_inputs(read_inputs(request)),
                outputs=tuple(request.requested_output_names()),
                reply=reply,
                arrival_s=now_s,
                timeout_s=timeout_s(request),
            )
        except Exception as error:
            _refuse(reply, error)  # One bad request never hurts another: it alone is answered with the error.
            return
        self._threads.submit(self._serve, job)

    def _serve(self, job: Job) -> None:
        interruption = Interruption(
            is_abandoned=job.reply.is_cancelled,
            deadline_s=None if self._engine_has_deadlines else job.deadline_s,
        )
        try:
            parts = list(self._front.of(job, interruption))
        except Exception as error:
            _refuse(job.reply, error)
            return
        job.reply.expect(len(parts))
        self._watcher.open(interruption)
        for part in parts[1:]:
            self._threads.submit(self._run, part, job.reply, interruption)
        self._run(parts[0], job.reply, interruption)

    def _run(self, part: Part, reply: FrontReply, interruption: Interruption) -> None:
        try:
            part.run(reply)
        except (Cancelled, Interrupted):
            reply.send(None, ends=True)
        except Exception as error:
            _refuse(reply, error)
        finally:
            if reply.is_complete:
                self._watcher.close(interruption)


def _refuse(reply: FrontReply, error: Exception) -> None:
    """End a part with the reason why it does not go on."""
    if isinstance(error, ModelError):
        code = getattr(pb_utils.TritonError, _CODES.get(error.code, error.code), pb_utils.TritonError.INTERNAL)
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
    else:
        response = error_response(error, reply.request_id)
    reply.send(response, ends=True)
