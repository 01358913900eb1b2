"""The way back to a client of the front door."""

from __future__ import annotations

import threading
from typing import Any

from python_backend.errors import Cancelled
from python_backend.triton.failure import error_response
from python_backend.triton.sender import FINAL


class FrontReply:
    """Of one Triton request, whose parts (rows, sequences) are answered by several threads."""

    def __init__(self, request: Any, *, decoupled: bool) -> None:
        self.request_id: str = request.request_id()
        self._sender = request.get_response_sender()
        self._decoupled = decoupled
        self._open_parts = 1
        self._lock = threading.Lock()

    def expect(self, parts: int) -> None:
        """How many parts will end; 1 unless this is called, before anything is sent."""
        self._open_parts = parts

    @property
    def is_complete(self) -> bool:
        """All parts have ended."""
        return self._open_parts == 0

    def is_cancelled(self) -> bool:
        """Whether the client has left. Asks the server: tens of microseconds."""
        # Asked about an answer that is complete, Triton 2.51 looks at memory it has freed, and dies.
        with self._lock:
            return not self.is_complete and bool(self._sender.is_cancelled())

    def send(self, response: Any | None, *, ends: bool) -> None:
        """Send a response; with ``ends`` it is the last of its part. None only says that the part ends."""
        with self._lock:
            self._open_parts -= ends
            flags = FINAL if self._open_parts == 0 else 0
            if response is None and not self._decoupled:
                response = error_response(Cancelled("the request was cancelled"), self.request_id)
            if response is not None:
                self._sender.send(response, flags=flags)
            elif flags:
                self._sender.send(flags=FINAL)
