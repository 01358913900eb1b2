"""``check``: an engine of either kind, whole and damaged, here and elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import build_engines.check
from build_engines.check import check_engine
from build_engines.tensorrt_llm.compile import compile_tensorrt_llm_engine
from build_engines.tensorrt_llm.settings import TensorRtLlmSettings
from build_engines.tensorrt_llm.toolchain import Toolchain
from python_backend.engine.gpus import Gpu
from python_backend.errors import SetupError
from python_backend.finding import Finding
from tests import tiny_llama
from tests.unit.build_engines.tensorrt_llm.conftest import gpu_machine, h100

__all__ = ["gpu_machine"]
REPOSITORY = Path(__file__).parents[3] / "model_repository"


@pytest.fixture
def engine_dir(tmp_path: Path, gpu_machine: Callable[[], Toolchain]) -> Path:
    """Of one rank."""
    checkpoint_dir = tiny_llama.checkpoint(tmp_path)
    compile_tensorrt_llm_engine(checkpoint_dir, tmp_path / "engine", TensorRtLlmSettings(), toolchain=gpu_machine)
    return tmp_path / "engine"


def on(monkeypatch: pytest.MonkeyPatch, gpus: Sequence[Gpu] | None, version: str | None = "1.2.1") -> None:
    """Pretend to be a machine with these."""

    def present() -> tuple[Gpu, ...]:
        if gpus is None:
            raise SetupError("nvidia-smi is not on PATH.")
        return tuple(gpus)

    monkeypatch.setattr(build_engines.check, "present_gpus", present)
    monkeypatch.setattr(build_engines.check, "_installed", lambda distribution: version)


def problem(findings: list[Finding]) -> str:
    [found] = [finding for finding in findings if not finding.ok]
    return str(found)


def test_a_whole_engine_passes_where_it_was_built(engine_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, [h100()])
    findings = check_engine(engine_dir, content=True, model_repository=REPOSITORY)
    assert [str(finding) for finding in findings if not finding.ok] == []
    assert {finding.check for finding in findings} >= {
        "engine",
        "engine version",
        "GPUs",
        "model",
        "content",
        "tokenizer",
    }


def test_without_a_gpu_the_rest_is_checked(engine_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, None, version=None)
    findings = check_engine(engine_dir)
    assert all(finding.ok for finding in findings)
    assert "no NVIDIA GPU here to compare with" in " ".join(map(str, findings))


def test_what_does_not_fit_is_named(engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, [Gpu(0, "NVIDIA L40S", "8.9", "590.44.01", 46068, 0)])
    assert "was built on NVIDIA H100 80GB HBM3, compute capability 9.0; GPU 0 is NVIDIA L40S, 8.9" in problem(
        check_engine(engine_dir)
    )
    on(monkeypatch, [])
    assert "GPUs: 0 here" in problem(check_engine(engine_dir))
    on(monkeypatch, [h100()], version="1.1.0")
    assert (
        "was built with TensorRT-LLM 1.2.1, this is 1.1.0. Serve it in the image of that version, or build"
        in problem(check_engine(engine_dir))
    )
    on(monkeypatch, [h100()])
    (engine_dir / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert "tokenizer.json does not exist" in problem(check_engine(engine_dir))


def test_an_engine_without_weights_is_not_served(
    tmp_path: Path, gpu_machine: Callable[[], Toolchain], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, [h100()])
    settings = TensorRtLlmSettings(strip_plan=True)
    compile_tensorrt_llm_engine(tiny_llama.checkpoint(tmp_path), tmp_path / "e", settings, toolchain=gpu_machine)
    assert "was built without. Build it without strip_plan" in problem(check_engine(tmp_path / "e"))


def test_a_changed_file_of_the_same_size_is_found_by_its_content(
    engine_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, [h100()])
    (engine_dir / "rank0.engine").write_bytes(b"engine 1")
    assert all(finding.ok for finding in check_engine(engine_dir))
    assert "a file was changed. Build the engine again with `docker run" in problem(
        check_engine(engine_dir, content=True)
    )


def test_a_repository_that_asks_for_more_is_told(
    engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, [h100()])
    text = (REPOSITORY / "tensorrt_llm/config.pbtxt").read_text()

    def asking(old: str, new: str) -> str:
        assert old in text
        (tmp_path / "models/tensorrt_llm").mkdir(parents=True, exist_ok=True)
        (tmp_path / "models/tensorrt_llm/config.pbtxt").write_text(text.replace(old, new))
        return problem(check_engine(engine_dir, model_repository=tmp_path / "models"))

    assert "says max_batch_size 65; the engine was built for 64. Lower it there" in asking(
        "max_batch_size: 64", "max_batch_size: 65"
    )
    ids = 'key: "gpu_device_ids" value { string_value: "0'
    assert "gpu_device_ids '0,1'; the engine has 1 ranks. Name one GPU a rank" in asking(ids, f"{ids},1")
    assert "cannot be read, line:column" in asking("max_batch_size: 64", "max_batch_size: ${it}")


def test_an_engine_without_manifest_is_checked_as_far_as_it_goes(
    engine_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, [h100()])
    (engine_dir / "manifest.json").unlink()
    findings = check_engine(engine_dir)
    assert all(finding.ok for finding in findings)
    assert "without manifest.json" in str(findings[0])
    config = json.loads((engine_dir / "config.json").read_text())
    config["build_config"]["plugin_config"]["use_paged_context_fmha"] = False
    (engine_dir / "config.json").write_text(json.dumps(config))
    said = [str(finding) for finding in check_engine(engine_dir, model_repository=REPOSITORY) if not finding.ok]
    assert len(said) == 2
    assert "sets enable_kv_cache_reuse; the engine lacks use_paged_context_fmha" in said[0]


def test_a_cpu_engine_is_checked_too(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    assert all(finding.ok for finding in check_engine(engine_dir))
    (engine_dir / "openvino_model.bin").write_bytes(b"")
    assert "openvino_model.bin has 0 bytes and manifest.json says" in problem(check_engine(engine_dir))
    assert "manifest.json cannot be read" in problem(check_engine(tmp_path / "none"))
