"""Small real servers that answer what a test tells them, in the bytes and messages that Triton is known to send."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class ScriptedHttpServer(ThreadingHTTPServer):
    """Answers each POST with ``status``, ``content_type`` and the given parts as HTTP chunks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.status = 200
        self.content_type = "text/event-stream; charset=utf-8"
        self.parts: list[bytes] = []
        self.complete = True  # whether the last HTTP chunk is sent before the connection is closed
        self.before_end: Callable[[], object] = lambda: None
        self.requests: list[tuple[str, str | None, bytes]] = []
        self.waits_for_hang_up = False
        self.hung_up = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedHttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Content-Type"], body))
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in self.server.parts:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.server.before_end()
        if self.server.waits_for_hang_up:
            self._wait_for_hang_up()
        if self.server.complete:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients leave as they like
            super().handle()

    def _wait_for_hang_up(self) -> None:
        with suppress(ConnectionResetError):
            assert self.rfile.read(1) == b"", "a client sends nothing after its request"
        self.server.hung_up.set()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is not a server's log."""


@pytest.fixture
def server() -> Iterator[ScriptedHttpServer]:
    with ScriptedHttpServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
