"""A stream of responses over a connection of its own, which can be left in several ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from perf.storm.door import Inputs


class StreamFailed(Exception):
    """The server refused the request, answered an error, or ended the stream early."""


class Transport(ABC):
    """One request on a connection of its own. ``close`` after use, whatever happened."""

    name: ClassVar[str]
    #: the ways to leave before the end
    farewells: ClassVar[tuple[str, ...]]

    @abstractmethod
    async def send(self, model: str, inputs: Inputs) -> None:
        """Connects and sends the request."""

    @abstractmethod
    def responses(self) -> AsyncIterator[Mapping[str, Any]]:
        """The outputs of each response until the stream ends in order; StreamFailed when it does not."""

    @abstractmethod
    async def leave(self, farewell: str) -> None:
        """Disconnects before the end."""

    @abstractmethod
    async def close(self) -> None:
        """Frees the connection."""
