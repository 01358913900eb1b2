"""The command line and environment of tritonserver, for both installations."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from python_backend.launcher.command import ServerOptions, server_command, server_environment
from python_backend.launcher.installation import ImageInstallation, WheelInstallation
from python_backend.launcher.ports import Ports
from python_backend.launcher.process import Owner
from python_backend.launcher.run import Run

WHEEL = WheelInstallation(
    tree=Path("/venv/lib/site-packages/pytriton/tritonserver"),
    python=Path("/venv/bin/python"),
    library_dirs=(Path("/python/lib"),),
    python_version=(3, 12),
    package=Path("/project/python_backend"),
)
RUN = Run(Path("/cache"), Owner(pid=7, start_ticks=99), serial=1)


def command(installation: WheelInstallation | ImageInstallation, options: ServerOptions) -> list[str]:
    return server_command(installation, options, RUN)


def test_wheel() -> None:
    options = ServerOptions(model_repository=Path("/models"), ports=Ports(1, 2, 3), models=("a", "b"), exit_timeout_s=4)
    assert command(WHEEL, options) == [
        "/venv/lib/site-packages/pytriton/tritonserver/bin/tritonserver",
        "--model-repository=/models",
        "--backend-directory=/cache/run/slipstream_7_99_1_/backends",
        "--cache-directory=/cache/run/slipstream_7_99_1_/caches",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--disable-auto-complete-config",
        "--backend-config=python,shm-region-prefix-name=slipstream_7_99_1_",
        "--exit-timeout-secs=4",
        "--http-address=127.0.0.1",
        "--http-port=1",
        "--grpc-address=127.0.0.1",
        "--grpc-port=2",
        "--metrics-address=127.0.0.1",
        "--metrics-port=3",
        "--model-config-name=cpu",
        "--model-control-mode=explicit",
        "--load-model=a",
        "--load-model=b",
    ]


def test_image_keeps_its_own_backends_and_the_main_profile_is_config_pbtxt() -> None:
    options = ServerOptions(model_repository=Path("/models"), profile="tensorrt_llm", host="0.0.0.0")
    assert command(ImageInstallation(), options) == [
        "/opt/tritonserver/bin/tritonserver",
        "--model-repository=/models",
        "--disable-auto-complete-config",
        "--backend-config=python,shm-region-prefix-name=slipstream_7_99_1_",
        "--exit-timeout-secs=10",
        "--http-address=0.0.0.0",
        "--http-port=8000",
        "--grpc-address=0.0.0.0",
        "--grpc-port=8001",
        "--metrics-address=0.0.0.0",
        "--metrics-port=8002",
    ]


def test_server_knows_every_flag() -> None:
    installed = WheelInstallation.find()
    assert installed is not None
    options = ServerOptions(model_repository=Path("/models"), models=("a",), log_verbose=True)
    environment = server_environment(installed, options, {})
    text = subprocess.run([installed.binary, "--help"], env=environment, capture_output=True, text=True).stderr
    known = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))
    assert {flag.partition("=")[0] for flag in command(installed, options)[1:]} <= known


def test_environment_puts_the_wheel_first() -> None:
    options = ServerOptions(model_repository=Path("/models"), engine_dir=Path("/engines/mine"))
    assert server_environment(WHEEL, options, {"PATH": "/usr/bin", "HOME": "/home"}) == {
        "HOME": "/home",
        "PATH": "/venv/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/venv/lib/site-packages/nvidia_pytriton.libs:/python/lib",
        "SLIPSTREAM_ENGINE_DIR": "/engines/mine",
        "SLIPSTREAM_GRPC_ADDRESS": "127.0.0.1:8001",
    }


def test_environment_of_the_image_is_its_own() -> None:
    options = ServerOptions(model_repository=Path("/models"), host="0.0.0.0", ports=Ports(1, 2, 3))
    environment = {"PATH": "/usr/bin", "SLIPSTREAM_GRPC_ADDRESS": "127.0.0.1:2"}
    assert server_environment(ImageInstallation(), options, {"PATH": "/usr/bin"}) == environment


def test_wheel_prepares_links_to_files_that_exist(tmp_path: Path) -> None:
    installed = WheelInstallation.find()
    assert installed is not None
    installed.prepare(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()]
    assert all(path.is_symlink() and path.exists() for path in files)
    assert {str(path.relative_to(tmp_path)) for path in files} == {
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "backends/python/triton_python_backend_stub",
        "backends/python/python_backend",
        "caches/local",
    }


def test_image_is_recognised_by_its_server(tmp_path: Path) -> None:
    assert ImageInstallation.find(tmp_path) is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tritonserver").touch()
    (tmp_path / "backends/tensorrtllm").mkdir(parents=True)
    found = ImageInstallation.find(tmp_path)
    assert found is not None
    assert found.binary == tmp_path / "bin/tritonserver"
    assert found.backends == {"tensorrtllm"}
