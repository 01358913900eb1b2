"""What must be there to compile. ``nvidia-smi`` and ``docker`` are small scripts that answer as the real ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_engines.checkpoint.config import CheckpointConfig, Quantization
from build_engines.tensorrt_llm.architectures import check_architecture
from build_engines.tensorrt_llm.toolchain import Toolchain, check_gpus, find_toolchain
from python_backend.engine.gpus import Gpu, present_gpus
from python_backend.errors import SetupError
from python_backend.pins import NVIDIA_DRIVER, TRITON_IMAGE
from tests import tiny_llama
from tests.unit.build_engines.tensorrt_llm.conftest import h100

H100 = "0, NVIDIA H100 80GB HBM3, 9.0, 590.44.01, 81559, 4"
L40S = "1, NVIDIA L40S, 8.9, 590.44.01, 46068, 4"
RUNTIMES = 'echo \'{"io.containerd.runc.v2":{"path":"runc"},"nvidia":{"path":"nvidia-container-runtime"}}\''

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a shell script on a PATH that has nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return write


def lists(*gpus: str) -> str:
    asked = "--query-gpu=index,name,compute_cap,driver_version,memory.total,memory.used"
    listed = "\n".join(gpus)
    return f'test "$1 $2" = "{asked} --format=csv,noheader,nounits" || exit 9\necho "{listed}"'


def test_gpus_are_read_from_nvidia_smi(install: Install) -> None:
    install("nvidia-smi", lists(H100, L40S))
    assert present_gpus() == (
        Gpu(0, "NVIDIA H100 80GB HBM3", "9.0", "590.44.01", 81559, 4),
        Gpu(1, "NVIDIA L40S", "8.9", "590.44.01", 46068, 4),
    )


def test_the_image_is_used_when_the_tool_is_not_here(install: Install) -> None:
    install("nvidia-smi", lists(H100))
    install("docker", RUNTIMES)
    assert find_toolchain() == Toolchain((present_gpus()[0],), TRITON_IMAGE)


def test_inside_of_the_image_the_tool_is_used_itself(install: Install) -> None:
    install("nvidia-smi", lists(H100))
    install("trtllm-build", "exit 1")
    assert find_toolchain().image is None


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ({}, "nvidia-smi is not on PATH, so no NVIDIA GPU can be used here"),
        ({"nvidia-smi": "echo 'No devices were found' >&2; exit 6"}, "nvidia-smi failed (No devices were found)."),
        ({"nvidia-smi": "echo 0, H100, [N/A], 590, 1, 1"}, "Update NVIDIA's driver"),
        ({"nvidia-smi": "true"}, "lists no GPU"),
        ({"nvidia-smi": lists(H100, L40S)}, "the GPUs differ in architecture (0: NVIDIA H100 80GB HBM3 (9.0), 1:"),
        ({"nvidia-smi": lists(H100.replace("590.44", "580.95"))}, f"driver is 580.95.01; {TRITON_IMAGE} needs"),
        ({"nvidia-smi": lists(H100)}, "neither trtllm-build nor docker is on PATH"),
        (
            {"nvidia-smi": lists(H100), "docker": "echo 'permission denied' >&2; exit 1"},
            "docker cannot be used: permission denied. Start it",
        ),
        (
            {"nvidia-smi": lists(H100), "docker": "echo '{\"runc\":{}}'"},
            "nvidia-ctk runtime configure --runtime=docker",
        ),
    ],
)
def test_what_is_missing_is_named(install: Install, programs: dict[str, str], message: str) -> None:
    for name, script in programs.items():
        install(name, script)
    with pytest.raises(SetupError) as error:
        find_toolchain()
    assert message in str(error.value)


def test_the_driver_is_compared_by_its_numbers(install: Install) -> None:
    install("docker", RUNTIMES)
    for driver in (NVIDIA_DRIVER, "590.44.2", "1000.1"):
        install("nvidia-smi", lists(H100.replace("590.44.01", driver)))
        assert find_toolchain().gpu.driver == driver


def config(algo: Any, kv_cache: Any = None) -> CheckpointConfig:
    group = {"W4A16_AWQ": 32, "W4A8_AWQ": 32, "NVFP4": 16}.get(algo)
    quantization = Quantization(quant_algo=algo, kv_cache_quant_algo=kv_cache, group_size=group)
    return tiny_llama.config().changed(quantization=quantization.model_dump())


#: Compute capability 8.0 A100, 8.9 L40S and RTX 4090, 9.0 H100, 10.0 B200, 12.0 RTX 5090.
WORKS = {
    (None, None): (80, 86, 89, 90, 100, 120),
    ("W8A16", None): (80, 86, 89, 90, 120),
    ("W4A16", None): (80, 86, 89, 90, 120),
    ("W4A16_AWQ", None): (80, 86, 89, 90, 120),
    ("W8A8_SQ_PER_CHANNEL", None): (80, 86, 89, 90, 120),
    ("FP8", None): (89, 90, 100, 120),
    ("W4A8_AWQ", None): (89, 90, 100, 120),
    ("NVFP4", None): (100, 120),
    (None, "FP8"): (89, 90, 100, 120),
    (None, "INT8"): (80, 86, 89, 90, 120),
}


@pytest.mark.parametrize(("formats", "works"), WORKS.items(), ids=str)
def test_which_gpu_computes_which_format(formats: tuple[str | None, str | None], works: tuple[int, ...]) -> None:
    for sm in (70, 75, 80, 86, 89, 90, 100, 120):
        if sm in works:
            check_architecture(sm, "it", config(*formats))
        else:
            with pytest.raises(SetupError, match="compute capability"):
                check_architecture(sm, "it", config(*formats))


def test_ranks_are_compiled_on_free_gpus() -> None:
    busy = Toolchain((h100(0), h100(1, used_mib=70_000)), None)
    check_gpus(busy, config(None), None, workers=1)
    with pytest.raises(SetupError, match=r"2 ranks are to be compiled at once and 1 of 2 GPUs are free.*workers to 1"):
        check_gpus(busy, config(None), None, workers=2)


def test_a_recipe_for_another_gpu_is_refused() -> None:
    machine = Toolchain((h100(),), None)
    check_gpus(machine, config(None), "H100 SXM", workers=1)
    with pytest.raises(SetupError, match=r"the recipe is for L40S, compute capability 8\.9; here is NVIDIA H100"):
        check_gpus(machine, config(None), "L40S", workers=1)
