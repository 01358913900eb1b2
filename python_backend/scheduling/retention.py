"""How long a request wants its KV cache kept: TensorRT-LLM's KvCacheRetentionConfig.

When a block is needed and none is free, the one that goes is the block of the lowest priority among those that nobody
holds, and among equal priorities the least recently used one. Priorities run from 0 to 100. A block has priority 35
unless a request that computes or reuses it says otherwise; the latest word counts, and a request that says nothing
leaves it as it is.

A block is wholly of one priority: that of the range in which its first token lies. A duration begins when the last
holder lets the block go and is over when somebody holds it again; once it has run out, the block is back at 35.
Priorities order evictions; they reserve nothing.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from python_backend.errors import InvalidRequest

MIN_PRIORITY: Final = 0
MAX_PRIORITY: Final = 100
DEFAULT_PRIORITY: Final = 35


@dataclass(frozen=True, slots=True)
class BlockRetention:
    """How to keep one block. Raises InvalidRequest for a priority outside [0, 100] or a negative duration."""

    priority: int = DEFAULT_PRIORITY
    duration_ms: int | None = None
    """After so long without a holder the priority is the default one; None: never."""

    def __post_init__(self) -> None:
        if not MIN_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise InvalidRequest(
                f"retention priority is {self.priority}; it must lie between {MIN_PRIORITY} (evicted first) and "
                f"{MAX_PRIORITY}. {DEFAULT_PRIORITY} is what blocks have without it."
            )
        if self.duration_ms is not None and self.duration_ms < 0:
            raise InvalidRequest(
                f"retention duration is {self.duration_ms} ms; it must be at least 0. Leave it out, or send -1, for "
                "a priority that lasts."
            )


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Prompt tokens [start, end) and how to keep their blocks. Raises InvalidRequest for an empty range."""

    start: int
    end: int | None
    """None: up to the end of the prompt."""
    retention: BlockRetention

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise InvalidRequest(
                f"retention range {self} holds no token; it must start at 0 or later and end after its start."
            )

    def __str__(self) -> str:
        return f"[{self.start}, {'end of prompt' if self.end is None else self.end})"


@dataclass(frozen=True, slots=True)
class KvRetention:
    """Ranges of the prompt, which may not overlap, and how to keep the blocks of generated tokens."""

    ranges: tuple[TokenRange, ...] = ()
    decode: BlockRetention = BlockRetention()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.ranges, key=lambda r: r.start))
        for before, after in pairwise(ordered):
            if before.end is None or before.end > after.start:
                raise InvalidRequest(
                    f"retention ranges {before} and {after} overlap; a token can have one priority. "
                    f"End the first at {after.start} or earlier."
                )
        object.__setattr__(self, "ranges", ordered)

    @classmethod
    def of_tensors(
        cls,
        starts: Many[int],
        ends: Many[int],
        priorities: Many[int],
        durations_ms: Many[int] | None = None,
        decode_priority: int | None = None,
        decode_duration_ms: int | None = None,
    ) -> KvRetention:
        """The values of the retention_* tensors, where an end or a duration of -1 stands for none.

        Raises InvalidRequest that names the tensor when lengths differ, and as the classes here do.
        """
        durations = [-1] * len(starts) if durations_ms is None else durations_ms
        for name, values in (("ends", ends), ("priorities", priorities), ("durations_ms", durations)):
            if len(values) != len(starts):
                raise InvalidRequest(
                    f"retention_token_range_{name} has {len(values)} values, retention_token_range_starts "
                    f"{len(starts)}; send one for each range."
                )
        ranges = tuple(
            TokenRange(start, _unless_minus_one(end), BlockRetention(priority, _unless_minus_one(duration_ms)))
            for start, end, priority, duration_ms in zip(starts, ends, priorities, durations, strict=True)
        )
        priority = DEFAULT_PRIORITY if decode_priority is None else decode_priority
        duration_ms = None if decode_duration_ms is None else _unless_minus_one(decode_duration_ms)
        return cls(ranges, BlockRetention(priority, duration_ms))

    def of_block(self, first_token: int, prompt_tokens: int) -> BlockRetention | None:
        """How to keep the block that begins with that token; None: as it is."""
        if first_token >= prompt_tokens:
            return self.decode
        for each in self.ranges:
            if each.start <= first_token and (each.end is None or first_token < each.end):
                return each.retention
        return None


def _unless_minus_one(value: int) -> int | None:
    return None if value == -1 else value
