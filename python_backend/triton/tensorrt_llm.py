"""`tensorrt_llm` on the CPU engine: Triton's requests into the engine, its reports back to the clients."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.contract import TENSORRT_LLM
from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.manifest import CpuManifest
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.errors import InvalidRequest, SlipstreamError
from python_backend.metrics import FINISHED, INPUT_LENGTH, Recorder
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.tokenizer import Tokenizer
from python_backend.triton.failure import error_response
from python_backend.triton.generation_request import GenerationRequest, Limits, is_stop, parse
from python_backend.triton.logs import log_to_stderr
from python_backend.triton.metrics import MetricsPublisher
from python_backend.triton.request_parameters import refuse_unknown
from python_backend.triton.sender import FINAL, Reply, Sender
from python_backend.triton.settings import CpuEngineSettings
from python_backend.triton.stream import Stream
from python_backend.triton.tensors import read_inputs

log = logging.getLogger(__name__)


class TritonPythonModel:
    """Serves all requests on one engine; ``execute`` returns at once and the answers follow."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load engine and tokenizer. Raises SetupError, whose message Triton shows as the reason."""
        log_to_stderr()
        self._settings = settings = CpuEngineSettings.of(args)
        manifest = CpuManifest.load(settings.gpt_model_path)
        self._tokenizer = Tokenizer.load(settings.tokenizer_dir)
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))
        self._limits = Limits(
            vocab_size=manifest.vocab_size, max_seq_len=manifest.max_seq_len, streaming=self._decoupled
        )
        executor = OpenVinoExecutor(
            settings.gpt_model_path,
            max_kv_cache_tokens=settings.max_tokens_in_paged_kv_cache,
            mode=settings.execution_mode,
            num_threads=settings.num_threads,
        )
        self._recorder = Recorder()
        self._engine = Engine(executor, _scheduler_config(settings, manifest.max_seq_len), self._report)
        self._sender = Sender(
            self._recorder,
            self._engine.cancel,
            poll_period_s=settings.cancellation_check_period_ms / 1000,
            tokens_per_block=executor.tokens_per_block,
        )
        self._publisher = MetricsPublisher(args["model_name"], args["model_version"])
        self._stopped = threading.Event()
        self._statistics = threading.Thread(target=self._publish, name="statistics", daemon=True)
        self._engine.start()
        self._statistics.start()
        log.info(
            "engine ready: dir=%s mode=%s blocks=%d tokens_per_block=%d kv_cache_mib=%d policy=%s",
            settings.gpt_model_path, settings.execution_mode.value, executor.num_blocks, executor.tokens_per_block,
            executor.kv_cache_bytes >> 20, settings.batch_scheduler_policy.value,
        )  # fmt: skip

    def execute(self, requests: list[Any]) -> None:
        """Take the requests; each is answered through its response sender."""
        for request in requests:
            self._accept(request)

    def finalize(self) -> None:
        """Finish what was accepted, then stop."""
        self._engine.close()
        self._sender.close()
        self._stopped.set()
        self._statistics.join()

    def _accept(self, request: Any) -> None:
        try:
            refuse_unknown(request, TENSORRT_LLM)
            tensors = read_inputs(request)
            if is_stop(tensors):
                self._stop(request)
                return
            parsed = parse(tensors, self._limits, exclude_input_in_output=self._settings.exclude_input_in_output)
        except Exception as error:
            # One bad request never hurts another: it alone is answered with the error.
            self._recorder.count(FINISHED, "rejected")
            Reply(request, rows=1, decoupled=self._decoupled).send(
                error_response(error, request.request_id()), end_of_row=True
            )
            return
        reply = Reply(request, rows=len(parsed), decoupled=self._decoupled)
        outputs = frozenset(request.requested_output_names())
        for index, row in enumerate(parsed):
            self._submit(self._stream(row, outputs, index if len(parsed) > 1 else None, reply.request_id), reply)

    def _stream(
        self, request: GenerationRequest, outputs: frozenset[str], batch_index: int | None, request_id: str
    ) -> Stream:
        sequence = Sequence(
            id=request_id,
            prompt=request.prompt,
            max_new_tokens=request.max_tokens,
            end_id=request.end_id,
            priority=request.priority,
        )
        wants_text = "text_output" in outputs
        detokenizer = Detokenizer(self._tokenizer, self._settings.skip_special_tokens) if wants_text else None
        return Stream(
            request=request,
            sequence=sequence,
            outputs=outputs,
            detokenizer=detokenizer,
            batch_index=batch_index,
        )

    def _submit(self, stream: Stream, reply: Reply) -> None:
        self._sender.open(stream, reply)
        try:
            self._engine.submit(stream.sequence)
        except SlipstreamError as error:
            self._sender.refuse(stream, error)
        else:
            self._recorder.observe(INPUT_LENGTH, stream.sequence.prompt_tokens)

    def _stop(self, request: Any) -> None:
        """`stop`: cancel the running request of the same id; both get an empty final response."""
        if not request.request_id():
            raise InvalidRequest("Trying to stop a request but request ID is not provided")
        for sequence in self._sender.with_id(request.request_id()):
            if self._engine.cancel(sequence):
                self._sender.end(sequence, FinishReason.CANCELLED)
        request.get_response_sender().send(pb_utils.InferenceResponse([]), flags=FINAL)

    def _report(self, report: StepReport) -> None:
        self._sender.report(report)

    def _publish(self) -> None:
        running = True
        while running:
            running = not self._stopped.wait(self._settings.stats_check_period_ms / 1000)
            self._publisher.publish(self._engine.statistics, self._recorder.take())


def _scheduler_config(settings: CpuEngineSettings, max_seq_len: int) -> SchedulerConfig:
    return SchedulerConfig(
        max_batch_size=settings.max_running_sequences,
        max_num_tokens=settings.max_num_tokens,
        max_seq_len=max_seq_len,
        capacity_policy=settings.batch_scheduler_policy,
        enable_chunked_context=settings.enable_chunked_context,
        enable_kv_cache_reuse=settings.enable_kv_cache_reuse,
        max_queue_size=settings.max_queue_size,
    )
