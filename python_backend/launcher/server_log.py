"""Reading the server's log: what a user wants to see of it, and why a start failed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import python_backend.errors

# E1122 11:20:36.985832 5247 model_lifecycle.cc:642] "failed to load 'm' version 1: ..."   (the text is a JSON string)
ENTRY = re.compile(r'^(?P<level>[EWIF])\d{4} \S+ \d+ (?P<file>[\w.]+):\d+\] (?P<text>".*"|.*)$')
FAILED_TO_LOAD = re.compile(r"^failed to load '(?P<model>[^']+)' version \d+: (?P<cause>.*)$", re.DOTALL)
POLL_FAILED = re.compile(r"^Poll failed for model directory '(?P<model>[^']+)': (?P<cause>.*)$", re.DOTALL)
PROTOBUF = re.compile(r"^\[libprotobuf ERROR .*?\] (?P<cause>.*)$")
# "error: creating server: Internal - failed to load all models", "failed to start HTTP service: Unavailable - ..."
SERVER_ERROR = re.compile(r"^(?:error: )?(?:creating|failed to start) .*?: (?P<cause>.*)$")
PYTHON_ERROR = re.compile(r"^(?P<type>[\w.]+): (?P<message>.*?)(?:\n\nAt:\n(?P<where>.*))?$", re.DOTALL)

# What Triton says on every machine without a GPU, and what the launcher says better itself.
NOISE = re.compile(
    r"CudaDriverHelper has not been initialized|create stream for ensemble: CUDA|allocate pinned system memory"
    r"|Failed to initialize NVML|DCGM unable to start|^Signal \(\d+\) received|failed to load '"
    r"|Failed to create instance|^error: creating server|Poll failed for model directory"
)
OWN_ERRORS = {name for name in vars(python_backend.errors) if name[0].isupper()}


class LogFollower:
    """Hands out the lines of a growing file, each once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[str]:
        """The lines finished since the last call."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                text = log.read()
        except FileNotFoundError:  # somebody tidied up: no reason for the server to end
            return []
        end = text.rfind(b"\n") + 1
        self._offset += end
        return text[:end].decode(errors="replace").splitlines()


def is_worth_showing(line: str) -> bool:
    """Warnings and errors of the server and all that models write; not tables, routine, nor the noise without a GPU."""
    if not line.strip() or line.startswith(("+-", "| ")) or NOISE.search(line):
        return False
    entry = ENTRY.match(line)
    return entry is None or entry["level"] != "I" or entry["file"].endswith(".py")


def failure_reason(log: str) -> str | None:
    """Why the server did not start, in one line where possible; None when the log does not say."""
    lines = log.splitlines()
    texts = [_text(line) for line in lines]
    loads = [match for match in map(FAILED_TO_LOAD.match, texts) if match]
    # An ensemble that misses a model which failed on its own account is only a consequence.
    causes = [match for match in loads if "Internal:" in match["cause"]] or loads
    if causes:
        return _joined(_model_failure(match["model"], match["cause"]) for match in causes)
    polls = [match for match in map(POLL_FAILED.match, texts) if match]
    if polls:
        details = [match["cause"] for match in map(PROTOBUF.match, lines) if match]
        return _joined([f"{match['model']}: {match['cause']}" for match in polls] + details)
    errors = [match["cause"].partition(" - ")[2] or match["cause"] for match in map(SERVER_ERROR.match, texts) if match]
    return _joined(errors) if errors else None


def _text(line: str) -> str:
    entry = ENTRY.match(line)
    if entry is None:
        return line
    if not entry["text"].startswith('"'):
        return entry["text"]
    try:
        return str(json.loads(entry["text"]))
    except ValueError:  # Triton escapes a little differently from JSON in rare cases; the raw text still reads well
        return entry["text"].strip('"')


def _model_failure(model: str, cause: str) -> str:
    """The message alone if it is one of ours, which say what to do; else with the model, the type and the place."""
    cause = cause.removeprefix("Internal: ")
    error = PYTHON_ERROR.match(cause)
    if error is None:
        return f"model {model!r} could not be loaded: {cause}"
    message = error["message"].strip()
    if error["type"].rpartition(".")[2] in OWN_ERRORS:
        return message
    where = f" (at {error['where'].strip().splitlines()[0].strip()})" if error["where"] else ""
    return f"model {model!r} could not be loaded: {error['type']}: {message}{where}"


def _joined(messages: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(messages))
