"""Everything that can go wrong, as one small tree.

    SlipstreamError
    ├── InvalidRequest      the client must change the request
    │   └── Unsupported     well-formed, but not something this engine can do
    ├── Overloaded          try again later: a queue is full
    ├── Cancelled           the client left, or asked to stop
    ├── EngineFault         our own failure while a request was served
    └── SetupError          the operator must change something before a server can start or an engine can be built

A message says what is wrong, the value, the limit and what to do. Clients see the message; a traceback
only ever goes to the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SlipstreamError(Exception):
    """Base of every error that Slipstream raises on purpose."""


class InvalidRequest(SlipstreamError):
    """The request cannot be served as it is. Triton: INVALID_ARG, HTTP 400."""


class Unsupported(InvalidRequest):
    """The request is well-formed, but this engine does not offer what it asks for. Triton: UNSUPPORTED."""


class Overloaded(SlipstreamError):
    """The request was refused because a limit on waiting work is reached. Triton: UNAVAILABLE, HTTP 503."""


class Cancelled(SlipstreamError):
    """The request was given up by its client. Triton: CANCELLED."""


class EngineFault(SlipstreamError):
    """The engine failed while it served the request. Triton: INTERNAL, HTTP 500."""


class SetupError(SlipstreamError):
    """A file, a setting or the machine keeps a server from starting or an engine from being built."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix that suggests the nearest known name, or an empty string when none is near.

    >>> did_you_mean("max_token", ["max_tokens", "stream"])
    '; did you mean "max_tokens"?'
    """
    near = get_close_matches(name, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
