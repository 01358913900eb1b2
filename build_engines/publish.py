"""Directories that appear complete or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from python_backend.errors import SetupError


@contextmanager
def publishing(directory: Path, *, known_by: str) -> Iterator[Path]:
    """A draft directory beside ``directory`` that takes its place when the block ends without an error.

    What ``directory`` held before is replaced; after an error it is untouched and the draft is gone. A process that
    is killed may leave a hidden draft behind (and, between the two renames of a replacement, the old content beside
    it), never a half-written ``directory``. Raises SetupError rather than replace something else: a directory with
    files, but none called ``known_by``.
    """
    if directory.exists() and not (directory / known_by).is_file() and any(directory.iterdir()):
        raise SetupError(f"{directory} is in use and has no {known_by}: name another directory, or empty this one.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        draft = workplace / "new"
        draft.mkdir()
        yield draft
        _replace(directory, draft, aside=workplace / "old")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SetupError(f"{directory} cannot be written ({error.strerror}). Make room and try again.") from error
        raise
    finally:
        shutil.rmtree(workplace)


def _replace(directory: Path, draft: Path, *, aside: Path) -> None:
    if not directory.exists():
        draft.rename(directory)
        return
    directory.rename(aside)
    try:
        draft.rename(directory)
    except OSError:
        aside.rename(directory)
        raise
