"""Which of the blocks that nobody holds goes first when one is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from python_backend.errors import EngineFault
from python_backend.scheduling.keyed_heap import KeyedHeap
from python_backend.scheduling.retention import DEFAULT_PRIORITY, BlockRetention

_DEFAULT = BlockRetention()


class EvictionOrder:
    """Blocks by their priority now, lowest first, then by when they were let go. All operations O(log n), amortized.

    Unlike TensorRT-LLM's, the order is a function of the past alone: a block whose priority has run out keeps the place
    that its last use gives it, whenever that is noticed.
    """

    def __init__(self) -> None:
        self._order: KeyedHeap[int, tuple[int, int]] = KeyedHeap()  # by priority and tick
        self._ends: KeyedHeap[int, float] = KeyedHeap()  # when a priority runs out, of those here whose does
        self._retention: dict[int, BlockRetention] = {}  # of blocks here or held, where it is not the default
        self._ticks = count()
        self._now_s = 0.0

    def advance(self, now_s: float) -> None:
        """Time goes on: blocks whose duration is over fall back to the default priority."""
        self._now_s = now_s
        for block in self._ends.pop_until(now_s):
            del self._retention[block]
            self._place(block, self._tick_of(block))

    def retain(self, block: int, retention: BlockRetention) -> None:
        """Keep the block, here or held, in this way from now on."""
        self._retention[block] = retention
        if block in self._order:
            self._place(block, self._tick_of(block))

    def add(self, block: int) -> None:
        """The last holder of the block has let it go."""
        self._place(block, next(self._ticks))

    def remove(self, block: int) -> None:
        """Somebody holds the block again."""
        self._order.discard(block)
        self._ends.discard(block)

    def pop(self) -> int:
        """Take out the block to be evicted, and forget how it was to be kept."""
        block = self._order.peek()
        assert block is not None, "no block can be evicted"
        self.remove(block)
        self.forget(block)
        return block

    def forget(self, block: int) -> None:
        """The block, not here any more, holds nothing of value: how it was to be kept is over."""
        self._retention.pop(block, None)

    def check_integrity(self, free: Iterable[int]) -> None:
        """Raises EngineFault where redundant state disagrees; `free` are the blocks that hold nothing of value."""
        timed = {block for block in self if self._retention.get(block, _DEFAULT).duration_ms is not None}
        if set(self._ends) != timed:
            raise EngineFault(f"priorities of blocks {sorted(timed ^ set(self._ends))} do not end as they should")
        wrong = [block for block in self if self._order.key_of(block)[0] != self._priority_of(block)]
        without_value = self._retention.keys() & set(free)
        if wrong or without_value:
            raise EngineFault(
                f"blocks {wrong} stand at other priorities than theirs; blocks {sorted(without_value)} have one, "
                "but are free"
            )

    def _place(self, block: int, tick: int) -> None:
        self._order.push(block, (self._priority_of(block), tick))
        duration_ms = self._retention.get(block, _DEFAULT).duration_ms
        if duration_ms is None:
            self._ends.discard(block)
        else:
            self._ends.push(block, self._now_s + duration_ms / 1000)

    def _priority_of(self, block: int) -> int:
        retention = self._retention.get(block)
        return DEFAULT_PRIORITY if retention is None else retention.priority

    def _tick_of(self, block: int) -> int:
        return self._order.key_of(block)[1]

    def __contains__(self, block: object) -> bool:
        return block in self._order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)
