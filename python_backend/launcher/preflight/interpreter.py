"""The Python that runs the models: found, supported, with packages its stub can live with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from python_backend.finding import Finding
from python_backend.pins import NEWEST_PYTHON, NUMPY_BELOW, OLDEST_PYTHON

# -I as in the stub's embedded interpreter: neither PYTHONPATH nor the current directory counts.
INSPECT = [
    "-I",
    "-c",
    "import importlib.metadata as m, importlib.util as u, json, os, sys\n"
    "numpy = [d.version for d in m.distributions() if d.name == 'numpy']\n"
    "ours = u.find_spec('python_backend')\n"
    "where = ours and ours.origin and os.path.dirname(os.path.realpath(ours.origin))\n"
    "print(json.dumps([list(sys.version_info[:2]), sys.prefix, numpy[0] if numpy else None, where]))",
]


@dataclass(frozen=True, slots=True)
class StubInterpreter:
    """The Python environment that models will see."""

    version: tuple[int, int]
    prefix: Path
    numpy: str | None
    package: Path | None  # where it would import python_backend from by itself

    @classmethod
    def on_path(cls, environment: Mapping[str, str]) -> StubInterpreter:
        """The one of ``python3`` on this PATH, as the stub decides. OSError or SubprocessError if it is broken."""
        command = ["/usr/bin/env", "python3", *INSPECT]
        printed = subprocess.run(command, env=dict(environment), capture_output=True, check=True, timeout=60).stdout
        version, prefix, numpy, package = json.loads(printed)
        return cls((version[0], version[1]), Path(prefix), numpy, Path(package) if package else None)


def check_wheel_interpreter(interpreter: StubInterpreter, expected_prefix: Path, package: Path) -> Iterator[Finding]:
    """For the wheel's stub: version, environment, numpy, and no other ``python_backend`` than the ``package`` here."""
    yield _version(interpreter.version)
    yield _prefix(interpreter.prefix, expected_prefix)
    yield _numpy(interpreter.numpy)
    yield _same_package(interpreter.package, package)


def check_image_interpreter(interpreter: StubInterpreter, expected_prefix: Path, package: Path) -> Iterator[Finding]:
    """For the image, which chose version and numpy itself: environment, and an installed ``python_backend``."""
    yield _prefix(interpreter.prefix, expected_prefix)
    yield _installed_package(interpreter.package, package)


def _version(version: tuple[int, int]) -> Finding:
    seen = f"{version[0]}.{version[1]}"
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        return Finding("Python", seen)
    allowed = f"{OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} to {NEWEST_PYTHON[0]}.{NEWEST_PYTHON[1]}"
    return Finding("Python", seen, f"Use {allowed}: Triton's stub needs numpy 1, which no other version has.")


def _prefix(seen: Path, expected: Path) -> Finding:
    if seen.resolve() == expected.resolve():
        return Finding("environment of models", str(seen))
    return Finding(
        "environment of models",
        f"python3 on PATH belongs to {seen}, the launcher to {expected}",
        f"Put {expected / 'bin'} first on PATH, with a python3 in it.",
    )


def _numpy(version: str | None) -> Finding:
    remedy = f"Run `pip install 'numpy<{NUMPY_BELOW}'`: the stub aborts on string tensors otherwise."
    if version is None:
        return Finding("numpy", "not installed", remedy)
    return Finding("numpy", version, None if int(version.partition(".")[0]) < NUMPY_BELOW else remedy)


def _same_package(seen: Path | None, expected: Path) -> Finding:
    if seen is None:
        return Finding("python_backend", f"{expected}, linked for the models")
    if seen.resolve() == expected.resolve():
        return Finding("python_backend", str(seen))
    return Finding(
        "python_backend",
        f"models would import it from {seen}, the launcher runs from {expected}",
        "Remove the other one with `pip uninstall slipstream`, or start the server with that one.",
    )


def _installed_package(seen: Path | None, source: Path) -> Finding:
    if seen is not None:
        return Finding("python_backend", str(seen))
    return Finding("python_backend", "not installed", f"Run `pip install --no-deps {source.parent}`: models import it.")
