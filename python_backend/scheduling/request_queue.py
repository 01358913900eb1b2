"""The requests that wait for a place in the batch, most urgent first.

The urgency of a request at time t, in seconds, is

    priority_s * priority  -  length_s * log2(prompt_tokens + max_new_tokens)  +  (t - arrival_s)

so full priority is worth `priority_s` seconds of waiting and each doubling of the length costs `length_s`.

Two consequences:

- The order of two requests never changes while they wait: in the difference of their urgencies t cancels. The
  term without t (`rank`) therefore orders a heap once and for all.
- Nobody starves: a request that arrives more than priority_s + length_s * log2(max_seq_len) seconds after
  another cannot overtake it, so only finitely many can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from math import log2

from python_backend.errors import Overloaded, SetupError
from python_backend.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgency:
    """The weights of the formula above. Both zero: first come, first served."""

    priority_s: float = 10.0
    length_s: float = 0.25

    def __post_init__(self) -> None:
        for name in ("priority_s", "length_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise SetupError(f"{name} is {value}; it must be a number of seconds from 0 up.")

    def at(self, sequence: Sequence, now_s: float) -> float:
        """Urgency of the sequence now, in seconds."""
        return self.rank(sequence) + now_s

    def rank(self, sequence: Sequence) -> float:
        """The part of the urgency that stays the same while time passes."""
        value = self.priority_s * sequence.priority - self.length_s * log2(sequence.max_tokens)
        return value - sequence.arrival_s


class RankedHeap:
    """Sequences by rank, highest first, equal ranks in order of arrival. All operations O(log n), amortized.

    Removed sequences stay in the heap until they surface or outnumber the others.
    """

    def __init__(self, urgency: Urgency) -> None:
        self._urgency = urgency
        self._tickets = count()
        self._ticket_of: dict[Sequence, int] = {}
        self._heap: list[tuple[float, int, Sequence]] = []

    def push(self, sequence: Sequence) -> None:
        ticket = self._ticket_of[sequence] = next(self._tickets)
        heappush(self._heap, (-self._urgency.rank(sequence), ticket, sequence))

    def peek(self) -> Sequence | None:
        while self._heap:
            _, ticket, sequence = self._heap[0]
            if self._ticket_of.get(sequence) == ticket:
                return sequence
            heappop(self._heap)
        return None

    def discard(self, sequence: Sequence) -> bool:
        """Take the sequence out; False if it is not in."""
        if self._ticket_of.pop(sequence, None) is None:
            return False
        if len(self._heap) > 2 * len(self._ticket_of):
            self._heap = [entry for entry in self._heap if self._ticket_of.get(entry[2]) == entry[1]]
            heapify(self._heap)
        return True

    def __len__(self) -> int:
        return len(self._ticket_of)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._ticket_of)


class RequestQueue:
    """New requests, at most `max_queue_size` of them, and paused sequences, which always go before new ones.

    A `max_queue_size` of 0 means no limit, as in Triton's queue policy. Paused sequences do not count: they
    have been accepted.
    """

    def __init__(self, max_queue_size: int = 0, urgency: Urgency | None = None) -> None:
        self.max_queue_size = max_queue_size
        self.urgency = urgency or Urgency()
        self._new = RankedHeap(self.urgency)
        self._paused = RankedHeap(self.urgency)

    @property
    def num_new(self) -> int:
        return len(self._new)

    @property
    def num_paused(self) -> int:
        return len(self._paused)

    def add(self, sequence: Sequence) -> None:
        """Queue a new request. Raises Overloaded when the queue is full."""
        if self.max_queue_size and len(self._new) >= self.max_queue_size:
            raise Overloaded(
                f"{len(self._new)} requests are waiting; max_queue_size is {self.max_queue_size}. "
                "Try again later, add instances, or raise max_queue_size."
            )
        self._new.push(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Queue a paused sequence."""
        self._paused.push(sequence)

    def peek(self) -> Sequence | None:
        """The sequence to admit next."""
        return self._paused.peek() or self._new.peek()

    def discard(self, sequence: Sequence) -> bool:
        """Take the sequence out, wherever it stands; False if it does not wait here."""
        return self._paused.discard(sequence) or self._new.discard(sequence)

    def __len__(self) -> int:
        return len(self._new) + len(self._paused)

    def __iter__(self) -> Iterator[Sequence]:
        """All who wait, in no order."""
        yield from self._paused
        yield from self._new
