"""A planned step as the arrays that an executor takes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from python_backend.scheduling.step_plan import StepPlan

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """S sequences, T tokens, B blocks and R sampled rows, under the names of OpenVINO's PagedAttention.

    Sequence s owns the tokens [subsequence_begins[s], subsequence_begins[s + 1]) and the block table
    block_indices[block_indices_begins[s] : block_indices_begins[s + 1]].
    """

    input_ids: Int64Array  #: [T]
    position_ids: Int64Array  #: [T]
    past_lens: Int32Array  #: [S] tokens that are in blocks already
    subsequence_begins: Int32Array  #: [S + 1]
    block_indices: Int32Array  #: [B]
    block_indices_begins: Int32Array  #: [S + 1]
    max_context_len: int  #: the longest past and present of a sequence, in tokens
    sample_rows: Int64Array  #: [R] rows of input_ids whose next token is wanted; R may be 0

    @classmethod
    def of(cls, plan: StepPlan) -> StepBatch:
        """The arrays of a plan, independent of it. To be built before the step is advanced."""
        ids, table, rows = array("q"), array("i"), array("q")
        past, begins, table_begins = array("i"), array("i", [0]), array("i", [0])
        longest = 0
        for sequence, start, stop, draft, sampled, in_context in plan.entries:
            if not in_context:
                ids.append(sequence.output[-1])
            else:
                ids.frombytes(sequence.tokens(start, stop).tobytes())
            if draft:
                ids.extend(draft)
            if sampled:
                rows.extend(range(len(ids) - sampled, len(ids)))
            table.extend(sequence.block_table)
            past.append(start)
            begins.append(len(ids))
            table_begins.append(len(table))
            longest = max(longest, stop + len(draft))
        past_lens, subsequence_begins = _int32(past), _int32(begins)
        # Position of token t = past of its sequence + t - where its sequence begins.
        offsets = np.repeat(past_lens - subsequence_begins[:-1], np.diff(subsequence_begins))
        return cls(
            input_ids=np.frombuffer(ids, dtype=np.int64),
            position_ids=np.arange(len(ids), dtype=np.int64) + offsets,
            past_lens=past_lens,
            subsequence_begins=subsequence_begins,
            block_indices=_int32(table),
            block_indices_begins=_int32(table_begins),
            max_context_len=longest,
            sample_rows=np.frombuffer(rows, dtype=np.int64) if rows else np.empty(0, dtype=np.int64),
        )


def _int32(values: array[int]) -> Int32Array:
    return np.frombuffer(values, dtype=np.int32)
