"""What a run leaves when its owner was killed: found by the owner that its names carry, and removed."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from python_backend.launcher.process import PROC, Owner, command_lines
from python_backend.launcher.run import NAME, SHARED_MEMORY, cache_root

OUR_PROGRAMS = {"tritonserver", "triton_python_backend_stub"}


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Things of this user's runs whose owner is gone."""

    processes: tuple[int, ...]
    regions: tuple[Path, ...]
    directories: tuple[Path, ...]

    @classmethod
    def find(cls, root: Path | None = None, shared_memory: Path = SHARED_MEMORY) -> Leftovers:
        """Looks at processes, shared memory and run directories; whatever a living owner has is left alone."""
        return cls(
            processes=tuple(
                pid
                for pid, (program, *arguments) in command_lines()
                if Path(program).name in OUR_PROGRAMS
                and any(map(_is_orphaned, arguments))
                and _is_mine(PROC / str(pid))
            ),
            regions=tuple(
                path for path in shared_memory.glob("slipstream_*") if _is_orphaned(path.name) and _is_mine(path)
            ),
            directories=tuple(
                path
                for path in (root or cache_root()).glob("run/slipstream_*")
                if _is_orphaned(path.name) and _is_mine(path)
            ),
        )

    def __bool__(self) -> bool:
        return bool(self.processes or self.regions or self.directories)

    def __str__(self) -> str:
        counts = {
            "process": len(self.processes),
            "shared memory region": len(self.regions),
            "run directory": len(self.directories),
        }
        return ", ".join(f"{count} x {what}" for what, count in counts.items() if count) or "nothing"

    def remove(self) -> None:
        """Kills the processes first, since they hold the rest."""
        for pid in self.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for region in self.regions:
            region.unlink(missing_ok=True)
        for directory in self.directories:
            with suppress(FileNotFoundError):  # another start removes it too
                shutil.rmtree(directory)


def _is_orphaned(text: str) -> bool:
    match = NAME.search(text)
    return match is not None and not Owner(int(match["pid"]), int(match["start_ticks"])).is_alive


def _is_mine(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except FileNotFoundError:  # gone meanwhile
        return False
