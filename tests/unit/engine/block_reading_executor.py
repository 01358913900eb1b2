"""A model without weights: what it says next is a function of the tokens that it finds in its blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from python_backend.errors import EngineFault
from python_backend.scheduling.step_batch import StepBatch

VOCABULARY = 50


def next_token(tokens: list[int]) -> int:
    """The most likely one; it depends on every token before."""
    return _digest(tokens) % VOCABULARY


def next_logits(tokens: list[int]) -> npt.NDArray[np.float32]:
    row = np.random.default_rng(_digest(tokens)).random(VOCABULARY, dtype=np.float32) * 2
    row[next_token(tokens)] = 2.5
    return row


def _digest(tokens: list[int]) -> int:
    return sum((i + 1) * token for i, token in enumerate(tokens)) * 31 + 7


class BlockReadingExecutor:
    """Keeps tokens in blocks as a real executor keeps KV, and sees only what the block tables lead it to."""

    kv_cache_bytes = 0
    kept_shapes = 1
    vocab_size = VOCABULARY

    def __init__(self, num_blocks: int = 32, tokens_per_block: int = 4) -> None:
        self.num_blocks = num_blocks
        self.tokens_per_block = tokens_per_block
        self.cells = np.full((num_blocks, tokens_per_block), -1)
        self.fail_next = False
        self.logits_read = 0
        self._logits = np.empty((0, VOCABULARY), np.float32)
        self._contexts: list[list[int]] = []

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        if self.fail_next:
            self.fail_next = False
            raise EngineFault("the step could not be computed")
        contexts = {}
        for s in range(batch.past_lens.size):
            first, last = batch.subsequence_begins[s : s + 2]
            table = batch.block_indices[batch.block_indices_begins[s] : batch.block_indices_begins[s + 1]]
            for row in range(first, last):
                position = batch.past_lens[s] + row - first
                block, cell = divmod(int(position), self.tokens_per_block)
                self.cells[table[block], cell] = batch.input_ids[row]
                contexts[row] = self.cells[table].reshape(-1)[: position + 1].tolist()
        self._contexts = [contexts[row] for row in batch.sample_rows.tolist()]
        self._logits.fill(np.nan)  # What was a view of the last step's is one no more.
        return np.array([next_token(context) for context in self._contexts], np.int32)

    def logits(self) -> npt.NDArray[np.float32]:
        self.logits_read += 1
        self._logits = np.array([next_logits(context) for context in self._contexts])
        return self._logits
