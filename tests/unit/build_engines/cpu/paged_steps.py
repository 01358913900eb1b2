"""The plainest way to run an engine: sequences, their blocks, one step after the other, nothing shared or clever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import mode_properties
from python_backend.engine.openvino_model import read_model


@dataclass
class PagedSequence:
    """Tokens so far; the first ``cached`` of them are in ``blocks``."""

    tokens: list[int]
    blocks: list[int]
    cached: int = 0
    output: list[int] = field(default_factory=list)


class PagedSteps:
    """An engine in exact float32, with ``num_blocks`` blocks that hold garbage at first."""

    def __init__(self, engine_dir: Path, *, num_blocks: int = 64, outputs: Sequence[str] = ("token_ids",)) -> None:
        core = ov.Core()
        properties = {"INFERENCE_NUM_THREADS": 1, **mode_properties(core, ExecutionMode.EXACT)}
        self.compiled = core.compile_model(read_model(core, engine_dir, outputs=outputs), "CPU", properties)
        self._request = self.compiled.create_infer_request()
        self.num_blocks = num_blocks
        for port in self.compiled.inputs:
            if "_cache." in port.get_any_name():
                shape = [num_blocks, *(port.partial_shape[axis].get_length() for axis in (1, 2, 3))]
                self.tokens_per_block = shape[2]
                self._request.set_tensor(port.get_any_name(), ov.Tensor(np.full(shape, 1e3, np.float32)))

    def infer(self, chunks: Sequence[tuple[PagedSequence, int]], sample_rows: Sequence[int], output: str) -> Any:
        """One step over the next ``n`` tokens of each (sequence, n)."""
        new = [sequence.tokens[sequence.cached : sequence.cached + n] for sequence, n in chunks]
        ends = [sequence.cached + n for sequence, n in chunks]
        tables = [s.blocks[: -(-end // self.tokens_per_block)] for (s, _), end in zip(chunks, ends, strict=True)]
        past = [sequence.cached for sequence, _ in chunks]
        self._set("input_ids", np.concatenate([np.array(tokens) for tokens in new]).astype(np.int64))
        self._set("position_ids", np.concatenate([np.arange(*span) for span in zip(past, ends, strict=True)]))
        self._set("past_lens", np.array(past, np.int32))
        self._set("subsequence_begins", np.cumsum([0, *map(len, new)]).astype(np.int32))
        self._set("block_indices", np.concatenate(tables).astype(np.int32))
        self._set("block_indices_begins", np.cumsum([0, *map(len, tables)]).astype(np.int32))
        self._set("max_context_len", np.array(max(ends), np.int32))
        self._set("sample_rows", np.array(sample_rows, np.int64))
        self._request.infer()
        for sequence, n in chunks:
            sequence.cached += n
        return self._request.get_tensor(output).data.copy()

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int, *, chunk: int = 10**6) -> list[list[int]]:
        """Greedy continuations of all ``prompts`` in one batch, at most ``chunk`` tokens of a sequence a step."""
        free = list(np.random.default_rng(len(prompts)).permutation(self.num_blocks))
        sequences = []
        for prompt in prompts:
            needed = -(-(len(prompt) + num_tokens) // self.tokens_per_block)
            sequences.append(PagedSequence(list(prompt), [free.pop() for _ in range(needed)]))
        while running := [s for s in sequences if len(s.output) < num_tokens]:
            self._step(running, chunk)
        return [sequence.output for sequence in sequences]

    def _step(self, running: Sequence[PagedSequence], chunk: int) -> None:
        chunks = [(s, min(chunk, len(s.tokens) - s.cached)) for s in running]
        last_rows = np.cumsum([n for _, n in chunks]) - 1
        complete = [s.cached + n == len(s.tokens) for s, n in chunks]
        rows = [int(row) for row, done in zip(last_rows, complete, strict=True) if done]
        token_ids: npt.NDArray[np.int32] = self.infer(chunks, rows, "token_ids")
        sampled = iter(token_ids.tolist())
        for sequence, done in zip(running, complete, strict=True):
            if done:
                sequence.output.append(next(sampled))
                sequence.tokens.append(sequence.output[-1])

    def _set(self, name: str, array: npt.NDArray[Any]) -> None:
        self._request.set_tensor(name, ov.Tensor(array))
