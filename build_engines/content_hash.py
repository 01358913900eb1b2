"""Hashes that tell whether something must be built again: of its inputs, and of the code that builds it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(*files: Path) -> str:
    """One hexadecimal SHA-256 over the contents of ``files``, in order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def builder_sha256() -> str:
    """Of this package's source: another builder may make something else of the same input."""
    return sha256_of(*sorted(Path(__file__).parent.rglob("*.py")))
