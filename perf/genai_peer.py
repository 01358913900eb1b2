"""The peer: openvino-genai's ContinuousBatchingPipeline over the same weights, in a process of its own.

It runs in process, without server, network or tokenizer: whatever serving costs Slipstream, the peer does not pay.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from perf.closed_loop import Load
from perf.record import Arrival, RequestRecord

READY = "ready"  # what the process says when the model is loaded


class PeerFailed(Exception):
    """The peer's process ended; its output on stderr says why."""


class GenAiPeer:
    """A pipeline in a process that takes loads."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls, engine_dir: Path, checkpoint_dir: Path, threads: int) -> Iterator[GenAiPeer]:
        """The peer with its model loaded; its process is gone after. PeerFailed when it does not load."""
        program = [sys.executable, "-m", "perf.genai_process"]
        command = [*program, str(engine_dir), str(checkpoint_dir), str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            peer = cls(process)
            if peer._read() != READY:
                raise PeerFailed("openvino-genai did not load; the messages above say why.")
            yield peer
        finally:
            process.kill()
            process.communicate()

    def run_load(self, load: Load) -> list[RequestRecord]:
        """Every request of the load, answered by the pipeline. PeerFailed when its process ends instead."""
        workers = [[prompt.token_ids for prompt in worker] for worker in load.workers]
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # The process has ended, as reading from it will tell.
            self._process.stdin.write(json.dumps({"workers": workers, "max_tokens": load.max_tokens}) + "\n")
            self._process.stdin.flush()
        return [
            RequestRecord(sent_s, input_tokens, tuple(Arrival(*arrival) for arrival in arrivals))
            for sent_s, input_tokens, arrivals in self._read()
        ]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(f"openvino-genai ended with exit code {self._process.wait()}; the messages above say why.")
        return json.loads(line)
