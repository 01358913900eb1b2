"""One request as the scheduler sees it: its tokens, how many of them have their KV in blocks, and its state.

It knows nothing of text, sampling, clocks or transports.

    tokens     | prompt ......................... | output ........ |
    computed   |======== KV in blocks ========================|  ^ the newest token: sampled, not computed yet
    draft                                                           | guesses that follow it, not verified |

A step computes a run of tokens that starts at ``computed``. When the run reaches the newest token, the
step also samples: one row for that token and one for each draft token behind it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from python_backend.errors import InvalidRequest
from python_backend.scheduling.retention import KvRetention


class SequenceState(Enum):
    """WAITING → CONTEXT → GENERATION → FINISHED, with a detour over PAUSED back to CONTEXT."""

    WAITING = "waiting"  #: in the queue, never scheduled
    CONTEXT = "context"  #: running; some known tokens beside the newest have no KV yet
    GENERATION = "generation"  #: running; only the newest token has no KV yet
    PAUSED = "paused"  #: back in the queue without blocks; recomputes prompt and output when resumed
    FINISHED = "finished"  #: has a finish_reason and holds no blocks


class FinishReason(Enum):
    """Why a sequence ended. The values are what clients see, but for TIMED_OUT (see deadline.py)."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    ERROR = "error"


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """A prompt and what has been generated for it. Two sequences are equal only if they are the same object.

    The caller fills in the first block of fields and may set ``draft`` before each step; everything below
    belongs to the scheduler and the block manager.

    Raises InvalidRequest when the prompt is not one row of integers, when max_new_tokens is below 1, or
    when priority leaves [0, 1].
    """

    id: str
    prompt: npt.NDArray[np.int64]
    """Prompt token ids; integers of any width are accepted and kept as a contiguous int64 array."""
    max_new_tokens: int
    end_id: int | None = None
    """The token that ends generation. It is part of the output when generated."""
    priority: float = 0.5
    """0 to 1, higher is more urgent; 0.5 is TensorRT-LLM's default."""
    cache_salt: bytes = b""
    """Blocks are shared only between sequences of equal salt (tenant, LoRA adapter)."""
    reads_cache: bool = True
    """Start behind what the KV cache holds of the prompt already. False: compute all of it, for its logits, say."""
    retention: KvRetention | None = None
    """How to keep its blocks. None: like any others, and those it reuses as they were kept before."""
    tenant: str = ""
    """On whose behalf: places in the batch are shared out fairly between tenants."""
    timeout_s: float | None = None
    """How long after its arrival to give it up."""
    sampling: object | None = None
    """For whoever chooses the tokens; nothing here looks at it."""
    ends_after_draft: bool = False
    """The step that verifies its draft is its last, as for a request of TensorRT-LLM with draft tokens."""
    max_draft_tokens: int = 0
    """Most draft tokens that a drafter inside the engine may set at a time."""

    draft: list[int] = field(default_factory=list)
    """Guesses for the tokens that follow the newest one. The next step that samples consumes them."""
    output: list[int] = field(default_factory=list)
    state: SequenceState = SequenceState.WAITING
    finish_reason: FinishReason | None = None
    arrival_s: float = 0.0
    first_scheduled_s: float | None = None

    computed: int = 0
    """Number of leading tokens whose KV is in blocks."""
    block_table: array[int] = field(default_factory=lambda: array("i"))
    """The block of tokens [i * tokens_per_block, (i + 1) * tokens_per_block) is block_table[i]."""
    block_hashes: list[bytes] = field(default_factory=list)
    """Hashes of the leading full blocks, as far as anyone has asked for them."""
    committed_blocks: int = 0
    """Number of leading blocks that were offered for reuse, or came from it."""

    reused_blocks: int = 0
    """Blocks that it started with, whenever it started or went on; also one of which it reused some tokens."""
    reused_tokens: int = 0
    """Tokens whose KV those blocks held for it."""
    allocated_blocks: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0

    def __post_init__(self) -> None:
        prompt = np.asarray(self.prompt)
        if prompt.ndim != 1 or prompt.size == 0 or prompt.dtype.kind not in "iu":
            raise InvalidRequest(
                f"prompt is {prompt.dtype} of shape {list(prompt.shape)}; it must be one row of at least 1 token id."
            )
        self.prompt = np.ascontiguousarray(prompt, dtype=np.int64)
        if self.max_new_tokens < 1:
            raise InvalidRequest(f"max_new_tokens is {self.max_new_tokens}; ask for at least 1.")
        if not 0.0 <= self.priority <= 1.0:
            raise InvalidRequest(f"priority is {self.priority}; it must lie between 0 and 1.")

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.size

    @property
    def num_tokens(self) -> int:
        """Known tokens: prompt and output, without draft."""
        return self.prompt.size + len(self.output)

    @property
    def max_tokens(self) -> int:
        """The most tokens it can come to."""
        return self.prompt.size + self.max_new_tokens

    @property
    def max_kv_tokens(self) -> int:
        """The most tokens whose KV it can need: the last output token is never fed back."""
        return self.max_tokens - 1

    @property
    def deadline_s(self) -> float | None:
        """When to give it up, on the clock of whoever passes time in; None: never."""
        return None if self.timeout_s is None else self.arrival_s + self.timeout_s

    @property
    def remaining_tokens(self) -> int:
        """Output tokens that may still be generated."""
        return self.max_new_tokens - len(self.output)

    @property
    def is_running(self) -> bool:
        return self.state is SequenceState.CONTEXT or self.state is SequenceState.GENERATION

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Known tokens [start, stop), as a view of the prompt where that suffices."""
        begin = self.prompt.size
        if stop <= begin:
            return self.prompt[start:stop]
        output = np.array(self.output[max(start - begin, 0) : stop - begin], dtype=np.int64)
        return output if start >= begin else np.concatenate((self.prompt[start:], output))

    def __repr__(self) -> str:
        return (
            f"Sequence({self.id!r}, {self.state.value}, kv={self.computed}/{self.num_tokens}, "
            f"out={len(self.output)}/{self.max_new_tokens}, blocks={len(self.block_table)})"
        )
