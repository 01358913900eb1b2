"""Server-sent events from bytes that may be cut anywhere (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

import codecs


class EventParser:
    """Turns the bytes of a ``text/event-stream`` into the data of its events.

    Only ``data`` fields count; Triton sends no others. A cut may fall inside a line end or a character.
    """

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._line = ""
        self._skip_newline = False
        self._data: list[str] = []

    def feed(self, part: bytes) -> list[str]:
        """The events that ``part`` completes; UnicodeDecodeError for bytes that are not UTF-8."""
        text = self._line + self._utf8.decode(part)
        if self._skip_newline and text:  # the end of a line was "\r", and this may be the rest of "\r\n"
            text = text.removeprefix("\n")
            self._skip_newline = False
        if text.endswith("\r"):
            self._skip_newline = True
        *lines, self._line = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        events: list[str] = []
        for line in lines:
            if line:
                self._field(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events

    @property
    def unfinished(self) -> bool:
        """Whether the bytes so far end inside an event."""
        return bool(self._line or self._data or self._utf8.getstate()[0])

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
