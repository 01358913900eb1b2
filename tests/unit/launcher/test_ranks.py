"""Engines of several ranks: what is checked of them, and how they are started and ended."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from python_backend.engine.gpus import Gpu
from python_backend.engine.manifest import TensorRtLlmManifest
from python_backend.errors import SetupError
from python_backend.launcher.command import ServerOptions, server_command, server_environment
from python_backend.launcher.installation import ImageInstallation
from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.ports import Ports
from python_backend.launcher.preflight.engine import check_engines
from python_backend.launcher.process import Owner, command_lines
from python_backend.launcher.ranks import check_ranks, with_ranks
from python_backend.launcher.run import Run
from python_backend.launcher.server import TritonServer
from tests.unit.launcher.running import wait_until

H100 = tuple(Gpu(index, "NVIDIA H100 80GB HBM3", "9.0", "590.44.01", 81559, 0) for index in range(2))
CONFIG = """
backend: "tensorrtllm"
max_batch_size: 64
parameters {{ key: "gpt_model_path" value {{ string_value: "{engine}" }} }}
parameters {{ key: "gpu_device_ids" value {{ string_value: "{ids}" }} }}
"""


def write_engine(directory: Path, world_size: int = 2, version: str = "1.2.1") -> Path:
    """An engine directory with its manifest, as the build leaves it."""
    directory.mkdir(parents=True)
    config = {
        "version": version,
        "pretrained_config": {"mapping": {"world_size": world_size}},
        "build_config": {"max_batch_size": 64, "plugin_config": {"use_paged_context_fmha": True}},
    }
    (directory / "config.json").write_text(json.dumps(config))
    for rank in range(world_size):
        (directory / f"rank{rank}.engine").write_bytes(b"engine")
    manifest = TensorRtLlmManifest(
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        quant_algo="FP8",
        tp_size=world_size,
        vocab_size=320,
        max_seq_len=1024,
        checkpoint_sha256="",
        build_command="python -m build_engines build recipes/it.yaml",
        created=datetime.now(UTC),
        files={path.name: path.stat().st_size for path in directory.iterdir()},
        tensorrt_llm_version=version,
        image=None,
        gpu_name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        max_batch_size=64,
        max_num_tokens=8192,
        max_beam_width=1,
        max_draft_len=0,
        lora=None,
        arguments=(),
        content_sha256="",
    )
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    return directory


def repository(folder: Path, **engines: Path) -> ModelRepository:
    """Models of TensorRT-LLM by name, with their engines, on GPUs 0 and 1."""
    for name, engine in engines.items():
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(CONFIG.format(engine=engine, ids="0,1"))
    return ModelRepository.load(folder / "models", "tensorrt_llm")


def problem(loaded: ModelRepository, gpus: tuple[Gpu, ...] = H100) -> str:
    [found] = [finding for finding in check_engines(loaded, None, "1.2.1", gpus) if not finding.ok]
    return str(found)


def test_a_whole_engine_passes(tmp_path: Path) -> None:
    loaded = repository(tmp_path, tensorrt_llm=write_engine(tmp_path / "engine"))
    findings = list(check_engines(loaded, None, "1.2.1", H100))
    assert all(finding.ok for finding in findings)
    assert "TensorRT-LLM 1.2.1, 2 ranks" in str(findings[0])


def test_an_engine_that_cannot_be_served_is_refused_with_what_makes_it_again(tmp_path: Path) -> None:
    again = "Build the engine again with `python -m build_engines build recipes/it.yaml`."
    engine = write_engine(tmp_path / "engine")
    loaded = repository(tmp_path, tensorrt_llm=engine)
    assert "gpu_device_ids '0,1'; the engine has 1 ranks" in problem(
        repository(tmp_path / "one", tensorrt_llm=write_engine(tmp_path / "single", world_size=1))
    )
    (engine / "rank1.engine").write_bytes(b"eng")
    assert problem(loaded).endswith(
        f"rank1.engine has 3 bytes and manifest.json says 6: it was cut short or changed. {again}"
    )
    (engine / "rank1.engine").unlink()
    assert problem(loaded).endswith(f"has no rank1.engine, of 2 ranks. {again}")
    (engine / "rank1.engine").write_bytes(b"engine")
    (engine / "manifest.json").write_text((engine / "manifest.json").read_text()[:-9])
    assert "manifest.json is no valid JSON" in problem(loaded)


def test_another_version_and_other_gpus_are_refused(tmp_path: Path) -> None:
    old = repository(tmp_path / "old", tensorrt_llm=write_engine(tmp_path / "old/engine", version="1.1.0"))
    assert (
        "was built with TensorRT-LLM 1.1.0, this is 1.2.1. Serve it in the image of that version, or build"
        in problem(old)
    )
    loaded = repository(tmp_path, tensorrt_llm=write_engine(tmp_path / "engine"))
    assert "GPUs: 1 here; " in problem(loaded, H100[:1])
    assert "GPU 1 is NVIDIA L40S, 8.9" in problem(loaded, (H100[0], Gpu(1, "NVIDIA L40S", "8.9", "1", 1, 0)))


def test_ranks_need_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two, one = write_engine(tmp_path / "two"), write_engine(tmp_path / "one", world_size=1)
    alone = repository(tmp_path / "a", tensorrt_llm=two)
    monkeypatch.setenv("PATH", str(tmp_path))
    [missing] = check_ranks(alone)
    assert "mpirun is not on PATH; tensorrt_llm has 2" in str(missing)
    assert list(check_ranks(repository(tmp_path / "b", tensorrt_llm=one))) == []
    (tmp_path / "mpirun").write_text("#!/bin/sh")
    (tmp_path / "mpirun").chmod(0o755)
    assert list(check_ranks(alone)) == []


def test_several_engines_are_run_by_an_orchestrator(tmp_path: Path) -> None:
    """As ``launch_triton_server.py --multi-model`` starts them."""
    engines = {"tensorrt_llm": write_engine(tmp_path / "two"), "other": write_engine(tmp_path / "one", world_size=1)}
    options = with_ranks(ServerOptions(model_repository=Path("/models")), repository(tmp_path, **engines))
    command = server_command(ImageInstallation(), options, Run(Path("/cache"), Owner(7, 99), serial=1))
    assert command[:5] == ["mpirun", "--allow-run-as-root", "-n", "1", "/opt/tritonserver/bin/tritonserver"]
    assert command.count("-n") == 1
    assert {
        "--pinned-memory-pool-byte-size=0", "--enable-peer-access=false", "--cuda-memory-pool-byte-size=0:0",
        "--cuda-memory-pool-byte-size=1:0",
    } < set(command)  # fmt: skip
    environment = server_environment(ImageInstallation(), options, {})
    assert environment["TRTLLM_ORCHESTRATOR"] == environment["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] == "1"


def test_engines_that_share_logits_are_ranks_beside_the_orchestrator(tmp_path: Path) -> None:
    """As ``--multi-model --disable-spawn-processes``: rank 0 orchestrates, each other one belongs to one engine."""
    engines = {"target": write_engine(tmp_path / "two"), "draft": write_engine(tmp_path / "one", world_size=1)}

    def loaded(name: str, **ranks: str) -> ModelRepository:
        made = repository(tmp_path / name, **engines)
        for model, participants in ranks.items():
            path = made.models[model].config_path
            more = {"participant_ids": participants, "speculative_decoding_fast_logits": "1"}
            lines = (
                f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in more.items()
            )
            path.write_text(path.read_text() + "\n".join(lines))
        return ModelRepository.load(made.path, "tensorrt_llm")

    options = with_ranks(ServerOptions(model_repository=Path("/m")), loaded("right", draft="1", target="2,3"))
    command = server_command(ImageInstallation(), options, Run(Path("/cache"), Owner(7, 99), serial=1))
    assert command.count("-n") == 4
    assert command.count("--load-model=draft") == command.count("--load-model=target") == 3
    assert "--pinned-memory-pool-byte-size=0" not in command
    assert server_environment(ImageInstallation(), options, {})["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] == "0"
    for name, ranks in {"double": {"draft": "1", "target": "1,2"}, "few": {"draft": "1", "target": "2"}}.items():
        with pytest.raises(SetupError, match="every rank from 1 to 3 in one of them"):
            with_ranks(ServerOptions(model_repository=Path("/m")), loaded(name, **ranks))


def test_one_server_a_rank_and_rank_0_serves(tmp_path: Path) -> None:
    """As NVIDIA's launch_triton_server.py starts them in leader mode, with our names and addresses."""
    loaded = repository(tmp_path, tensorrt_llm=write_engine(tmp_path / "engine"))
    options = ServerOptions(model_repository=Path("/models"), profile="tensorrt_llm", exit_timeout_s=4)
    sharded = with_ranks(options, loaded)
    run = Run(Path("/cache"), Owner(pid=7, start_ticks=99), serial=1)
    ports = [
        "--http-address=127.0.0.1", "--http-port=8000", "--grpc-address=127.0.0.1", "--grpc-port=8001",
        "--metrics-address=127.0.0.1", "--metrics-port=8002",
    ]  # fmt: skip
    assert server_command(ImageInstallation(), sharded, run) == [
        "mpirun",
        "--allow-run-as-root",
        "-n", "1",
        "/opt/tritonserver/bin/tritonserver",
        "--model-repository=/models",
        "--disable-auto-complete-config",
        "--backend-config=python,shm-region-prefix-name=slipstream_7_99_1_0_",
        "--exit-timeout-secs=4",
        *ports,
        ":",
        "-n", "1",
        "/opt/tritonserver/bin/tritonserver",
        "--model-repository=/models",
        "--disable-auto-complete-config",
        "--backend-config=python,shm-region-prefix-name=slipstream_7_99_1_1_",
        "--exit-timeout-secs=4",
        *ports,
        "--model-control-mode=explicit",
        "--load-model=tensorrt_llm",
        ":",
    ]  # fmt: skip


def test_an_engine_of_one_rank_is_started_as_ever(tmp_path: Path) -> None:
    options = ServerOptions(model_repository=Path("/models"), profile="tensorrt_llm")
    run = Run(Path("/cache"), Owner(pid=7, start_ticks=99), serial=1)
    one = with_ranks(options, repository(tmp_path, tensorrt_llm=write_engine(tmp_path / "engine", world_size=1)))
    assert server_command(ImageInstallation(), one, run) == server_command(ImageInstallation(), options, run)


def test_an_engine_that_cannot_be_read_is_not_taken_for_one_rank(tmp_path: Path) -> None:
    loaded = repository(tmp_path, tensorrt_llm=tmp_path / "none")
    with pytest.raises(SetupError, match=r"none/config\.json cannot be read"):
        with_ranks(ServerOptions(model_repository=tmp_path), loaded)


# As OpenMPI does: every rank has a process group of its own, and when one ends all are ended.
MPIRUN = """#!{python}
import subprocess, sys
assert sys.argv[1] == "--allow-run-as-root"
ranks, words = [], sys.argv[2:]
while words:
    end = words.index(":")
    assert words[:2] == ["-n", "1"]
    ranks.append(subprocess.Popen(words[2:end], start_new_session=True))
    words = words[end + 1:]
code = ranks[0].wait()
for rank in ranks:
    rank.kill()
sys.exit(code)
"""
# Rank 0 answers and drains for a moment, the others wait for ever.
SERVER = """#!{python}
import http.server, pathlib, signal, sys, threading, time
if "--model-control-mode=explicit" in sys.argv:
    time.sleep(3600)
port = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--http-port="))
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", port), Ready)
def drain(*_):
    time.sleep(0.3)
    pathlib.Path("{note}").write_text("drained")
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, drain)
server.serve_forever()
"""


def executable(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(python=sys.executable, **values))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("drain", [True, False])
def test_rank_0_drains_and_no_rank_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drain: bool) -> None:
    """mpirun and tritonserver are scripts here: there is neither MPI nor a GPU."""
    executable(tmp_path / "bin/mpirun", MPIRUN)
    executable(tmp_path / "triton/bin/tritonserver", SERVER, note=tmp_path / "note")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    options = ServerOptions(model_repository=tmp_path, profile="tensorrt_llm", ports=Ports.free(), exit_timeout_s=5)
    options = replace(options, world_size=3, engine_models=("tensorrt_llm",))
    server = TritonServer(options, ImageInstallation(tmp_path / "triton"))

    def alive() -> int:
        return sum(any(server.run.name in word for word in words) for _, words in command_lines())

    server.start()
    try:
        server.wait_ready(30)
        wait_until(lambda: alive() == 4)  # mpirun and its ranks
    finally:
        if drain:
            server.stop()
        else:
            server.kill()
    wait_until(lambda: alive() == 0)
    assert (tmp_path / "note").exists() == drain
