"""The TCP ports of a server: free ones, and who holds those that are not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields

from python_backend.launcher.process import listener


@dataclass(frozen=True, slots=True)
class Ports:
    """The three TCP ports of a server."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def free(cls, host: str = "127.0.0.1") -> Ports:
        """Three ports that were free a moment ago; for tests and benches."""
        with ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(3)]
            for candidate in sockets:
                candidate.bind((host, 0))
            return cls(*(candidate.getsockname()[1] for candidate in sockets))

    def taken(self, host: str) -> Iterator[str]:
        """One sentence for each port that a server could not listen on now."""
        if len({self.http, self.grpc, self.metrics}) < 3:
            yield f"{self.http}, {self.grpc}, {self.metrics} (HTTP, gRPC, metrics) are not three different ports"
        for service in fields(self):
            port = getattr(self, service.name)
            if (reason := _why_taken(host, port)) is not None:
                yield f"{service.name} port {port} {reason}"


def _why_taken(host: str, port: int) -> str | None:
    with socket.socket() as probe:
        # Closed connections of an earlier server do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = listener(port)
            return f"is held by {holder}" if holder else f"cannot be used on {host}: {error.strerror}"
    return None
