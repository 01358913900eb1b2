"""Ids of a front door's requests: no two alike, and each known again by its client's."""

from __future__ import annotations

import pytest

from python_backend.triton.request_id import is_meant, unique_id


@pytest.mark.parametrize("client_id", ["", "a", "a#b"])
def test_ids_differ_and_are_known_again(client_id: str) -> None:
    ids = [unique_id(client_id) for _ in range(12)]
    assert len(set(ids)) == 12
    assert all(is_meant(each, client_id) for each in ids)
    # Whoever says one of them means that one, though one is how another begins.
    assert all([each for each in ids if is_meant(each, said)] == [said] for said in ids)


def test_another_client_is_not_meant() -> None:
    assert not is_meant(unique_id("ab"), "a")
    assert not is_meant("ab", "a")
    assert not is_meant("a#b", "a")
    assert is_meant("a", "a")
