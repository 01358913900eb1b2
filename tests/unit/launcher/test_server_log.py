"""Logs as tritonserver 2.51 writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from python_backend.launcher.server_log import LogFollower, failure_reason, is_worth_showing

STUB = 'I1122 11:20:36.801370 5247 pb_stub.cc:366] "Failed to initialize Python stub: {cause}\\n\\nAt:\\n  {at}\\n"'
LOAD = "E1122 11:20:36.985832 5247 model_lifecycle.cc:642] \"failed to load '{model}' version 1: {cause}\""
AT = "/m/1/model.py(4): initialize"


def log_of(cause: str) -> str:
    """The log of a server one of whose models fails, on which an ensemble depends."""
    missing = "Invalid argument: ensemble 'ensemble' depends on 'm' which has no loaded version."
    return "\n".join(
        [
            STUB.format(cause=cause, at=AT),
            LOAD.format(model="ensemble", cause=missing),
            LOAD.format(model="m", cause=rf"Internal: {cause}\n\nAt:\n  {AT}\n"),
            "I1122 11:20:36.985865 5247 model_lifecycle.cc:777] \"failed to load 'm'\"",
            "error: creating server: Internal - failed to load all models",
        ]
    )


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (log_of(r"SetupError: no \"engine\".\nRun `build`."), 'no "engine".\nRun `build`.'),
        (
            log_of("KeyError: 'x'"),
            "model 'm' could not be loaded: KeyError: 'x' (at /m/1/model.py(4): initialize)",
        ),
        (
            '[libprotobuf ERROR /a/text_format.cc:337] Error parsing text-format: 1:22: no field named "foo".\n'
            "E1122 11:20:40.013087 5314 model_repository_manager.cc:1460] "
            "\"Poll failed for model directory 'm': failed to read text proto from /m/config.pbtxt\"\n"
            "error: creating server: Internal - failed to load all models\n",
            'm: failed to read text proto from /m/config.pbtxt\nError parsing text-format: 1:22: no field named "foo".',
        ),
        ("error: creating server: Internal - failed to stat file repo9\n", "failed to stat file repo9"),
        (
            "failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use \n",
            "Socket '127.0.0.1:8000' already in use ",
        ),
        ('I1122 11:20:37.9 5 server.cc:345] "Timeout 9"\n', None),
    ],
)
def test_failure_reason(log: str, reason: str | None) -> None:
    assert failure_reason(log) == reason


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('E1122 11:19:54.7 4955 server.cc:241] "CudaDriverHelper has not been initialized."', False),
        ('W1122 11:19:54.9 4955 metrics.cc:798] "DCGM unable to start: DCGM initialization error"', False),
        ("Error: Failed to initialize NVML", False),
        ('I1122 11:19:54.9 4955 http_server.cc:4713] "Started HTTPService at 127.0.0.1:18700"', False),
        ("| ensemble | 1       | READY  |", False),
        ("+----------+---------+--------+", False),
        ("", False),
        ('I1122 11:19:54.9 4955 model.py:9] "engine_dir=engines/x (config.pbtxt)"', True),
        ('W1122 11:19:54.9 4955 infer_handler.cc:1] "something odd"', True),
        ("Traceback (most recent call last):", True),
        ("malloc(): unaligned tcache chunk detected", True),
    ],
)
def test_is_worth_showing(line: str, shown: bool) -> None:
    assert is_worth_showing(line) is shown


def test_follower_hands_out_each_line_once_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    follower = LogFollower(path)
    assert follower.new_lines() == ["one"]
    assert follower.new_lines() == []
    with path.open("ab") as log:
        log.write(b"o\nthree\n")
    assert follower.new_lines() == ["two", "three"]
    path.unlink()
    assert follower.new_lines() == []
