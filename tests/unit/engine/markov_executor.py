"""A model of four tokens whose next one depends on the newest only, so that whole answers have known probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from python_backend.scheduling.step_batch import StepBatch

VOCABULARY = 4
LOGITS = np.array([[-1, -0.5, 1, 1.2], [1.5, 0, 0, 0.5], [-1, 0.5, 1, 1], [0, 0, 2.5, 0.2]], np.float32)


class MarkovExecutor:
    """Reads nothing but the newest token of each row."""

    kv_cache_bytes = 0
    kept_shapes = 1
    vocab_size = VOCABULARY
    num_blocks = 8
    tokens_per_block = 4

    def __init__(self) -> None:
        self._newest = np.empty(0, np.int64)

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        self._newest = batch.input_ids[batch.sample_rows]
        chosen: npt.NDArray[np.int32] = LOGITS[self._newest].argmax(axis=1).astype(np.int32)
        return chosen

    def logits(self) -> npt.NDArray[np.float32]:
        return LOGITS[self._newest]
