"""Directories that appear complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from python_backend.errors import SetupError

_WORK, _ASIDE, _LOCK = "work", "old", "lock"


@contextmanager
def publishing(directory: Path, *, known_by: str) -> Iterator[Path]:
    """A draft directory beside ``directory`` that takes its place when the block ends without an error.

    What ``directory`` held before is replaced; after an error it is untouched and the draft is gone. A process that
    is killed leaves a hidden folder, never a half-written ``directory``; whoever publishes there next puts back what
    it had moved aside, and clears the rest. Raises SetupError while another process publishes there, and rather than
    replace something else: a directory with files, but none called ``known_by``.
    """
    with workplace(directory, "draft") as draft:
        if directory.exists() and not (directory / known_by).is_file() and any(directory.iterdir()):
            raise SetupError(f"{directory} is in use and has no {known_by}: name another directory, or empty this one.")
        try:
            yield draft
            if directory.exists():
                directory.rename(draft.with_name(_ASIDE))
            draft.rename(directory)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SetupError(
                    f"{directory} cannot be written ({error.strerror}). Make room and try again."
                ) from error
            raise


@contextmanager
def workplace(directory: Path, purpose: str) -> Iterator[Path]:
    """An empty folder, hidden beside ``directory``, that is this block's alone and is gone when the block ends.

    Raises SetupError while another process has it for the same ``purpose``.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    hidden = directory.with_name(f".{directory.name}.{purpose}")
    lock = _locked(hidden, directory)
    try:
        _put_back(directory, hidden)
        for left in (_WORK, _ASIDE):
            shutil.rmtree(hidden / left, ignore_errors=True)
        work = hidden / _WORK
        work.mkdir()
        yield work
    finally:
        _put_back(directory, hidden)
        shutil.rmtree(hidden, ignore_errors=True)  # What resists is cleared by the next block.
        os.close(lock)


def _locked(hidden: Path, directory: Path) -> int:
    """A descriptor whose lock ends with this process, however that ends."""
    while True:
        hidden.mkdir(exist_ok=True)
        try:
            lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # The folder's last owner has just removed it.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise SetupError(f"another process is making {directory}. Wait for its end, then try again.") from error
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)


def _put_back(directory: Path, hidden: Path) -> None:
    """After an end between the two renames of a replacement."""
    if (hidden / _ASIDE).exists() and not directory.exists():
        (hidden / _ASIDE).rename(directory)
