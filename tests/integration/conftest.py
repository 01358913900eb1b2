"""Real servers for the tests of this folder. Nothing here stands in for Triton or for an engine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from python_backend.launcher.command import ServerOptions
from python_backend.launcher.ports import Ports
from python_backend.launcher.server import TritonServer
from tests import tiny_llama

ROOT = Path(__file__).parents[2]
MODEL_REPOSITORY = ROOT / "model_repository"
DEMO_ENGINE = ROOT / "engines" / "smollm2-135m-int8"


def edited_repository(folder: Path, **parameters: str) -> Path:
    """A copy of the model repository whose CPU profiles were edited as an operator would: one value each."""
    repository = folder / "model_repository"
    shutil.copytree(MODEL_REPOSITORY, repository, symlinks=True)
    for path in (repository / "tensorrt_llm" / "configs").glob("*.pbtxt"):
        text = path.read_text()
        for key, value in parameters.items():
            text, count = re.subn(rf'(key: "{key}" value {{ string_value: )"[^"]*"', rf'\1"{value}"', text)
            assert count == 1, f"{path.name} has {count} parameters {key}"
        path.write_text(text)
    return repository


@contextmanager
def serving(repository: Path, engine_dir: Path, profile: str = "cpu") -> Iterator[TritonServer]:
    """A server that is ready; afterwards it has drained and left nothing behind."""
    options = ServerOptions(
        model_repository=repository, engine_dir=engine_dir, profile=profile, ports=Ports.free(), models=()
    )
    with TritonServer(options) as server:
        yield server


@pytest.fixture(scope="session")
def demo_engine() -> Path:
    """The engine of the demo model, which `make` builds before it runs the tests."""
    assert DEMO_ENGINE.is_dir(), f"{DEMO_ENGINE} is missing; `make test` builds it"
    return DEMO_ENGINE


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of a tiny random Llama: its answers are random ids, so any bytes in any order."""
    return tiny_llama.engine(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_engine: Path) -> Path:
    """The checkpoint that ``tiny_engine`` was compiled from."""
    return tiny_engine.parent / "checkpoint"


@pytest.fixture(scope="session")
def demo_server(demo_engine: Path) -> Iterator[TritonServer]:
    """The demo model as `make serve` serves it."""
    with serving(MODEL_REPOSITORY, demo_engine) as server:
        yield server


@pytest.fixture(scope="session")
def exact_server(demo_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The demo model in exact mode."""
    repository = edited_repository(tmp_path_factory.mktemp("exact"), execution_mode="exact")
    with serving(repository, demo_engine) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The tiny model in exact mode."""
    repository = edited_repository(tmp_path_factory.mktemp("tiny_repository"), execution_mode="exact")
    with serving(repository, tiny_engine) as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., object]:
    """For tests that need a server of their own: ``with serve(engine_dir, key=value) as server``."""

    @contextmanager
    def start(engine_dir: Path, profile: str = "cpu", **parameters: str) -> Iterator[TritonServer]:
        with serving(edited_repository(tmp_path, **parameters), engine_dir, profile) as server:
            yield server

    return start
