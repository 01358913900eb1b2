"""What the probe makes of answers, asked over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.ports import Ports
from python_backend.launcher.probe import Health, Probe


@contextmanager
def answering(status: int, body: str, delay_s: float = 0.0) -> Iterator[tuple[str, list[tuple[str, object]]]]:
    """A server that gives one answer to everything; its URL, and the paths and bodies it was asked."""
    asked: list[tuple[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.do_GET()

        def do_GET(self) -> None:
            time.sleep(delay_s)
            with suppress(BrokenPipeError):  # nobody waited
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

        def log_message(self, format: str, *values: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


def probe(url: str) -> Probe:
    return Probe(url, f"{url}/metrics", {"ensemble": {"text_input": "Hello", "max_tokens": 1}}, timeout_s=0.5)


@pytest.mark.parametrize(
    ("status", "body", "health", "detail"),
    [
        (200, '{"text_output": "!"}', Health.SERVING, ""),
        (200, '{"text_output": "an \\"error\\""}', Health.SERVING, ""),
        (
            200,
            '{"error": "generate expects 1 response"}',
            Health.FAILING,
            "ensemble answered: generate expects 1 response",
        ),
        (
            400,
            '{"error": "Stub process \'m_0_0\' is not healthy."}',
            Health.DEAD,
            "Stub process 'm_0_0' is not healthy",
        ),
        (400, '{"error": "1024 requests are waiting; max_queue_size is 1024."}', Health.BUSY, None),
        (503, '{"error": "Exceeds maximum queue size"}', Health.BUSY, None),
        (500, '{"error": "Maximum queue size of 8 has been reached, please try again later"}', Health.BUSY, None),
        (400, '{"error": "At: queue.py(171): get"}', Health.FAILING, "ensemble answered: At: queue.py(171): get"),
        (400, '{"error": "the engine failed"}', Health.FAILING, "ensemble answered: the engine failed"),
        (500, "no JSON", Health.FAILING, "ensemble answered: no JSON"),
    ],
)
def test_answers(status: int, body: str, health: Health, detail: str | None) -> None:
    with answering(status, body) as (url, _):
        verdict = probe(url).ask()
    assert verdict.health is health
    assert detail is None or verdict.detail == detail


def test_no_answer_in_time() -> None:
    with answering(200, "{}", delay_s=1.0) as (url, _):
        verdict = probe(url).ask()
    assert (verdict.health, verdict.detail) == (Health.LATE, "ensemble did not answer within 0.5 s")


def test_answer_that_breaks_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

        answering = threading.Thread(target=answer)
        answering.start()
        verdict = probe(f"http://127.0.0.1:{server.getsockname()[1]}").ask()
        answering.join()
    assert verdict.health is Health.FAILING


def test_asks_without_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{Ports.free().http}")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(200, "{}") as (url, _):
        assert probe(url).ask().health is Health.SERVING


def test_no_server() -> None:
    verdict = probe(f"http://127.0.0.1:{Ports.free().http}").ask()
    assert verdict.health is Health.FAILING
    assert "cannot be reached" in verdict.detail


def repository(directory: Path, *models: str, inputs: str = "") -> ModelRepository:
    for model in models:
        (directory / model).mkdir()
        (directory / model / "config.pbtxt").write_text(f'backend: "python" {inputs}')
    return ModelRepository.load(directory, "tensorrt_llm")


@pytest.mark.parametrize(
    ("models", "asked"),
    [
        (["ensemble", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls"], ["ensemble", "tensorrt_llm_bls"]),
        (["tensorrt_llm", "preprocessing"], ["tensorrt_llm"]),
    ],
)
def test_asks_where_clients_ask(tmp_path: Path, models: list[str], asked: list[str]) -> None:
    with answering(200, "{}") as (url, requests):
        found = Probe.of(repository(tmp_path, *models), url, url)
        assert found is not None
        found.ask()
    assert [path for path, _ in requests] == [f"/v2/models/{model}/generate" for model in asked]


def test_goes_ahead_of_others_where_priorities_are_known(tmp_path: Path) -> None:
    found = Probe.of(repository(tmp_path, "tensorrt_llm", inputs='input { name: "priority" }'), "", "")
    assert found is not None
    assert found.bodies == {
        "tensorrt_llm": {"input_ids": [1], "input_lengths": 1, "request_output_len": 1, "priority": 1.0}
    }


def test_nothing_to_ask(tmp_path: Path) -> None:
    assert Probe.of(repository(tmp_path, "other"), "", "") is None


def test_reads_the_step_counter_of_the_engine() -> None:
    metrics = (
        'nv_trt_llm_general_metrics{general_type="timestamp",model="tensorrt_llm",version="1"} 5.0\n'
        'nv_trt_llm_general_metrics{general_type="iteration_counter",model="tensorrt_llm",version="1"} 41\n'
        'nv_trt_llm_general_metrics{model="draft",general_type="iteration_counter"} 1.0\n'
    )
    with answering(200, metrics) as (url, _):
        assert probe(url).engine_steps() == 42.0
    with answering(200, "") as (url, _):
        assert probe(url).engine_steps() is None
    assert probe(f"http://127.0.0.1:{Ports.free().http}").engine_steps() is None
