"""How tritonserver is called: a pure function from options to a command line and an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from python_backend.engine.manifest import ENGINE_DIR_VARIABLE
from python_backend.launcher.installation import ServerInstallation
from python_backend.launcher.ports import Ports
from python_backend.launcher.run import Run
from python_backend.server_address import ADDRESS_VARIABLE

# The profile that config.pbtxt itself is; every other one is a file configs/<profile>.pbtxt.
MAIN_PROFILE = "tensorrt_llm"
MPIRUN = "mpirun"


class Orchestrator(Enum):
    """How one server runs several TensorRT-LLM engines. The value is TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES."""

    SPAWNS = "1"  # it starts a worker process for each of their ranks
    RANKS = "0"  # mpirun has started a server for each of their ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a server serves, and where.

    ``models`` empty: all of the repository. ``engine_dir`` None: the one that each config.pbtxt names. With a
    ``world_size`` above 1 there is one server a rank; rank 0 serves, the others load ``engine_models`` only. With an
    ``orchestrator`` there are several engines, on ``orchestrated_gpus``.
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
    orchestrator: Orchestrator | None = None
    orchestrated_gpus: tuple[int, ...] = ()

    @property
    def reachable_host(self) -> str:
        """Where this machine reaches the server."""
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host


def server_command(installation: ServerInstallation, options: ServerOptions, run: Run) -> list[str]:
    """The command line of tritonserver, or of mpirun with one tritonserver a rank."""
    if options.world_size == 1 and options.orchestrator is None:
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
    if options.orchestrator is Orchestrator.SPAWNS:  # the workers own the GPUs
        command += ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"]
        command += [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in options.orchestrated_gpus]
    if options.log_verbose:
        command.append("--log-verbose=1")
    return command


def server_environment(
    installation: ServerInstallation, options: ServerOptions, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of tritonserver and of its Python models."""
    environment = installation.environment(base)
    environment[ADDRESS_VARIABLE] = f"{options.reachable_host}:{options.ports.grpc}"
    if options.orchestrator is not None:
        environment["TRTLLM_ORCHESTRATOR"] = "1"
        environment["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] = options.orchestrator.value
    if options.engine_dir is not None:
        environment[ENGINE_DIR_VARIABLE] = str(options.engine_dir.absolute())
    return environment
