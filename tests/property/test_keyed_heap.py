"""The heap behaves like a list that is sorted each time, and does not grow with what has left it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from python_backend.scheduling.keyed_heap import KeyedHeap

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "discard", "pop_until"]), st.integers(0, 9), st.integers())
)


@given(actions=ACTIONS)
def test_it_is_a_sorted_list(actions: list[tuple[str, int, int]]) -> None:
    heap: KeyedHeap[int, float] = KeyedHeap()
    naive: list[tuple[int, float]] = []  # item and key, in order of arrival
    for action, item, key in actions:
        known = [each for each in naive if each[0] == item]
        if action == "push":
            heap.push(item, key)
            naive = [each for each in naive if each not in known] + [(item, key)]
        elif action == "discard":
            assert heap.discard(item) == bool(known)
            naive = [each for each in naive if each not in known]
        else:
            due = sorted((each for each in naive if each[1] <= key), key=lambda each: each[1])
            assert list(heap.pop_until(key)) == [each[0] for each in due]
            naive = [each for each in naive if each not in due]
        assert heap.peek() == (min(naive, key=lambda each: each[1])[0] if naive else None)
        assert list(heap) == [each[0] for each in naive]
        assert len(heap) == len(naive)
        assert all(each in heap and heap.key_of(each) == own for each, own in naive)
        assert len(heap._heap) <= 2 * len(naive) + 1


def test_an_item_that_moves_often_takes_no_more_room() -> None:
    heap: KeyedHeap[str, float] = KeyedHeap()
    for key in range(1000):
        heap.push("restless", key)
        heap.push("restful", -1)
    assert len(heap._heap) <= 5
