"""How tritonserver is called: a pure function from options to a command line and an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from python_backend.engine.manifest import ENGINE_DIR_VARIABLE
from python_backend.launcher.installation import ServerInstallation
from python_backend.launcher.ports import Ports
from python_backend.launcher.run import Run

# The profile that config.pbtxt itself is; every other one is a file configs/<profile>.pbtxt.
MAIN_PROFILE = "tensorrt_llm"
MPIRUN = "mpirun"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a server serves, and where.

    ``models`` empty: all of the repository. ``engine_dir`` None: the one that each config.pbtxt names. With a
    ``world_size`` above 1 there is one server a rank; rank 0 serves, the others load ``engine_models`` only.
    """

    model_repository: Path
    profile: str = "cpu"
    engine_dir: Path | None = None
    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    exit_timeout_s: int = 10
    log_verbose: bool = False
    world_size: int = 1
    engine_models: tuple[str, ...] = ()


def server_command(installation: ServerInstallation, options: ServerOptions, run: Run) -> list[str]:
    """The command line of tritonserver, or of mpirun with one tritonserver a rank."""
    if options.world_size == 1:
        return _one_server(installation, options, run.directory, run.name, options.models)
    command = [MPIRUN, "--allow-run-as-root"]
    for rank in range(options.world_size):
        models = options.models if rank == 0 else options.engine_models
        server = _one_server(installation, options, run.directory, rank_prefix(run, rank), models)
        command += ["-n", "1", *server, ":"]
    return command


def rank_prefix(run: Run, rank: int) -> str:
    """Begins the shared memory regions of one rank of several; the run's own name begins it."""
    return f"{run.name}{rank}_"


def _one_server(
    installation: ServerInstallation, options: ServerOptions, directory: Path, prefix: str, models: tuple[str, ...]
) -> list[str]:
    command = [
        str(installation.binary),
        f"--model-repository={options.model_repository.absolute()}",
        *installation.arguments(directory),
        "--disable-auto-complete-config",  # else every stub is started twice
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
    ]
    for service in ("http", "grpc", "metrics"):
        command.append(f"--{service}-address={options.host}")
        command.append(f"--{service}-port={getattr(options.ports, service)}")
    if options.profile != MAIN_PROFILE:
        command.append(f"--model-config-name={options.profile}")
    if models:
        command.append("--model-control-mode=explicit")
        command.extend(f"--load-model={model}" for model in models)
    if options.log_verbose:
        command.append("--log-verbose=1")
    return command


def server_environment(
    installation: ServerInstallation, options: ServerOptions, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of tritonserver and of its Python models."""
    environment = installation.environment(base)
    if options.engine_dir is not None:
        environment[ENGINE_DIR_VARIABLE] = str(options.engine_dir.absolute())
    return environment
