"""A recipe from beginning to end: what is made, what is made again, and what an interruption leaves."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from build_engines.__main__ import main
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.safetensors_file import SafetensorsWriter
from build_engines.cpu.compile import compile_cpu_engine
from build_engines.publish import workplace
from python_backend.engine.manifest import CpuManifest
from tests import tiny_llama
from tests.unit.build_engines.cpu.paged_steps import PagedSteps
from tests.unit.build_engines.sources.tiny_gguf import config, write_gguf

STEPS = ("checkpoint", "verify", "compile CPU engine")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe of a tiny model, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    return change(tmp_path / "tiny.yaml")


def change(path: Path, **keys: Any) -> Path:
    plain: dict[str, Any] = {
        "name": "tiny",
        "source": "model.gguf",
        "quantization": {"format": "int8_wo", "dtype": "float16"},
        "verification": {"text": "none"},
        "cpu": {},
    }
    path.write_text(yaml.safe_dump(plain | keys))
    return path


def build(recipe: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The steps that had something to do, and what went wrong."""
    capsys.readouterr()
    code = main(["build", recipe.name])
    printed = capsys.readouterr()
    assert (code == 0) == (printed.err == ""), printed
    lines = [line for line in printed.out.splitlines() if line.startswith(STEPS) and " s" in line]
    return [line.partition(":")[0] for line in lines if "up to date" not in line], printed.err


def test_everything_is_made_once(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(recipe, capsys) == (list(STEPS), "")
    assert build(recipe, capsys) == ([], "")
    assert Checkpoint.open(Path("checkpoints/tiny")).config.quantization.quant_algo == "W8A16"
    manifest = CpuManifest.load(Path("engines/tiny-cpu"))
    assert manifest.build_command == "python -m build_engines build tiny.yaml"
    assert manifest.source_sha256
    assert manifest.accuracy
    assert 0 < manifest.accuracy["mean_weight_error"] < 0.02


def test_only_what_has_changed_is_made_again(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(recipe, capsys)
    change(recipe, max_seq_len=64)
    assert build(recipe, capsys)[0] == ["compile CPU engine"]
    change(recipe, max_seq_len=64, verification={"text": "none", "max_tokens": 100})
    assert build(recipe, capsys)[0] == ["verify"]
    change(recipe, max_seq_len=64, verification={"text": "none", "max_tokens": 100}, parallel={"tp_size": 2})
    assert build(recipe, capsys)[0] == list(STEPS)
    write_gguf(Path("model.gguf"), config(), tiny_llama.tensors(config(), seed=1))
    assert build(recipe, capsys)[0] == list(STEPS)
    Path("checkpoints/tiny/rank1.safetensors").unlink()
    assert "checkpoint" in build(recipe, capsys)[0]


def test_what_was_moved_is_still_the_same(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(recipe, capsys)
    Path("elsewhere").mkdir()
    Path("model.gguf").rename("elsewhere/my model.gguf")
    assert "model.gguf does not exist" in build(recipe, capsys)[1]
    assert main(["build", recipe.name, "--source", "elsewhere/my model.gguf"]) == 0
    assert capsys.readouterr().out.count("up to date") == len(STEPS)
    shutil.rmtree("engines")
    assert main(["build", recipe.name, "--source", "elsewhere/my model.gguf"]) == 0
    command = CpuManifest.load(Path("engines/tiny-cpu")).build_command
    assert command == "python -m build_engines build tiny.yaml --source 'elsewhere/my model.gguf'"


def test_settings_without_effect_change_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(recipe, capsys)
    calibration = {"samples": 3, "files": ["none.txt"]}
    change(recipe, quantization={"format": "int8_wo", "dtype": "float16", "calibration": calibration})
    assert build(recipe, capsys) == ([], "")


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_a_damaged_verification_is_made_again(recipe: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    build(recipe, capsys)
    Path("checkpoints/tiny/verification.json").write_text(damage)
    assert build(recipe, capsys) == (["verify"], "")


def test_one_recipe_is_built_once_at_a_time(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with workplace(Path("checkpoints/tiny"), "build"):
        assert "another process is making checkpoints/tiny" in build(recipe, capsys)[1]
    assert build(recipe, capsys) == (list(STEPS), "")


def test_sharding_does_not_change_the_tokens(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = []
    for parallel in ({}, {"tp_size": 4}, {"tp_size": 2, "pp_size": 2}):
        change(recipe, parallel=parallel)
        assert build(recipe, capsys)[1] == ""
        tokens.append(PagedSteps(Path("engines/tiny-cpu")).generate([[1, 5, 9, 4]], 16))
    assert tokens[0] == tokens[1] == tokens[2]


def test_a_checkpoint_that_is_not_its_source_stops_the_build(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(recipe, verification={"text": "none", "thresholds": {"max_weight_error": 1e-6}})
    done, error = build(recipe, capsys)
    assert "compile CPU engine" not in done
    assert "verification.thresholds.max_weight_error" in error
    assert not Path("engines").exists()
    assert not json.loads(Path("checkpoints/tiny/verification.json").read_text())["report"]["passed"]
    assert build(recipe, capsys)[1] == error  # What failed is not taken for done.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"parallel": {"tp_size": 3}}, "num_attention_heads 4 cannot be divided by tp_size 3"),
        ({"parallel": {"pp_size": 5}}, "num_hidden_layers 2 cannot be divided into pp_size 5 stages"),
        ({"quantization": {"format": "int4_wo", "dtype": "float16", "group_size": 48}}, "48; group_size 32 fits"),
        ({"source": "none.gguf"}, "none.gguf"),
        ({"max_seq_len": 2000}, "max_seq_len 2000 is not between 1 and the model's 1024 positions"),
        ({"tensorrt_llm": {"max_num_tokens": 8, "max_batch_size": 9}}, "--max_num_tokens 8 is less than 9"),
        ({"tensorrt_llm": {"gpu": "T4"}}, "T4 has compute capability 7.5"),
        ({"verification": {"text": ["none.txt"]}}, "none.txt, a text that the recipe names, does not exist"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    recipe: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    change(recipe, **keys)
    assert message in build(recipe, capsys)[1]
    assert not Path("checkpoints").exists()
    assert main(["build", recipe.name, "--dry-run"]) == 1


def test_another_model_than_expected_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 27, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 32, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "dtype": "float16",
    }  # fmt: skip
    Path("config.json").write_text(json.dumps(expected))
    change(recipe, expects="config.json")
    error = build(recipe, capsys)[1]
    assert "the recipe expects" in error
    assert not Path("checkpoints").exists()


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with largest_file(50_000):
        assert "checkpoints/tiny cannot be written (File too large)" in build(recipe, capsys)[1]
    assert list(Path("checkpoints").iterdir()) == []
    assert main(["build", recipe.name]) == 0
    change(recipe, max_seq_len=64)
    with largest_file(50_000):
        assert "openvino_model.xml cannot be written" in build(recipe, capsys)[1]
    assert CpuManifest.load(Path("engines/tiny-cpu")).max_seq_len == 1024  # What was there still serves.
    assert build(recipe, capsys)[0] == ["compile CPU engine"]


def test_an_interrupted_build_goes_on(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(SafetensorsWriter, "write", interrupt)
        assert main(["build", recipe.name]) == 130
    assert "run it again" in capsys.readouterr().err
    assert list(Path("checkpoints").iterdir()) == []
    with monkeypatch.context() as context:
        context.setattr("openvino.save_model", interrupt)
        assert main(["build", recipe.name]) == 130
    capsys.readouterr()
    assert list(Path("engines").iterdir()) == []
    assert build(recipe, capsys)[0] == ["compile CPU engine"]


def test_a_chat_template_of_its_own_travels_along(tmp_path: Path) -> None:
    checkpoint = tiny_llama.checkpoint(tmp_path)
    before = Checkpoint.open(checkpoint).sha256()
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    assert Checkpoint.open(checkpoint).sha256() != before
    compile_cpu_engine(checkpoint, tmp_path / "engine")
    assert (tmp_path / "engine" / "chat_template.jinja").read_text() == "{{ messages }}"
