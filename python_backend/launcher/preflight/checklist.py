"""All checks, in the order in which their failures explain each other."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from python_backend.engine.gpus import present_gpus
from python_backend.errors import SetupError
from python_backend.finding import Finding
from python_backend.launcher.command import ServerOptions, server_environment
from python_backend.launcher.installation import PACKAGE, ImageInstallation, ServerInstallation
from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.preflight.engine import check_backends, check_engines
from python_backend.launcher.preflight.front_door import check_front_door
from python_backend.launcher.preflight.interpreter import (
    StubInterpreter,
    check_image_interpreter,
    check_wheel_interpreter,
)
from python_backend.launcher.preflight.libraries import check_libraries, check_program, missing_libraries
from python_backend.launcher.preflight.resources import check_ports, check_shared_memory
from python_backend.launcher.ranks import check_ranks


def preflight(installation: ServerInstallation, options: ServerOptions) -> Iterator[Finding]:
    """Everything that can be known before the server starts, good and bad."""
    environment = server_environment(installation, options, os.environ)
    yield from _programs(installation, environment)
    yield from _interpreter(installation, environment)
    yield from _models(installation, options)
    yield check_ports(options.ports, options.host)


def _programs(installation: ServerInstallation, environment: Mapping[str, str]) -> Iterator[Finding]:
    for what, path in (("server", installation.binary), ("stub", installation.stub)):
        found = check_program(what, path, installation.name)
        yield found
        if found.ok:
            yield check_libraries(what, missing_libraries(path, environment))


def _interpreter(installation: ServerInstallation, environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        interpreter = StubInterpreter.on_path(environment)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("Python", f"python3 on PATH does not run: {error}", "Put a working python3 first on PATH.")
        return
    if isinstance(installation, ImageInstallation):
        yield from check_image_interpreter(interpreter, Path(sys.prefix), PACKAGE)
    else:
        yield from check_wheel_interpreter(interpreter, Path(sys.prefix), PACKAGE)


def _models(installation: ServerInstallation, options: ServerOptions) -> Iterator[Finding]:
    try:
        repository = ModelRepository.load(options.model_repository, options.profile, options.models)
    except SetupError as error:
        yield Finding("models", str(error), "Correct --model-repository, --profile or --models.")
        return
    yield check_backends(repository, installation.backends, installation.name)
    gpus = None
    if repository.engine_models:
        try:
            gpus = present_gpus()
        except SetupError as error:
            yield Finding("GPUs", str(error), "Or choose --profile cpu, which needs none.")
    yield from check_engines(repository, options.engine_dir, _installed_version("tensorrt_llm"), gpus)
    yield from check_front_door(repository, options.engine_dir)
    yield from check_ranks(repository)
    yield check_shared_memory(repository.stubs)


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
