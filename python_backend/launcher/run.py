"""What one start of the server owns outside its process: a directory, a log file, a prefix in /dev/shm."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from python_backend.errors import SetupError
from python_backend.launcher.process import Owner

SHARED_MEMORY = Path("/dev/shm")
LOGS_KEPT = 20
# slipstream_<pid>_<start ticks>_<serial>_: names the owner, so that a later start can tell what nobody owns any more.
NAME = re.compile(r"slipstream_(?P<pid>\d+)_(?P<start_ticks>\d+)_(?P<serial>\d+)_")

_serials = count(1)


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Where runs and logs live: ``slipstream`` in ``$XDG_CACHE_HOME`` if that is set, else a folder in /tmp."""
    if xdg := environment.get("XDG_CACHE_HOME"):
        return Path(xdg).absolute() / "slipstream"
    return Path(tempfile.gettempdir()) / f"slipstream-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a server by one owner."""

    root: Path
    owner: Owner
    serial: int

    @classmethod
    def new(cls, root: Path | None = None) -> Run:
        """A run of the calling process that no other run shares a name with."""
        return cls(root or cache_root(), Owner.me(), next(_serials))

    @property
    def name(self) -> str:
        """Begins every shared memory region of this run, and is the name of its directory."""
        return f"slipstream_{self.owner.pid}_{self.owner.start_ticks}_{self.serial}_"

    @property
    def directory(self) -> Path:
        """Where the server finds its backends; removed with the run."""
        return self.root / "run" / self.name

    @property
    def log_path(self) -> Path:
        """Everything the server wrote; stays after the run, the newest ``LOGS_KEPT`` of them beside those in use."""
        return self.root / "logs" / f"{self.name.rstrip('_')}.log"

    def create(self) -> None:
        """Makes the directories, for this user only. SetupError when others could put their files in place of ours."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Anybody may have made the one in /tmp before us, and could then exchange the backends that the server loads.
        owners = {self.root.lstat().st_uid, self.root.stat().st_uid}
        if owners != {os.geteuid()} or self.root.stat().st_mode & 0o022:
            raise SetupError(
                f"{self.root} belongs to another user, or others may write to it. "
                "Remove it or `chmod go-w` it, or set XDG_CACHE_HOME to a folder of your own."
            )
        self.directory.mkdir(parents=True)
        self.log_path.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another start tidies up too
            ended = [log for log in self.log_path.parent.glob("slipstream_*.log") if not self._is_running(log)]
            for old in sorted(ended, key=lambda path: path.stat().st_mtime)[: -(LOGS_KEPT - 1)]:
                old.unlink()

    def _is_running(self, log: Path) -> bool:
        return (self.directory.parent / f"{log.stem}_").exists()

    def regions(self) -> Iterator[Path]:
        """The shared memory that the stubs of this run left."""
        return SHARED_MEMORY.glob(f"{self.name}*")

    def remove(self) -> None:
        """Removes directory and shared memory, twice if you like. Every process of the run must have ended."""
        for region in self.regions():
            region.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
