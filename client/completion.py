"""What comes back: chunks while it is made, a completion when it is done.

Times are readings of ``time.perf_counter``, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One response of the server: the text that is new, which may be several tokens or none.

    ``finish_reason`` is ``stop``, ``length`` or ``cancelled`` in the last chunk of a server that tells.
    The token counts are there when the request asked for them.
    """

    text: str
    index: int
    received_s: float
    finish_reason: str | None = None
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The whole answer, and when it came.

    ``ttft_s`` is the time from sending to the first chunk (None without one), ``duration_s`` to the last.
    """

    text: str
    chunks: int
    duration_s: float
    ttft_s: float | None
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int | None

    @classmethod
    def of(cls, chunks: Iterable[Chunk], started_s: float) -> Completion:
        """Puts together what came since ``started_s``."""
        all_chunks = list(chunks)
        first, last = (all_chunks[0], all_chunks[-1]) if all_chunks else (None, None)
        counts = [chunk.num_output_tokens for chunk in all_chunks if chunk.num_output_tokens is not None]
        return cls(
            text="".join(chunk.text for chunk in all_chunks),
            chunks=len(all_chunks),
            duration_s=last.received_s - started_s if last else 0.0,
            ttft_s=first.received_s - started_s if first else None,
            finish_reason=last.finish_reason if last else None,
            num_input_tokens=first.num_input_tokens if first else None,
            num_output_tokens=sum(counts) if counts else None,
        )
