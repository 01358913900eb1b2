"""`tensorrt_llm` on the CPU engine: Triton's requests into the engine, its reports back to the clients."""

from __future__ import annotations

import json
import logging
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.contract import TENSORRT_LLM
from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.manifest import CpuManifest
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.engine.prewarm import prewarm
from python_backend.engine.sampling import SamplingParameters, SamplingState
from python_backend.errors import InvalidRequest, SlipstreamError
from python_backend.metrics import COUNTERS, FINISHED, GAUGES, HISTOGRAMS, INPUT_LENGTH, Recorder
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.stop_criteria import StopCriteria, StoppingDetokenizer
from python_backend.text.tokenizer import Tokenizer
from python_backend.triton.answer import Answer
from python_backend.triton.drafters import make_drafter
from python_backend.triton.failure import error_response
from python_backend.triton.generation_request import GenerationRequest, Limits, is_stop, parse
from python_backend.triton.guide_source import GuideSource
from python_backend.triton.logs import log_to_stderr
from python_backend.triton.metrics import MetricsPublisher, engine_gauges
from python_backend.triton.periodic import Periodic
from python_backend.triton.prewarm_prompts import prewarm_prompts
from python_backend.triton.request_parameters import refuse_unknown, timeout_s
from python_backend.triton.sender import FINAL, Reply, Sender
from python_backend.triton.settings import CpuEngineSettings
from python_backend.triton.stream import Stream
from python_backend.triton.tensors import check_required, read_inputs

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
            vocab_size=manifest.vocab_size,
            tokenizer_vocab_size=self._tokenizer.vocab_size,
            max_seq_len=manifest.max_seq_len,
            max_return_sequences=settings.max_running_sequences,
            max_draft_len=settings.max_draft_len,
            streaming=self._decoupled,
        )
        self._guides = GuideSource(settings.tokenizer_dir, manifest.vocab_size, self._tokenizer.end_id)
        executor = OpenVinoExecutor(
            settings.gpt_model_path,
            max_kv_cache_tokens=settings.max_tokens_in_paged_kv_cache,
            mode=settings.execution_mode,
            num_threads=settings.num_threads,
            num_graphs=settings.graphs,
        )
        self._recorder = Recorder()
        self._engine = Engine(
            executor,
            _scheduler_config(settings, manifest.max_seq_len),
            self._report,
            drafter=make_drafter(settings, executor, self._recorder),
        )
        self._sender = Sender(
            self._recorder,
            self._engine.cancel,
            poll_period_s=settings.cancellation_check_period_ms / 1000,
        )
        metrics = (*GAUGES, *COUNTERS, *HISTOGRAMS)
        self._publisher = MetricsPublisher(args["model_name"], args["model_version"], metrics)
        period_s = settings.stats_check_period_ms / 1000
        self._statistics = Periodic(self._publish, period_s=period_s, name="statistics")
        self._prewarm()
        self._engine.start()
        self._statistics.start()
        log.info(
            "engine ready: dir=%s mode=%s blocks=%d tokens_per_block=%d kv_cache_mib=%d policy=%s",
            settings.gpt_model_path, settings.execution_mode.value, executor.num_blocks, executor.tokens_per_block,
            executor.kv_cache_bytes >> 20, settings.batch_scheduler_policy.value,
        )  # fmt: skip

    def _prewarm(self) -> None:
        settings = self._settings
        if settings.prewarm_file is None:
            return
        template = ChatTemplate.load(settings.tokenizer_dir)
        prompts = prewarm_prompts(
            settings.prewarm_file, self._tokenizer, template, add_special_tokens=settings.add_special_tokens
        )
        report = prewarm(self._engine, prompts)
        log.info(
            "prewarmed: prompts=%d skipped=%d tokens=%d blocks=%d seconds=%.1f",
            report.prompts, report.skipped, report.tokens, report.blocks, report.seconds,
        )  # fmt: skip

    def execute(self, requests: list[Any]) -> None:
        """Take the requests; each is answered through its response sender."""
        for request in requests:
            self._accept(request)

    def finalize(self) -> None:
        """Finish what was accepted, then stop."""
        self._engine.close()
        self._sender.close()
        self._statistics.end()

    def _accept(self, request: Any) -> None:
        try:
            refuse_unknown(request, TENSORRT_LLM)
            tensors = read_inputs(request)
            if is_stop(tensors):
                self._stop(request)
                return
            check_required(tensors, TENSORRT_LLM)
            parsed = parse(tensors, self._limits, exclude_input_in_output=self._settings.exclude_input_in_output)
            streams = self._streams(request, parsed)
        except Exception as error:
            # One bad request never hurts another: it alone is answered with the error.
            self._recorder.count(FINISHED, "rejected")
            Reply(request, sequences=1, decoupled=self._decoupled).send(
                error_response(error, request.request_id()), ends=True
            )
            return
        reply = Reply(request, sequences=len(streams), decoupled=self._decoupled)
        for stream in streams:
            self._submit(stream, reply)

    def _streams(self, request: Any, rows: list[GenerationRequest]) -> list[Stream]:
        """One for each sequence that the request asks for."""
        outputs = frozenset(request.requested_output_names())
        allowed_s = timeout_s(request)
        streams = []
        for batch_index, row in enumerate(rows):
            criteria = StopCriteria.of(self._tokenizer, row.stop_words, self._settings.skip_special_tokens)
            for index in range(row.num_return_sequences):
                sequence = self._sequence(row, index, request.request_id(), allowed_s)
                answer = Answer(
                    request=row,
                    sequence=sequence,
                    outputs=outputs,
                    detokenizer=self._detokenizer(criteria, outputs),
                    batch_index=batch_index if len(rows) > 1 else None,
                    sequence_index=index if row.num_return_sequences > 1 else None,
                )
                streams.append(Stream(sequence=sequence, answer=answer, is_watched=row.streaming or bool(criteria)))
        return streams

    def _sequence(self, row: GenerationRequest, index: int, request_id: str, allowed_s: float | None) -> Sequence:
        guide = None if row.guide is None else self._guides.start(row.guide, row.end_id)
        sampling = None
        if row.sampling is not None or guide is not None:
            said = (row.sampling or SamplingParameters()).derived(index)
            sampling = SamplingState(said, guide, row.draft_acceptance)
        return Sequence(
            id=request_id,
            prompt=row.prompt,
            max_new_tokens=row.max_tokens,
            end_id=row.end_id if guide is None else guide.end_id,
            priority=row.priority,
            tenant=row.tenant,
            retention=row.retention,
            timeout_s=allowed_s,
            sampling=sampling,
            draft=list(row.draft),
            ends_after_draft=bool(row.draft),
            max_draft_tokens=row.num_draft_tokens,
        )

    def _detokenizer(self, criteria: StopCriteria, outputs: frozenset[str]) -> Detokenizer | StoppingDetokenizer | None:
        skip = self._settings.skip_special_tokens
        if criteria:
            return StoppingDetokenizer(self._tokenizer, criteria, skip)
        return Detokenizer(self._tokenizer, skip) if "text_output" in outputs else None

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
        self._publisher.publish(engine_gauges(self._engine.statistics), self._recorder.take())


def _scheduler_config(settings: CpuEngineSettings, max_seq_len: int) -> SchedulerConfig:
    return SchedulerConfig(
        max_batch_size=settings.max_running_sequences,
        max_num_tokens=settings.max_num_tokens,
        max_seq_len=max_seq_len,
        capacity_policy=settings.batch_scheduler_policy,
        enable_chunked_context=settings.enable_chunked_context,
        enable_kv_cache_reuse=settings.enable_kv_cache_reuse,
        enable_partial_reuse=settings.enable_partial_reuse,
        max_queue_size=settings.max_queue_size,
        max_queue_size_per_tenant=settings.max_queue_size_per_tenant,
    )
