"""What runs in the peer's process: loads as JSON lines on stdin, their records as JSON lines on stdout.

python -m perf.genai_process ENGINE_DIR CHECKPOINT_DIR THREADS
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from perf.genai_model import genai_model
from perf.genai_peer import READY
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import mode_properties

# The same limits as model_repository/tensorrt_llm/configs/cpu.pbtxt; no prompt here begins like another, so that the
# prefix cache, which both have on, costs both and helps neither.
MAX_NUM_BATCHED_TOKENS = 512
MAX_NUM_SEQS = 64
CACHE_TOKENS = 16384
TOKENS_PER_BLOCK = 32


@dataclass(slots=True)
class Running:
    """A request in the pipeline, and the worker whose it is."""

    handle: Any
    worker: int
    sent_s: float
    input_tokens: int
    arrivals: list[tuple[float, int]] = field(default_factory=list)


def load_pipeline(model_dir: Path, threads: int) -> Any:
    """The pipeline with the scheduler limits above."""
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = MAX_NUM_BATCHED_TOKENS
    scheduler.max_num_seqs = MAX_NUM_SEQS
    scheduler.num_kv_blocks = CACHE_TOKENS // TOKENS_PER_BLOCK
    scheduler.enable_prefix_caching = True
    properties = {"INFERENCE_NUM_THREADS": threads, **mode_properties(ov.Core(), ExecutionMode.FAST)}
    return genai.ContinuousBatchingPipeline(str(model_dir), scheduler, "CPU", properties)


def greedy(max_tokens: int) -> Any:
    """Exactly ``max_tokens`` tokens, the most likely one each time."""
    config = genai.GenerationConfig()
    config.do_sample = False
    config.set_eos_token_id(0)  # any: the pipeline wants one, and is told to ignore it
    config.ignore_eos = True
    config.max_new_tokens = max_tokens
    return config


class ClosedLoop:
    """N workers in one thread: a worker's next request enters before the step that follows its last one's end."""

    def __init__(self, pipeline: Any, workers: list[list[list[int]]], max_tokens: int) -> None:
        self._pipeline = pipeline
        self._waiting = [deque(prompts) for prompts in workers]
        self._config = greedy(max_tokens)
        self._running: list[Running] = []
        self._ended: list[Running] = []

    def run(self) -> list[Running]:
        """All requests, when the last has ended."""
        for worker in range(len(self._waiting)):
            self._send_next(worker)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            self._collect(time.perf_counter())
        return self._ended

    def _send_next(self, worker: int) -> None:
        if not self._waiting[worker]:
            return
        prompt = self._waiting[worker].popleft()
        sent_s = time.perf_counter()
        request_id = len(self._running) + len(self._ended)
        handle = self._pipeline.add_request(request_id, ov.Tensor(np.array([prompt], np.int64)), self._config)
        self._running.append(Running(handle, worker, sent_s, len(prompt)))

    def _collect(self, now_s: float) -> None:
        for request in list(self._running):
            while request.handle.can_read():
                outputs = request.handle.read().values()
                request.arrivals.append((now_s, sum(len(output.generated_ids) for output in outputs)))
            if request.handle.get_status() != genai.GenerationStatus.RUNNING:
                self._running.remove(request)
                self._ended.append(request)
                self._send_next(request.worker)


def main(engine_dir: str, checkpoint_dir: str, threads: str) -> None:
    """Answers loads until stdin ends."""
    records_out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the records
    pipeline = load_pipeline(genai_model(Path(engine_dir), Path(checkpoint_dir)), int(threads))
    print(json.dumps(READY), file=records_out, flush=True)
    for line in sys.stdin:
        load = json.loads(line)
        ended = ClosedLoop(pipeline, load["workers"], load["max_tokens"]).run()
        records = [(request.sent_s, request.input_tokens, request.arrivals) for request in ended]
        print(json.dumps(records), file=records_out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
