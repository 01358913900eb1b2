"""Where a tritonserver is installed, and what it needs to run: the one of the wheel, or the one of NVIDIA's image."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import python_backend
from python_backend.errors import SetupError
from python_backend.pins import PYTRITON, TRITON_IMAGE

STUB = "triton_python_backend_stub"
PACKAGE = Path(python_backend.__file__).parent


class ServerInstallation(Protocol):
    """A tritonserver with its backends."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def binary(self) -> Path:
        """The server."""

    @property
    def stub(self) -> Path:
        """The program that runs Python models; made for one minor version of Python."""

    @property
    def python(self) -> Path:
        """The interpreter whose packages the models see."""

    @property
    def backends(self) -> frozenset[str]:
        """Names of the backends it has."""

    def prepare(self, directory: Path) -> None:
        """Puts into an empty run directory what ``arguments`` refers to."""

    def arguments(self, directory: Path) -> list[str]:
        """Arguments for tritonserver that belong to the installation."""

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """``base`` changed so that server and stubs find their libraries and packages."""


@dataclass(frozen=True, slots=True)
class WheelInstallation:
    """The server of the ``nvidia-pytriton`` wheel, which needs no GPU and no container.

    The wheel keeps stub and backend apart, while Triton wants them in one directory, so each run gets a directory of
    symbolic links. Links, not copies: the stub finds its libraries relative to where it really lies.
    """

    tree: Path  # .../site-packages/pytriton/tritonserver
    python: Path  # of the virtual environment
    library_dirs: tuple[Path, ...]  # where libpython is
    python_version: tuple[int, int] = sys.version_info[:2]
    package: Path = PACKAGE

    @classmethod
    def find(cls) -> WheelInstallation | None:
        """The wheel in the environment of this interpreter, if any."""
        spec = find_spec("pytriton")
        if spec is None or spec.origin is None:
            return None
        # python-build-standalone records a LIBDIR of the machine it was built on; base_prefix is always true.
        candidates = (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix, "lib"))
        libpython = sysconfig.get_config_var("INSTSONAME")
        return cls(
            tree=Path(spec.origin).parent / "tritonserver",
            python=Path(sys.executable),
            library_dirs=tuple(Path(found) for found in candidates if found and Path(found, libpython).exists())[:1],
        )

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"nvidia-pytriton {version('nvidia-pytriton')}"

    @property
    def binary(self) -> Path:
        """The server."""
        return self.tree / "bin/tritonserver"

    @property
    def stub(self) -> Path:
        """The stub for this interpreter's minor version."""
        major, minor = self.python_version
        return self.tree / f"python_backend_stubs/{major}.{minor}" / STUB

    @property
    def backends(self) -> frozenset[str]:
        """Only Python models; the wheel carries nothing else."""
        return frozenset({"python"})

    def prepare(self, directory: Path) -> None:
        """Builds the directory of links, with the very ``python_backend`` that launches, so models import the same."""
        backend = directory / "backends/python"
        backend.mkdir(parents=True)
        for target in (
            self.tree / "backends/python/libtriton_python.so",
            self.tree / "backends/python/triton_python_backend_utils.py",
            self.stub,
            self.package,
        ):
            (backend / target.name).symlink_to(target)
        (directory / "caches").mkdir()
        (directory / "caches/local").symlink_to(self.tree / "caches/local")

    def arguments(self, directory: Path) -> list[str]:
        """Where the links are, and no GPU features, which would only fill the log with warnings."""
        return [
            f"--backend-directory={directory / 'backends'}",
            f"--cache-directory={directory / 'caches'}",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        ]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The stub finds its packages through the ``python3`` on PATH, and libpython through LD_LIBRARY_PATH."""
        libraries = (self.tree.parents[1] / "nvidia_pytriton.libs", *self.library_dirs)
        return {
            **base,
            "PATH": _joined([self.python.parent], base.get("PATH")),
            "LD_LIBRARY_PATH": _joined(libraries, base.get("LD_LIBRARY_PATH")),
        }


@dataclass(frozen=True, slots=True)
class ImageInstallation:
    """The server of NVIDIA's image, which finds everything itself."""

    root: Path = Path("/opt/tritonserver")
    python: Path = Path(sys.executable)

    @classmethod
    def find(cls, root: Path = Path("/opt/tritonserver")) -> ImageInstallation | None:
        """The image that this process runs in, if any."""
        return cls(root) if (root / "bin/tritonserver").exists() else None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"the Triton of this image, {self.root}"

    @property
    def binary(self) -> Path:
        """The server."""
        return self.root / "bin/tritonserver"

    @property
    def stub(self) -> Path:
        """The stub beside the Python backend."""
        return self.root / "backends/python" / STUB

    @property
    def backends(self) -> frozenset[str]:
        """The directories in ``backends/``."""
        directory = self.root / "backends"
        return frozenset(path.name for path in directory.iterdir()) if directory.is_dir() else frozenset()

    def prepare(self, directory: Path) -> None:
        """Nothing to prepare."""

    def arguments(self, directory: Path) -> list[str]:
        """None: the built-in directories are right."""
        return []

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Unchanged: the image has set it."""
        return dict(base)


def find_installation() -> ServerInstallation:
    """The wheel of this environment, or else the image around us. SetupError when there is neither."""
    found = WheelInstallation.find() or ImageInstallation.find()
    if found is None:
        raise SetupError(
            f"no tritonserver: neither the wheel nvidia-pytriton in {sys.prefix} nor /opt/tritonserver. "
            f"Run `pip install nvidia-pytriton=={PYTRITON}` there, or start inside {TRITON_IMAGE}."
        )
    return found


def _joined(paths: Iterable[Path], rest: str | None) -> str:
    return ":".join([*map(str, paths), *([rest] if rest else [])])
