"""Ids of requests that a front door sends to an engine: the client's id, which others may use too, made unique."""

from __future__ import annotations

import re
from itertools import count
from secrets import token_hex

_ADDED = re.compile(r"#[0-9a-f]{8}-\d+\Z")
_SERIES, _NUMBERS = token_hex(4), count(1)


def unique_id(client_id: str) -> str:
    """An id that no other request has. ``is_meant`` knows it again by the client's."""
    return f"{client_id}#{_SERIES}-{next(_NUMBERS)}"


def is_meant(request_id: str, said: str) -> bool:
    """Whether who says ``said`` means the request with that id: it is the same, or was made from it."""
    return said in (request_id, _ADDED.sub("", request_id))
