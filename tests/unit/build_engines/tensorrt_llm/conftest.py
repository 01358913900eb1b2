"""A machine with H100s, and ``trtllm-build`` on PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from build_engines.tensorrt_llm.toolchain import Toolchain
from python_backend.engine.gpus import Gpu
from tests.unit.build_engines.tensorrt_llm import fake_trtllm_build


def h100(index: int = 0, used_mib: int = 0) -> Gpu:
    return Gpu(index, "NVIDIA H100 80GB HBM3", "9.0", "590.44.01", 81559, used_mib)


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Toolchain]:
    """What ``find_toolchain`` would find; the fake ``trtllm-build`` is on PATH."""
    monkeypatch.setenv("PATH", f"{fake_trtllm_build.install(tmp_path)}:{os.environ['PATH']}")
    monkeypatch.delenv("FAKE_TRTLLM_BUILD", raising=False)
    return lambda: Toolchain(tuple(h100(index) for index in range(4)), image=None)
