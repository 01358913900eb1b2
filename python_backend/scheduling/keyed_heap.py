"""A heap whose members can be found, moved and taken out."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", float, tuple[int, int])


class KeyedHeap(Generic[Item, Key]):
    """Items by key, lowest first, equal keys in order of arrival. All operations O(log n), amortized.

    Entries of removed items stay in the heap until they surface or outnumber the others.
    """

    def __init__(self) -> None:
        self._tickets = count()
        self._current: dict[Item, tuple[Key, int]] = {}
        self._heap: list[tuple[Key, int, Item]] = []

    def push(self, item: Item, key: Key) -> None:
        """Put the item in, or move it to a new key."""
        self.discard(item)
        ticket = next(self._tickets)
        self._current[item] = key, ticket
        heappush(self._heap, (key, ticket, item))

    def peek(self) -> Item | None:
        """The item with the lowest key; None when there is none."""
        while self._heap:
            if self._is_current(self._heap[0]):
                return self._heap[0][2]
            heappop(self._heap)
        return None

    def pop_until(self, key: Key) -> Iterator[Item]:
        """Take out, lowest first, the items whose key is at most `key`."""
        while (item := self.peek()) is not None and self.key_of(item) <= key:
            self.discard(item)
            yield item

    def key_of(self, item: Item) -> Key:
        """The key of an item that is in."""
        return self._current[item][0]

    def discard(self, item: Item) -> bool:
        """Take the item out; False if it is not in."""
        if self._current.pop(item, None) is None:
            return False
        if len(self._heap) > 2 * len(self._current):
            self._heap = [entry for entry in self._heap if self._is_current(entry)]
            heapify(self._heap)
        return True

    def _is_current(self, entry: tuple[Key, int, Item]) -> bool:
        return self._current.get(entry[2]) == (entry[0], entry[1])

    def __contains__(self, item: object) -> bool:
        return item in self._current

    def __len__(self) -> int:
        return len(self._current)

    def __iter__(self) -> Iterator[Item]:
        """All items, in order of arrival."""
        return iter(self._current)
