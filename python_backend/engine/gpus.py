"""The GPUs of this machine, as ``nvidia-smi`` lists them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from python_backend.errors import SetupError

_FIELDS = ("index", "name", "compute_cap", "driver_version", "memory.total", "memory.used")
QUERY = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``compute_capability`` is its architecture: "8.9" is Ada, "9.0" Hopper."""

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_mib: int
    used_mib: int


def present_gpus() -> tuple[Gpu, ...]:
    """All GPUs, also those that CUDA_VISIBLE_DEVICES hides. Raises SetupError when there are none to ask about."""
    try:
        listed = subprocess.run(QUERY, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
    except FileNotFoundError as error:
        raise SetupError(
            "nvidia-smi is not on PATH, so no NVIDIA GPU can be used here. Install NVIDIA's driver; in a container, "
            "start it with `--gpus all`."
        ) from error
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stdout + error.stderr).split())
        raise SetupError(
            f"nvidia-smi failed ({said}). Mend the driver's installation, or restart the machine."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"nvidia-smi gave no answer in {_TIMEOUT_S} s. Restart the machine, or its driver.") from error
    return tuple(_gpu(line) for line in listed.splitlines() if line.strip())


def _gpu(line: str) -> Gpu:
    values = [value.strip() for value in line.split(",")]
    try:
        index, name, capability, driver, memory, used = values
        major, minor = capability.split(".")
        return Gpu(int(index), name, f"{int(major)}.{int(minor)}", driver, int(memory), int(used))
    except ValueError as error:
        raise SetupError(
            f"nvidia-smi answers {line!r} to --query-gpu={','.join(_FIELDS)}. Update NVIDIA's driver, which knows "
            "less than these."
        ) from error
