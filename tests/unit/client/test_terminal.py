"""The terminal program: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from client.terminal import main

if TYPE_CHECKING:
    from tests.unit.client.conftest import ScriptedHttpServer

EVENT = 'data: {"text_output":"%s","finish_reason":"%s","num_output_tokens":1}\n\n'


@pytest.fixture
def http(server: ScriptedHttpServer) -> list[str]:
    server.parts = [(EVENT % ("Hé ", "")).encode(), (EVENT % ("日本", "stop")).encode()]
    return ["--protocol", "http", "--url", server.url]


def sent(server: ScriptedHttpServer) -> dict[str, object]:
    body: dict[str, object] = json.loads(server.requests[0][2])
    return body


def test_text_goes_to_standard_output(http: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hi", *http]) == 0
    assert capsys.readouterr() == ("Hé 日本\n", "")


def test_the_prompt_becomes_a_user_turn(http: list[str], server: ScriptedHttpServer) -> None:
    main(["hi", *http])
    assert "<|im_start|>user\nhi<|im_end|>" in str(sent(server)["text_input"])


def test_raw_sends_it_as_it_is(http: list[str], server: ScriptedHttpServer) -> None:
    main(["hi", "--raw", "--max-tokens", "7", "--temperature", "0.5", "--seed", "3", *http])
    assert sent(server) == {
        "text_input": "hi",
        "max_tokens": 7,
        "stream": True,
        "temperature": 0.5,
        "seed": 3,
        "exclude_input_in_output": True,
    }


def test_a_dash_reads_standard_input(
    http: list[str], server: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    main(["-", "--raw", *http])
    assert sent(server)["text_input"] == "from a pipe\n"


def test_no_stream_asks_for_one_piece(
    http: list[str], server: ScriptedHttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content_type, server.parts = "application/json", [b'{"text_output":"all"}']
    assert main(["hi", "--no-stream", *http]) == 0
    assert sent(server)["stream"] is False
    assert capsys.readouterr().out == "all\n"


def test_stats_go_to_standard_error(http: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["hi", "--stats", *http])
    out, err = capsys.readouterr()
    assert out == "Hé 日本\n"
    assert err.startswith("TTFT ")
    assert "2 tokens in 2 chunks" in err
    assert err.endswith("| stop\n")


def test_json_is_a_line_for_each_chunk_and_one_for_all(http: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["hi", "--json", *http])
    first, second, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], second["text"], whole["text"]) == ("Hé ", "日本", "Hé 日本")
    assert 0 < first["received_s"] <= second["received_s"] == whole["duration_s"]
    assert (whole["chunks"], whole["finish_reason"], whole["num_output_tokens"]) == (2, "stop", 2)


def test_a_refusal_is_one_line(http: list[str], server: ScriptedHttpServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.status, server.parts = 400, [b'data: {"error":"first line\\n  second line"}\n\n']
    assert main(["hi", *http]) == 1
    assert capsys.readouterr() == ("", "error: first line second line\n")


def test_what_came_before_an_error_is_shown(
    http: list[str], server: ScriptedHttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.parts.append(b'data: {"error":"the engine broke"}\n\n')
    assert main(["hi", *http]) == 1
    assert capsys.readouterr() == ("Hé 日本\n", "error: the engine broke\n")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_there(protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    url = address if protocol == "grpc" else f"http://{address}"
    assert main(["hi", "--protocol", protocol, "--url", url]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert address in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["caf\udce9"],  # how Python shows a byte of the command line that is not UTF-8
        ["hi", "--max-tokens", "0"],
        ["hi", "--max-tokens", "many"],
        ["hi", "--seed", "-1"],
        ["hi", "--timeout-s", "0"],
        ["hi", "--protocol", "smtp"],
        ["hi", "--url", "http://127.0.0.1:8000"],
        ["hi", "--protocol", "http", "--url", "127.0.0.1:8000"],
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def run(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "client", *arguments]
    # A pipe is block-buffered by default: what comes out early was flushed by the program itself.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_ctrl_c_cancels_the_request(http: list[str], server: ScriptedHttpServer) -> None:
    server.waits_for_hang_up = True
    with run("hi", *http) as process:
        assert process.stdout
        assert process.stdout.read(10) == "Hé 日本".encode()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == (b"\n", b"cancelled\n")
    assert server.hung_up.wait(10)


def test_a_reader_that_leaves_is_no_traceback(http: list[str], server: ScriptedHttpServer) -> None:
    server.parts *= 2000
    with run("hi", *http) as process:
        assert process.stdout
        assert process.stdout.read(4) == "Hé ".encode()
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
    assert process.returncode == 1
