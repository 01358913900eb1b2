"""What a step costs: seconds by the tokens that it computes, measured on the executor before it serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from python_backend.engine.executor import Executor
from python_backend.scheduling.step_batch import StepBatch

log = logging.getLogger(__name__)

Float64Array = npt.NDArray[np.float64]

_CROWD = (2,) * 8  # next to one sequence of as many tokens
_Shape = tuple[int, ...]  # tokens of each sequence
#: All of which together cost less than the context of a short prompt.
ALWAYS: tuple[_Shape, ...] = ((1,), (4,), (16,), _CROWD, (64,))
#: Dense where kernels change.
_MORE: tuple[_Shape, ...] = ((8,), (32,), (5,), (17,), (12,), (6,), (96,), (3,), (2,))
_TURNS = 3  # of sizes that push each other out; the first of those above are others
PAST_TOKENS = 128
PASSES = 2


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step: piecewise linear in its query tokens, and what drafts cost beside their tokens.

    One charge is for every sequence with a draft but one: attention takes longer over two short pieces than over one
    long one. The other is for steps of a size that the executor is not prepared for (``kept_shapes``). The curve stays
    as it was measured: load on the machine and longer contexts stretch all of it, and the controller goes by ratios; a
    point that one slow moment had moved would shut drafts off, and nothing would move it back until somebody drafts
    again.
    """

    curve: Float64Array  #: [most query tokens + 1] seconds, never falling
    per_drafting_sequence_s: float = 0.0
    reshaping_s: float = 0.0  #: lost where a step has another number of tokens than those that are kept
    kept_shapes: int = 1  #: see ``Executor.kept_shapes``

    @classmethod
    def through(
        cls,
        points: Mapping[int, float],
        most_tokens: int,
        per_drafting_sequence_s: float = 0.0,
        reshaping_s: float = 0.0,
        kept_shapes: int = 1,
    ) -> StepCost:
        """A curve through seconds at two token counts or more, as far as ``most_tokens``; linear beyond the last.

        A step that was slower than a larger one was disturbed: it counts as no slower than that. Beyond the last point
        it rises as between the last two, and no less than on the whole.
        """
        assert len(points) > 1, f"no line goes through {points}"
        sizes = np.array(sorted(points), dtype=np.float64)
        seconds = np.array([points[int(size)] for size in sizes], dtype=np.float64)
        seconds = np.minimum.accumulate(seconds[::-1])[::-1]
        tokens = np.arange(most_tokens + 1, dtype=np.float64)
        slope = max((seconds[-1] - seconds[at]) / (sizes[-1] - sizes[at]) for at in (0, -2))
        curve = np.interp(tokens, sizes, seconds) + np.maximum(tokens - sizes[-1], 0) * slope
        return cls(curve, per_drafting_sequence_s, reshaping_s, kept_shapes)

    @classmethod
    def measured(cls, executor: Executor, most_tokens: int, *, time_limit_s: float = 5.0) -> StepCost:
        """Measure it on dummy batches, as far as the time goes, and draw the curve as far as ``most_tokens``.

        Compared is the processor time of this process, the least of a few passes: it tells what a step is to this
        engine even while others keep the processors busy. How long that takes on the clock sets only the scale.

        Blocks of the cache are overwritten, so it is to be called before anything worth keeping is in them. It takes
        ``time_limit_s`` and two steps at most, or what the shapes in ``ALWAYS`` take. Raises EngineFault when a step
        cannot be computed.
        """
        begin_s = time.perf_counter()
        dummy = _DummySteps(executor)
        reshaped = [(size,) for size in range(1, executor.kept_shapes + 2)] * _TURNS
        shapes = [shape for shape in (*ALWAYS, *reshaped, *_MORE) if dummy.holds(shape)]
        timings = {shape: _Timing(executor, dummy.steps(shape)) for shape in shapes}
        for number, shape in enumerate(PASSES * shapes):
            if number >= len(ALWAYS) and time.perf_counter() - begin_s > time_limit_s:
                break
            timings[shape].take()
        taken = {shape: each for shape, each in timings.items() if isfinite(each.processor_s)}
        scale = min(each.clock_s / each.processor_s for each in taken.values())
        points = {shape[0]: each.processor_s * scale for shape, each in taken.items() if len(shape) == 1}
        crowd_s = taken[_CROWD].processor_s * scale if _CROWD in taken else 0.0
        extra_s = max(crowd_s - points.get(sum(_CROWD), inf), 0.0) / (len(_CROWD) - 1)
        reshaping_s = float(np.mean([taken[shape].reshaping_s for shape in reshaped if shape in taken])) * scale
        log.info(
            "step cost: seconds=%.1f per_drafting_sequence_ms=%.2f reshaping_ms=%.2f ms_by_tokens=%s",
            time.perf_counter() - begin_s, extra_s * 1e3, reshaping_s * 1e3,
            " ".join(f"{size}:{points[size] * 1e3:.1f}" for size in sorted(points)),
        )  # fmt: skip
        return cls.through(points, most_tokens, extra_s, reshaping_s, executor.kept_shapes)

    def seconds(self, tokens: int, drafting: int = 0) -> float:
        """Of a step with so many query tokens, drafts among them, for so many sequences with drafts."""
        return float(self.curve[tokens]) + max(drafting - 1, 0) * self.per_drafting_sequence_s


@dataclass(slots=True)
class _Timing:
    """The least that a batch took, in two kinds of seconds; infinite before it was tried."""

    executor: Executor
    batch: StepBatch
    clock_s: float = inf
    processor_s: float = inf
    reshaped_s: float = inf  # of the processor, right after a batch of another shape

    @property
    def reshaping_s(self) -> float:
        """What another shape before it costs; the threads that do not prepare wait actively. 0: unknown."""
        return max(self.reshaped_s - self.processor_s, 0.0) if isfinite(self.reshaped_s) else 0.0

    def take(self) -> None:
        """Compute it twice. The first time of all also prepares for the shape, and does not count."""
        is_first = self.processor_s == inf
        _, reshaped_s = self._computed()
        if not is_first:
            self.reshaped_s = min(self.reshaped_s, reshaped_s)
        clock_s, processor_s = self._computed()
        self.clock_s, self.processor_s = min(self.clock_s, clock_s), min(self.processor_s, processor_s)

    def _computed(self) -> tuple[float, float]:
        clock_s, processor_s = time.perf_counter(), time.process_time()
        self.executor.execute(self.batch)
        return time.perf_counter() - clock_s, time.process_time() - processor_s


class _DummySteps:
    """Batches of sequences that all have the same past, each with blocks of its own behind it.

    The past is whatever the cache holds: what attention makes of it takes the same time.
    """

    def __init__(self, executor: Executor) -> None:
        self._block = executor.tokens_per_block
        self._blocks = executor.num_blocks
        self._vocab_size = executor.vocab_size
        self._past_blocks = min(PAST_TOKENS // self._block, executor.num_blocks // 2)

    def holds(self, tokens: _Shape) -> bool:
        return self._past_blocks + sum(self._own_blocks(count) for count in tokens) <= self._blocks

    def steps(self, tokens: _Shape) -> StepBatch:
        """One sequence for each count, all of whose tokens are sampled."""
        tables, free = [], self._past_blocks
        for count in tokens:
            own = self._own_blocks(count)
            tables.append([*range(self._past_blocks), *range(free, free + own)])
            free += own
        return self._batch([self._past_blocks * self._block] * len(tokens), tokens, tables)

    def _own_blocks(self, tokens: int) -> int:
        return -(-tokens // self._block)

    def _batch(self, past: list[int], tokens: _Shape, tables: list[list[int]]) -> StepBatch:
        total = sum(tokens)
        positions = [np.arange(start, start + count) for start, count in zip(past, tokens, strict=True)]
        return StepBatch(
            input_ids=np.arange(total, dtype=np.int64) % self._vocab_size,
            position_ids=np.concatenate(positions).astype(np.int64),
            past_lens=np.array(past, np.int32),
            subsequence_begins=np.cumsum([0, *tokens], dtype=np.int32),
            block_indices=np.concatenate(tables).astype(np.int32),
            block_indices_begins=np.cumsum([0, *map(len, tables)], dtype=np.int32),
            max_context_len=max(map(int.__add__, past, tokens)),
            sample_rows=np.arange(total, dtype=np.int64),
        )
