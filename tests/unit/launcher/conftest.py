"""Every test has a cache directory of its own, and must leave no shared memory and no process of ours behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from python_backend.launcher.process import command_lines
from python_backend.launcher.run import SHARED_MEMORY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache directory, in which run directories show whose they are."""
    for name in [name for name in os.environ if name.startswith("SLIPSTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    before = _regions()  # of servers that other tests of this process share
    yield tmp_path / "cache/slipstream"
    assert _regions() <= before
    assert not list((tmp_path / "cache/slipstream").glob("run/*"))
    assert not [pid for pid, arguments in command_lines() if str(tmp_path) in " ".join(arguments)]


def _regions() -> set[Path]:
    """The shared memory of servers that this process started."""
    return set(SHARED_MEMORY.glob(f"slipstream_{os.getpid()}_*"))
