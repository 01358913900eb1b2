"""What an operator sees when something is missing or broken: the file, and the command that makes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from python_backend.launcher.ports import Ports
from tests.integration.conftest import MODEL_REPOSITORY, edited_repository

pytestmark = pytest.mark.server


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    ports = Ports.free()
    command = [
        sys.executable, "-m", "python_backend", "serve",
        f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}", *flags,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def remove(name: str) -> Callable[[Path], None]:
    return lambda engine: (engine / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    def cut(engine: Path) -> None:
        content = (engine / name).read_bytes()
        (engine / name).write_bytes(content[: len(content) // 2])

    return cut


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (remove("manifest.json"), "manifest.json"),
        (truncate("manifest.json"), "manifest.json"),
        (remove("openvino_model.bin"), "openvino_model.bin"),
        (truncate("openvino_model.bin"), "openvino_model.bin"),
        (remove("tokenizer.json"), "tokenizer.json"),
        (truncate("tokenizer.json"), "tokenizer.json"),
        (shutil.rmtree, "manifest.json"),
    ],
    ids=["no manifest", "broken manifest", "no weights", "cut weights", "no tokenizer", "cut tokenizer", "no engine"],
)
def test_a_damaged_engine_is_refused_before_the_server_starts(
    tiny_engine: Path, tmp_path: Path, damage: Callable[[Path], None], names: str
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(tiny_engine, engine)
    damage(engine)
    result = serve("--engine-dir", str(engine), "--model-repository", str(MODEL_REPOSITORY))
    output = result.stdout + result.stderr
    assert result.returncode == 3, output
    assert f"{engine}/{names}" in output.replace("\n", "")
    assert "python -m build_engines " in " ".join(output.split())
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"batch_scheduler_policy": "max_utilisation"}, "max_utilization"),
        ({"max_tokens_in_paged_kv_cache": "10"}, "one block alone holds"),
        ({"max_tokens_in_paged_kv_cache": "10000000000"}, "does not fit into memory"),
        ({"max_num_tokens": "8"}, "Raise max_num_tokens to 64"),
        ({"execution_mode": "quick"}, "'fast' or 'exact'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_bad_value_in_config_pbtxt_is_named(
    tiny_engine: Path, tmp_path: Path, parameters: dict[str, str], message: str
) -> None:
    repository = edited_repository(tmp_path, **parameters)
    result = serve("--engine-dir", str(tiny_engine), "--model-repository", str(repository))
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert message in output
    assert "Traceback" not in output


def test_an_unknown_parameter_is_refused_with_the_near_name(tiny_engine: Path, tmp_path: Path) -> None:
    repository = edited_repository(tmp_path)
    path = repository / "tensorrt_llm" / "configs" / "cpu.pbtxt"
    path.write_text(path.read_text().replace('key: "max_num_tokens"', 'key: "max_num_token"'))
    result = serve("--engine-dir", str(tiny_engine), "--model-repository", str(repository))
    assert result.returncode == 1
    assert 'did you mean "max_num_tokens"?' in result.stdout + result.stderr
