"""Facts about processes, read from /proc: which are alive, what they run, which one listens on a port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"  # socket state in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Owner:
    """A process for good: the kernel reuses a pid, but not together with its start time (clock ticks since boot)."""

    pid: int
    start_ticks: int

    @classmethod
    def me(cls) -> Owner:
        """The calling process."""
        ticks = start_ticks(os.getpid())
        assert ticks is not None, "a running process has an entry in /proc"
        return cls(os.getpid(), ticks)

    @property
    def is_alive(self) -> bool:
        """Whether exactly this process still runs; a zombie does not."""
        return start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """When the process started, or None when there is none or only a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name, in parentheses before, may hold anything
    return None if fields[0] == "Z" else int(fields[19])


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Pid and arguments of every process we may look at."""
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        yield int(entry.name), arguments.decode(errors="replace").split("\0")


def listener(port: int) -> str | None:
    """Who listens on a TCP port, such as ``tritonserver (pid 4711)``; None when that cannot be known."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for pid, arguments in command_lines() if sockets else ():
        if any(target in sockets for target in _open_files(pid)):
            return f"{Path(arguments[0]).name} (pid {pid})"
    return None


def _open_files(pid: int) -> Iterator[str]:
    with suppress(PermissionError, FileNotFoundError):  # another user's, or ended meanwhile
        for entry in (PROC / str(pid) / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                yield os.readlink(entry)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (PROC / "net/tcp", PROC / "net/tcp6"):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield inode
