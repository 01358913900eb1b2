"""Directories appear complete or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from build_engines.publish import publishing
from python_backend.errors import SetupError


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_publishes_and_replaces_everything(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "engine"
    with publishing(target, known_by="a") as draft:
        (draft / "a").write_text("old")
        (draft / "b").write_text("old")
    with publishing(target, known_by="a") as draft:
        (draft / "a").write_text("new")
        assert contents(target) == {"a": "old", "b": "old"}
    assert contents(tmp_path) == {"deep/engine/a": "new"}


@pytest.mark.parametrize("before", [{}, {"a": "old"}], ids=["nothing there", "replacing"])
def test_after_an_error_nothing_has_changed(tmp_path: Path, before: dict[str, str]) -> None:
    target = tmp_path / "engine"
    if before:
        target.mkdir()
        (target / "a").write_text("old")

    def fail() -> None:
        with publishing(target, known_by="a") as draft:
            (draft / "a").write_text("half of it")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert contents(tmp_path) == {f"engine/{name}": text for name, text in before.items()}
    assert target.exists() == bool(before)


def test_does_not_replace_what_is_something_else(tmp_path: Path) -> None:
    target = tmp_path / "documents"
    target.mkdir()
    with publishing(target, known_by="a") as draft:  # Empty: nothing is lost.
        (draft / "b").write_text("mine")

    def replace() -> None:
        with publishing(target, known_by="a") as draft:
            (draft / "a").write_text("new")

    with pytest.raises(SetupError, match="documents is in use and has no a"):
        replace()
    assert contents(tmp_path) == {"documents/b": "mine"}


def test_a_full_disk_is_told_with_the_directory(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    full = pytest.raises(SetupError, match=r"engine cannot be written \(No space left on device\)")
    with full, publishing(target, known_by="a"):
        Path("/dev/full").write_text("x")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from build_engines.publish import publishing
target, when = Path(sys.argv[1]), sys.argv[2]
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
with publishing(target, known_by="a") as draft:
    (draft / "a").write_text("new")
    if when == "writing":
        kill()
    rename = Path.rename
    Path.rename = lambda path, to: kill() if path == draft else rename(path, to)
"""


@pytest.mark.parametrize("when", ["writing", "replacing"])
def test_the_next_one_clears_what_a_killed_process_left(tmp_path: Path, when: str) -> None:
    target = tmp_path / "engine"
    target.mkdir()
    (target / "a").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target), when])
    assert killed.returncode == -signal.SIGKILL
    assert contents(tmp_path) != {"engine/a": "old"}

    def fail() -> None:
        with publishing(target, known_by="a"):
            raise OSError("unrelated")

    with pytest.raises(OSError, match="unrelated"):
        fail()
    assert contents(tmp_path) == {"engine/a": "old"}


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    with publishing(target, known_by="a") as draft:
        (draft / "a").write_text("first")
        with pytest.raises(SetupError, match=r"another process is making .*engine"), publishing(target, known_by="a"):
            pass
        with publishing(tmp_path / "other", known_by="a") as other:
            (other / "a").write_text("other")
    assert contents(tmp_path) == {"engine/a": "first", "other/a": "other"}
