"""Compiling with an executable that stands in for ``trtllm-build``: success, and every way to fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from build_engines.tensorrt_llm.command import build_command
from build_engines.tensorrt_llm.compile import compile_tensorrt_llm_engine
from build_engines.tensorrt_llm.settings import DraftSettings, LoraSettings, TensorRtLlmSettings
from build_engines.tensorrt_llm.toolchain import Toolchain
from python_backend.engine.gpus import Gpu
from python_backend.engine.manifest import TensorRtLlmManifest
from python_backend.errors import SetupError
from tests import tiny_llama
from tests.unit.build_engines.tensorrt_llm.conftest import h100
from tests.unit.build_engines.tensorrt_llm.fake_trtllm_build import runs

Machine = Callable[[], Toolchain]
DEFAULT = TensorRtLlmSettings()


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    return tiny_llama.checkpoint(tmp_path, tiny_llama.config().sharded(2, 1))


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "tiny"


def no_gpu() -> Toolchain:
    raise SetupError("nvidia-smi is not on PATH.")


def test_the_engine_is_published_with_its_tokenizer_and_manifest(
    tmp_path: Path, checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine
) -> None:
    settings = TensorRtLlmSettings(
        draft=DraftSettings(max_draft_len=4), lora=LoraSettings(target_modules=("attn_q",), max_rank=8)
    )
    heard: list[tuple[int, int, str]] = []
    assert compile_tensorrt_llm_engine(
        checkpoint_dir,
        engine_dir,
        settings,
        max_seq_len=500,
        source_sha256="abc",
        accuracy={"perplexity": 12.5},
        made_by="python -m build_engines build tiny.yaml",
        report=lambda *progress: heard.append(progress),
        toolchain=gpu_machine,
    )
    assert {path.name for path in engine_dir.iterdir()} == {
        "config.json", "rank0.engine", "rank1.engine", "tokenizer.json", "tokenizer_config.json", "manifest.json",
        "xgrammar_tokenizer_info.json",
    }  # fmt: skip
    manifest = TensorRtLlmManifest.load(engine_dir)
    assert (manifest.tp_size, manifest.pp_size, manifest.world_size) == (2, 1, 2)
    assert (manifest.tensorrt_llm_version, manifest.compute_capability) == ("1.2.1", "9.0")
    assert (manifest.quant_algo, manifest.kv_cache_quant_algo, manifest.dtype) == ("W8A16", None, "float16")
    assert (manifest.max_seq_len, manifest.max_batch_size, manifest.max_draft_len) == (500, 64, 4)
    assert manifest.lora is not None
    assert manifest.lora.max_rank == 8
    assert (manifest.source_sha256, manifest.accuracy) == ("abc", {"perplexity": 12.5})
    assert manifest.build_command == "python -m build_engines build tiny.yaml"
    assert set(manifest.files) | {"manifest.json"} == {path.name for path in engine_dir.iterdir()}
    assert heard[-1][:2] == (2, 2)
    assert "rank 1 is there" in (tmp_path / "engines/tiny.log").read_text()


def test_the_tool_gets_the_checked_command_with_the_draft_as_its_output(
    tmp_path: Path, checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine
) -> None:
    compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)
    [got] = runs(tmp_path)
    config = tiny_llama.config().sharded(2, 1)
    wanted = build_command(DEFAULT, config, checkpoint_dir, engine_dir)[1:]
    place = wanted.index("--output_dir") + 1
    assert Path(got[place]).parent.parent == engine_dir.parent
    assert got[:place] + got[place + 1 :] == wanted[:place] + wanted[place + 1 :]
    assert (engine_dir.parent / "timing.cache").read_bytes() == b"timings"


def test_it_is_compiled_again_only_when_something_changed(
    tmp_path: Path, checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine
) -> None:
    def compiled(settings: TensorRtLlmSettings = DEFAULT, toolchain: Machine = gpu_machine) -> bool:
        return compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, settings, toolchain=toolchain)

    assert compiled()
    assert not compiled()
    assert not compiled(toolchain=no_gpu)
    assert not compiled(TensorRtLlmSettings(workers=1, timing_cache=tmp_path / "t"))
    assert compiled(TensorRtLlmSettings(max_batch_size=8))
    assert not compiled(TensorRtLlmSettings(max_batch_size=8))
    assert compiled()
    (engine_dir / "rank1.engine").write_bytes(b"cut")
    assert compiled()
    l40s = tuple(Gpu(index, "NVIDIA L40S", "8.9", "590.44.01", 46068, 0) for index in range(2))
    assert compiled(toolchain=lambda: Toolchain(l40s, None))
    tiny_llama.checkpoint(tmp_path, tiny_llama.config().sharded(2, 1), seed=1)
    assert compiled()
    assert len(runs(tmp_path)) == 6


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("fail", r"failed with exit code 1\. Its log, \S+tiny\.log, ends with:\n(?s:.*)Unsupported model architecture"),
        ("killed", r"was killed by SIGKILL, perhaps for want of memory\. Its log"),
        ("full disk", r"no space is left on \S+engines\. Make room"),
        ("rank missing", r"ended without an error, but \S+ has no rank1\.engine, of 2 ranks\. Its log"),
        ("rank empty", r"left rank0\.engine empty"),
        ("other version", r"is that of TensorRT-LLM 1\.1\.0; engines are for 1\.2\.1"),
    ],
)
def test_after_a_failure_nothing_passes_for_an_engine_and_the_next_run_builds_it(
    checkpoint_dir: Path,
    engine_dir: Path,
    gpu_machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    message: str,
) -> None:
    monkeypatch.setenv("FAKE_TRTLLM_BUILD", ending)
    with pytest.raises(SetupError, match=message):
        compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)
    assert not engine_dir.exists()
    assert {path.name for path in engine_dir.parent.iterdir()} <= {"tiny.log", "timing.cache"}
    monkeypatch.setenv("FAKE_TRTLLM_BUILD", "done")
    assert compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)


def test_a_failure_leaves_the_engine_that_was_there(
    checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)
    before = TensorRtLlmManifest.load(engine_dir)
    monkeypatch.setenv("FAKE_TRTLLM_BUILD", "fail")
    with pytest.raises(SetupError):
        compile_tensorrt_llm_engine(
            checkpoint_dir, engine_dir, TensorRtLlmSettings(max_batch_size=1), toolchain=gpu_machine
        )
    assert TensorRtLlmManifest.load(engine_dir) == before


INTERRUPTED = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored by what runs in a shell's background.
from build_engines.tensorrt_llm.compile import compile_tensorrt_llm_engine
from build_engines.tensorrt_llm.settings import TensorRtLlmSettings
from build_engines.tensorrt_llm.toolchain import Toolchain
from tests.unit.build_engines.tensorrt_llm.conftest import h100
machine = lambda: Toolchain((h100(0), h100(1)), None)
compile_tensorrt_llm_engine(Path(sys.argv[1]), Path(sys.argv[2]), TensorRtLlmSettings(), toolchain=machine)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_interrupted_is_made_again(
    tmp_path: Path, checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(checkpoint_dir), str(engine_dir)]
    environment = {**os.environ, "FAKE_TRTLLM_BUILD": "slow", "PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list(engine_dir.parent.glob(".tiny.*/*/rank0.engine")):
            assert time.monotonic() < deadline, "the build did not begin"
            time.sleep(0.05)
        os.killpg(process.pid, number)
    assert process.returncode
    assert not engine_dir.exists()
    assert compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)
    assert TensorRtLlmManifest.load(engine_dir).world_size == 2


def test_in_the_image_the_same_command_runs_in_a_container(
    tmp_path: Path, checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A docker that only runs what follows the image's name."""
    docker = tmp_path / "bin/docker"
    docker.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'docker.json')!r}).write_text(json.dumps(sys.argv))\n"
        "command = sys.argv[sys.argv.index('trtllm-build'):]\nos.execvp(command[0], command)\n"
    )
    docker.chmod(0o755)
    machine = Toolchain((h100(0), h100(1)), image="the-image")
    assert compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=lambda: machine)
    called = json.loads((tmp_path / "docker.json").read_text())
    assert called[called.index("trtllm-build") - 1] == "the-image"
    mounts = [called[i + 1] for i, word in enumerate(called) if word == "--volume"]
    assert mounts == [f"{checkpoint_dir}:{checkpoint_dir}:ro", f"{engine_dir.parent}:{engine_dir.parent}"]
    output = Path(called[called.index("--output_dir") + 1])
    assert output.is_relative_to(engine_dir.parent)
    assert TensorRtLlmManifest.load(engine_dir).image == "the-image"


def test_without_a_gpu_it_says_what_to_run_where(checkpoint_dir: Path, engine_dir: Path) -> None:
    with pytest.raises(SetupError) as error:
        compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=no_gpu)
    assert "nvidia-smi is not on PATH. On a machine with the GPU, run:\n  docker run --rm" in str(error.value)
    assert f"trtllm-build --checkpoint_dir {checkpoint_dir} --output_dir {engine_dir} " in str(error.value)
    assert not engine_dir.parent.exists()


def test_a_disk_that_is_too_small_is_refused_before_the_build(
    tmp_path: Path, checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(SetupError, match=r"the engine needs about 0\.0 GB and \S+engines has 0\.0 GB free"):
        compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)
    assert not runs(tmp_path)


def test_something_else_is_not_replaced(checkpoint_dir: Path, engine_dir: Path, gpu_machine: Machine) -> None:
    engine_dir.mkdir(parents=True)
    (engine_dir / "diary.txt").write_text("mine")
    with pytest.raises(SetupError, match=r"is in use and has no manifest\.json"):
        compile_tensorrt_llm_engine(checkpoint_dir, engine_dir, DEFAULT, toolchain=gpu_machine)
