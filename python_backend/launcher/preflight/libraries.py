"""The programs of the server, and the shared libraries they load."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from python_backend.finding import Finding


def check_program(what: str, path: Path, installation: str) -> Finding:
    """The file exists."""
    if path.is_file():
        return Finding(what, str(path))
    return Finding(
        what, f"{path} does not exist", f"Reinstall {installation}; for a stub, use a Python it has one for."
    )


def missing_libraries(path: Path, environment: Mapping[str, str]) -> list[str]:
    """Names of the libraries that the dynamic loader would not find."""
    listing = subprocess.run(["ldd", path], env=dict(environment), capture_output=True, text=True, timeout=60).stdout
    return [line.split()[0] for line in listing.splitlines() if line.endswith("not found")]


def check_libraries(what: str, missing: list[str]) -> Finding:
    """Nothing is missing. A stub without its libraries makes the server wait for it without end."""
    check = f"libraries of the {what}"
    if not missing:
        return Finding(check, "all found")
    remedy = "Reinstall the server's package."
    if any(name.startswith("libpython") for name in missing):
        remedy = (
            "Use a Python built as shared library (--enable-shared), or install libpython from the system's packages."
        )
    return Finding(check, f"{', '.join(missing)} not found", remedy)
