"""What compiles a TensorRT-LLM engine here, or what is missing for it: tool, image, GPUs, driver."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.planning.gpu_names import read_gpus
from build_engines.planning.gpus import capability
from build_engines.tensorrt_llm.architectures import check_architecture
from build_engines.tensorrt_llm.flags import PROGRAM
from python_backend.engine.gpus import Gpu, present_gpus
from python_backend.errors import SetupError
from python_backend.pins import NVIDIA_DRIVER, TENSORRT_LLM, TRITON_IMAGE


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What will be used. ``image`` None: ``trtllm-build`` itself is on PATH, as inside of NVIDIA's image."""

    gpus: tuple[Gpu, ...]
    image: str | None

    @property
    def gpu(self) -> Gpu:
        """The one that stands for all: they are of one architecture."""
        return self.gpus[0]


def find_toolchain() -> Toolchain:
    """Raises SetupError for the first thing that is missing or of the wrong version, with what to do about it."""
    gpus = present_gpus()
    if not gpus:
        raise SetupError("nvidia-smi lists no GPU. In a container, start it with `--gpus all`.")
    if len({gpu.compute_capability for gpu in gpus}) > 1:
        listed = ", ".join(f"{gpu.index}: {gpu.name} ({gpu.compute_capability})" for gpu in gpus)
        raise SetupError(
            f"the GPUs differ in architecture ({listed}). Build inside of {TRITON_IMAGE}, "
            "started with --gpus for one kind only."
        )
    if shutil.which(PROGRAM):
        _check_version()
        return Toolchain(gpus, image=None)
    _check_driver(gpus)
    _check_docker()
    return Toolchain(gpus, TRITON_IMAGE)


def check_gpus(toolchain: Toolchain, config: CheckpointConfig, named: str | None, workers: int) -> None:
    """Raises SetupError when the GPUs are not the one ``named``, cannot compute the format, or are too few or busy."""
    gpu = toolchain.gpu
    if named is not None:
        wanted = read_gpus(named).gpu
        if sm_of(gpu) != wanted.sm:
            raise SetupError(
                f"the recipe is for {wanted.name}, {capability(wanted.sm)}; here is {gpu.name}, "
                f"{capability(sm_of(gpu))}, and an engine runs on one architecture only. Build it there, or change "
                "tensorrt_llm.gpu."
            )
    check_architecture(sm_of(gpu), gpu.name, config)
    # Compiling times kernels, so a GPU that computes something else gives an engine of wrong choices.
    free = [each for each in toolchain.gpus if each.used_mib < each.memory_mib // 10]
    if len(free) < workers:
        raise SetupError(
            f"{workers} ranks are to be compiled at once and {len(free)} of {len(toolchain.gpus)} GPUs are free (less "
            f"than a tenth of their memory in use). Free some, or set tensorrt_llm.workers to {max(1, len(free))}."
        )


def sm_of(gpu: Gpu) -> int:
    """The architecture as one number: 89 for "8.9"."""
    return int(gpu.compute_capability.replace(".", ""))


def _check_version() -> None:
    try:
        found = importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:  # In another Python than this; the engine's config.json will tell.
        return
    if found != TENSORRT_LLM:
        raise SetupError(f"TensorRT-LLM here is {found}; engines are for {TENSORRT_LLM}. Build inside {TRITON_IMAGE}.")


def _check_driver(gpus: Sequence[Gpu]) -> None:
    if _version(gpus[0].driver) < _version(NVIDIA_DRIVER):
        raise SetupError(
            f"the NVIDIA driver is {gpus[0].driver}; {TRITON_IMAGE} needs {NVIDIA_DRIVER} or newer. Update it. A data "
            "center GPU may do with an older one by CUDA's forward compatibility: then build inside of the image."
        )


def _check_docker() -> None:
    if shutil.which("docker") is None:
        raise SetupError(f"neither {PROGRAM} nor docker is on PATH. Install Docker, or build inside {TRITON_IMAGE}.")
    asked = ["docker", "info", "--format", "{{json .Runtimes}}"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise SetupError("docker info gave no answer in 60 s. Restart the Docker daemon.") from error
    if answer.returncode:
        raise SetupError(f"docker cannot be used: {' '.join(answer.stderr.split())}. Start it, or join its group.")
    if '"nvidia"' not in answer.stdout:
        raise SetupError(
            "Docker has no NVIDIA runtime. Install the NVIDIA Container Toolkit, then run "
            "`sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker`."
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
