"""Asking running servers, and looking at their processes."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from python_backend.launcher.process import command_lines
from python_backend.launcher.server import TritonServer


def ask(http_url: str, text: str = "hi", max_tokens: int = 1) -> str:
    request = urllib.request.Request(
        f"{http_url}/v2/models/ensemble/generate",
        json.dumps({"text_input": text, "max_tokens": max_tokens}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.loads(answer.read())["text_output"])


def ask_in_vain(http_url: str, text: str) -> None:
    """Asks a server that ends before it answers."""
    with suppress(OSError):
        ask(http_url, text)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def stubs_of(server: TritonServer) -> list[int]:
    """The processes that run its Python models."""
    return [
        pid for pid, arguments in command_lines() if len(arguments) > 2 and arguments[2].startswith(server.run.name)
    ]
