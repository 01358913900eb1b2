"""Hashes that tell whether something must be built again: of its inputs, and of the code that builds it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

#: Files from this size on are hashed once and remembered: a large model takes minutes to read.
_REMEMBERED_BYTES = 64 * 1024 * 1024


def sha256_of(*files: Path) -> str:
    """One hexadecimal SHA-256 over the contents of ``files``, in order."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(bytes.fromhex(_remembered(path)))
    return whole.hexdigest()


def builder_sha256(*packages: str) -> str:
    """Of the source of this package, or some parts of it: another builder may make something else of the same input."""
    root = Path(__file__).parent
    folders = [root / package for package in packages] or [root]
    return sha256_of(*sorted(path for folder in folders for path in folder.rglob("*.py")))


def _remembered(path: Path) -> str:
    status = path.stat()
    if status.st_size < _REMEMBERED_BYTES:
        return _sha256(path)
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    known = _read(_memory())
    if key not in known:
        known[key] = _sha256(path)
        _write(_memory(), known)
    return known[key]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memory() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "slipstream" / "sha256.json"


def _read(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # None yet, or damaged: it is only a memory.
        return {}
    return known if isinstance(known, dict) else {}


def _write(memory: Path, known: dict[str, str]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=memory.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(known, file)
        Path(draft).replace(memory)
    except OSError:  # A home that cannot be written costs time, not correctness.
        return
