"""Steps whose results do not depend on what else is in the batch, to the last bit.

OpenVINO multiplies a matrix of a single row by a kernel of its own, whose sums differ in the last bits. From two rows
on, each is computed as it is among any number of others. So exact mode never computes a single one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from python_backend.scheduling.step_batch import StepBatch


def without_single_rows(batch: StepBatch, spare_block: int) -> StepBatch:
    """The batch with two tokens at least, and none or two rows to sample at least.

    What is added comes last: a sequence of one token, whose KV goes to ``spare_block``, which no sequence has, and the
    row to sample a second time.
    """
    if batch.sample_rows.size == 1:
        batch = replace(batch, sample_rows=np.repeat(batch.sample_rows, 2))
    if batch.input_ids.size > 1:
        return batch
    return replace(
        batch,
        input_ids=np.append(batch.input_ids, 0),
        position_ids=np.append(batch.position_ids, 0),
        past_lens=np.append(batch.past_lens, np.int32(0)),
        subsequence_begins=np.append(batch.subsequence_begins, np.int32(2)),
        block_indices=np.append(batch.block_indices, np.int32(spare_block)),
        block_indices_begins=np.append(batch.block_indices_begins, np.int32(batch.block_indices.size + 1)),
    )
