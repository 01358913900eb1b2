"""Each check, on what it approves and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from python_backend.engine.manifest import CpuManifest
from python_backend.finding import Finding
from python_backend.launcher.installation import WheelInstallation
from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.ports import Ports
from python_backend.launcher.preflight.engine import check_backends, check_engines
from python_backend.launcher.preflight.interpreter import (
    StubInterpreter,
    check_image_interpreter,
    check_wheel_interpreter,
)
from python_backend.launcher.preflight.libraries import check_libraries, check_program, missing_libraries
from python_backend.launcher.preflight.resources import check_ports, check_shared_memory

VENV = Path("/venv")
PACKAGE = Path("/project/python_backend")
GOOD = StubInterpreter((3, 12), VENV, "1.26.4", None)


def failed(findings: list[Finding]) -> str:
    """The one finding that is not ok, as a line."""
    [finding] = [finding for finding in findings if not finding.ok]
    assert "\n" not in str(finding)
    return str(finding)


def test_a_good_interpreter_passes() -> None:
    assert all(finding.ok for finding in check_wheel_interpreter(GOOD, VENV, PACKAGE))


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [
        (StubInterpreter((3, 13), VENV, "1.26.4", None), "Python: 3.13. Use 3.11 to 3.12"),
        (StubInterpreter((3, 10), VENV, "1.26.4", None), "Python: 3.10. Use 3.11 to 3.12"),
        (
            StubInterpreter((3, 12), Path("/usr"), "1.26.4", None),
            "python3 on PATH belongs to /usr, the launcher to /venv",
        ),
        (StubInterpreter((3, 12), VENV, "2.1.0", None), "numpy: 2.1.0. Run `pip install 'numpy<2'`"),
        (StubInterpreter((3, 12), VENV, None, None), "numpy: not installed. Run"),
        (StubInterpreter((3, 12), VENV, "1.26.4", Path("/old/python_backend")), "import it from /old/python_backend"),
    ],
)
def test_interpreters_that_the_wheel_cannot_use(interpreter: StubInterpreter, said: str) -> None:
    assert said in failed(list(check_wheel_interpreter(interpreter, VENV, PACKAGE)))


def test_image_may_have_any_numpy_but_needs_our_package() -> None:
    there = StubInterpreter((3, 12), VENV, "2.1.0", Path("/venv/lib/python_backend"))
    assert all(finding.ok for finding in check_image_interpreter(there, VENV, PACKAGE))
    lacking = StubInterpreter((3, 12), VENV, "2.1.0", None)
    assert "pip install --no-deps /project" in failed(list(check_image_interpreter(lacking, VENV, PACKAGE)))


def test_interpreter_is_the_one_that_path_finds() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": "/nonexistent"}
    found = StubInterpreter.on_path(environment)
    assert found.version == sys.version_info[:2]
    assert found.prefix == Path(sys.prefix)
    with pytest.raises(subprocess.CalledProcessError):
        StubInterpreter.on_path({"PATH": "/nonexistent"})


def test_libraries_of_a_program() -> None:
    assert missing_libraries(Path("/bin/sh"), os.environ) == []
    assert check_libraries("stub", []).ok
    assert "--enable-shared" in str(check_libraries("stub", ["libpython3.11.so.1.0"]))
    assert "libcudart.so.12 not found" in str(check_libraries("server", ["libcudart.so.12"]))


def test_stub_that_is_copied_away_from_its_wheel_lacks_libraries(tmp_path: Path) -> None:
    wheel = WheelInstallation.find()
    assert wheel is not None
    environment = {"PATH": os.environ["PATH"]}
    assert missing_libraries(wheel.stub, wheel.environment(environment)) == []
    copied = Path(shutil.copy(wheel.stub, tmp_path))
    assert any(name.startswith("libcudart") for name in missing_libraries(copied, environment))


def test_program_must_exist(tmp_path: Path) -> None:
    assert check_program("stub", Path("/bin/sh"), "the wheel").ok
    assert "does not exist. Reinstall the wheel" in str(check_program("stub", tmp_path / "stub", "the wheel"))


def test_ports_name_their_holder() -> None:
    ports = Ports.free()
    assert check_ports(ports, "127.0.0.1").ok
    with socket.create_server(("127.0.0.1", ports.metrics)):
        said = str(check_ports(ports, "127.0.0.1"))
    assert f"metrics port {ports.metrics} is held by" in said
    assert f"(pid {os.getpid()})" in said


def test_ports_must_differ() -> None:
    http, grpc, _ = astuple(Ports.free())
    assert f"{http}, {grpc}, {http} (HTTP, gRPC, metrics) are not three" in str(
        check_ports(Ports(http, grpc, http), "127.0.0.1")
    )


def test_shared_memory_needs_room_for_each_stub(tmp_path: Path) -> None:
    assert check_shared_memory(3, tmp_path).ok
    assert "100000008 MiB needed for 100000000 Python" in str(check_shared_memory(100_000_000, tmp_path))
    assert "cannot be written" in str(check_shared_memory(1, tmp_path / "none"))


def repository(directory: Path, config: str) -> ModelRepository:
    (directory / "models/m").mkdir(parents=True)
    (directory / "models/m/config.pbtxt").write_text(config)
    return ModelRepository.load(directory / "models", "tensorrt_llm")


def test_backends_must_be_installed(tmp_path: Path) -> None:
    loaded = repository(tmp_path, 'backend: "tensorrtllm"')
    assert check_backends(loaded, frozenset({"tensorrtllm"}), "the image").ok
    said = str(check_backends(loaded, frozenset({"python"}), "the wheel"))
    assert "m/config.pbtxt asks for backend 'tensorrtllm'; the wheel has python. Choose another --profile" in said


def parameter(key: str, value: Path | str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def test_cpu_engine_needs_its_manifest_and_the_option_replaces_the_parameter(tmp_path: Path) -> None:
    loaded = repository(tmp_path, f'backend: "python" {parameter("gpt_model_path", "engines/x")}')
    assert str(tmp_path / "engines/x/manifest.json") in failed(list(check_engines(loaded, None, None)))
    assert str(tmp_path / "y/manifest.json") in failed(list(check_engines(loaded, tmp_path / "y", None)))


def cpu_manifest(vocab_size: int, files: dict[str, int]) -> CpuManifest:
    return CpuManifest(
        architecture="LlamaForCausalLM", dtype="float16", quant_algo=None, vocab_size=vocab_size, max_seq_len=8,
        checkpoint_sha256="", created=datetime.now(UTC), files=files, quantize_lm_head=False, hidden_size=8,
        num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_size=8, max_position_embeddings=8,
        bos_id=None, end_id=0, pad_id=0, builder_sha256="", openvino_version="",
    )  # fmt: skip


def test_draft_engine_must_be_there_and_speak_the_targets_tokens(tmp_path: Path) -> None:
    def engine(name: str, vocab_size: int, tokens: dict[str, int]) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        tokenizer = Tokenizer(models.WordLevel(tokens)).to_str()
        (tmp_path / name / "tokenizer.json").write_text(tokenizer)
        manifest = cpu_manifest(vocab_size, {"tokenizer.json": len(tokenizer)})
        (tmp_path / name / "manifest.json").write_text(manifest.model_dump_json())

    engines = parameter("gpt_model_path", "target") + parameter("draft_engine_dir", "draft")
    loaded = repository(tmp_path, f'backend: "python" {engines}')

    def said() -> str:
        return failed(list(check_engines(loaded, None, None)))

    engine("target", 8, {"a": 0, "b": 1})
    assert f"draft engine: {tmp_path / 'draft/manifest.json'} cannot be read" in said()
    assert 'set draft_engine_dir to "" and drafter to "ngram"' in said()
    engine("draft", 9, {"a": 0, "b": 1})
    assert f"{tmp_path / 'draft'} has a vocabulary of 9 tokens, its target {tmp_path / 'target'} one of 8" in said()
    engine("draft", 8, {"a": 1, "b": 0})
    assert f"differ in 2 tokens: 'a' is 1 in {tmp_path / 'draft/tokenizer.json'} and 0 in" in said()
    engine("draft", 8, {"b": 1, "a": 0})
    assert all(finding.ok for finding in check_engines(loaded, None, None))
    assert str(tmp_path / "draft") in [finding.seen for finding in check_engines(loaded, None, None)]
    (tmp_path / "target/manifest.json").unlink()
    assert "engine: " in said()  # of the target alone


def test_no_draft_engine_is_named_by_an_empty_string(tmp_path: Path) -> None:
    loaded = repository(tmp_path, f'backend: "python" {parameter("draft_engine_dir", "")}')
    assert list(check_engines(loaded, None, None)) == []


def test_tokenizer_must_be_there(tmp_path: Path) -> None:
    loaded = repository(tmp_path, f'backend: "python" {parameter("tokenizer_dir", "t")}')
    assert "has no tokenizer.json" in failed(list(check_engines(loaded, None, None)))
    (tmp_path / "t").mkdir()
    (tmp_path / "t/tokenizer.json").touch()
    assert all(finding.ok for finding in check_engines(loaded, None, None))


def test_tensorrt_llm_engine_is_complete_of_this_version_and_named_in_config_pbtxt(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    loaded = repository(tmp_path, f'backend: "tensorrtllm" {parameter("gpt_model_path", engine)}')

    def said(engine_dir: Path | None = None) -> str:
        return failed(list(check_engines(loaded, engine_dir, "1.2.1")))

    assert "config.json cannot be read: No such file" in said()
    engine.mkdir()
    (engine / "config.json").write_text("{}")
    assert "is not that of an engine (KeyError('pretrained_config'))" in said()
    config = {"version": "1.2.0", "pretrained_config": {"mapping": {"world_size": 2}}}
    (engine / "config.json").write_text(json.dumps(config))
    (engine / "rank0.engine").touch()
    assert "has no rank1.engine, of 2 ranks" in said()
    (engine / "rank1.engine").touch()
    assert "was built with TensorRT-LLM 1.2.0, this is 1.2.1" in said()
    (engine / "config.json").write_text(json.dumps({**config, "version": "1.2.1"}))
    assert all(finding.ok for finding in check_engines(loaded, engine, "1.2.1"))
    assert "TensorRT-LLM reads config.pbtxt only" in said(tmp_path / "another")
