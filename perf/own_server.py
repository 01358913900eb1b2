"""A server of our own to load: Slipstream's model repository on free ports, gone when the work is done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from python_backend.launcher.command import ServerOptions
from python_backend.launcher.ports import Ports
from python_backend.launcher.server import TritonServer

PROFILE = "cpu"


@contextmanager
def own_server(
    model_repository: Path,
    engine_dir: Path,
    models: tuple[str, ...] = (),
    *,
    parameters: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[TritonServer]:
    """A ready server with ``models``, or all; with ``parameters``, by model, from a copy of the repository with those.

    SetupError when it cannot start, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="slipstream-perf-") as scratch:
        if parameters:
            model_repository = _copy(model_repository, Path(scratch), parameters)
        options = ServerOptions(
            model_repository=model_repository,
            profile=PROFILE,
            engine_dir=engine_dir,
            models=models,
            ports=Ports.free(),
        )
        with TritonServer(options) as server:
            yield server


def _copy(model_repository: Path, scratch: Path, parameters: Mapping[str, Mapping[str, str]]) -> Path:
    copy = scratch / "model_repository"
    shutil.copytree(model_repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for model, values in parameters.items():
        path = copy / model / "configs" / f"{PROFILE}.pbtxt"
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for key, value in values.items():
            config.parameters[key].string_value = value
        path.write_text(text_format.MessageToString(config))
    return copy
