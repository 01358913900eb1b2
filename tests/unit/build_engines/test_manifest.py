"""An engine directory is whole, or refused with the command that makes it."""

from __future__ import annotations

import json
from pathlib import Path

import openvino as ov
import pytest
from tokenizers import Tokenizer

from build_engines.cpu.compile import compile_cpu_engine
from python_backend.engine.manifest import CpuManifest, TensorRtLlmManifest, load_manifest
from python_backend.engine.openvino_model import read_model
from python_backend.errors import SetupError
from tests import tiny_llama


def edit_manifest(engine_dir: Path, **changes: object) -> None:
    path = engine_dir / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_describes_the_engine(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path, max_seq_len=500)
    manifest, config = CpuManifest.load(engine_dir), tiny_llama.config()
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer.json"))
    assert (manifest.kind, manifest.quant_algo, manifest.quantize_lm_head) == ("cpu", "W8A16", True)
    assert (manifest.max_seq_len, manifest.max_position_embeddings) == (500, config.max_position_embeddings)
    assert (manifest.vocab_size, manifest.head_size) == (config.vocab_size, config.head_size)
    ids = [tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]
    assert [manifest.bos_id, manifest.end_id, manifest.pad_id] == ids
    assert set(manifest.files) | {"manifest.json"} == {path.name for path in engine_dir.iterdir()}


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin", "tokenizer.json", "manifest.json"])
def test_a_missing_or_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    path = engine_dir / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(SetupError, match=rf"{name} .*python -m build_engines "):
        CpuManifest.load(engine_dir)
    path.unlink()
    with pytest.raises(SetupError, match=rf"{name} .*python -m build_engines "):
        CpuManifest.load(engine_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, 'key "format_version" is 1'),
        ({"kind": "gpu"}, "key \"kind\" is 'gpu', not one of cpu, tensorrt_llm"),
        ({"max_seq_length": 9}, 'unknown key "max_seq_length"; did you mean "max_seq_len"'),
    ],
)
def test_a_manifest_of_another_format_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    edit_manifest(engine_dir, **changes)
    with pytest.raises(SetupError, match=f"{message}.*python -m build_engines compile-cpu"):
        CpuManifest.load(engine_dir)


def test_a_broken_engine_is_built_again_by_the_command_in_its_manifest(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    edit_manifest(engine_dir, build_command="python -m build_engines build mine.yaml", format_version=1)
    with pytest.raises(SetupError, match=r"build the engine again with `python -m build_engines build mine\.yaml`"):
        CpuManifest.load(engine_dir)


def test_an_engine_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    assert load_manifest(engine_dir) == CpuManifest.load(engine_dir)
    with pytest.raises(SetupError, match="holds an engine of kind 'cpu', which cannot run here"):
        TensorRtLlmManifest.load(engine_dir)


def test_an_engine_of_another_openvino_is_refused(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    edit_manifest(engine_dir, openvino_version="2025.1.0")
    with pytest.raises(SetupError, match=r"compiled with OpenVINO 2025\.1\.0.*python -m build_engines compile-cpu"):
        read_model(ov.Core(), engine_dir)


def test_the_model_has_only_the_outputs_asked_for(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    for outputs in (["token_ids"], ["logits"], ["token_ids", "logits"]):
        model = read_model(ov.Core(), engine_dir, outputs=outputs)
        assert [port.get_any_name() for port in model.outputs] == outputs


def test_an_engine_is_compiled_again_only_when_something_changed(tmp_path: Path) -> None:
    checkpoint_dir, engine_dir = tiny_llama.checkpoint(tmp_path), tmp_path / "engine"
    assert compile_cpu_engine(checkpoint_dir, engine_dir)
    assert not compile_cpu_engine(checkpoint_dir, engine_dir)
    assert compile_cpu_engine(checkpoint_dir, engine_dir, max_seq_len=100)
    assert compile_cpu_engine(checkpoint_dir, engine_dir, max_seq_len=100, quantize_lm_head=False)
    (engine_dir / "openvino_model.bin").write_bytes(b"")
    assert compile_cpu_engine(checkpoint_dir, engine_dir, max_seq_len=100, quantize_lm_head=False)
    tiny_llama.checkpoint(tmp_path, seed=1)
    assert compile_cpu_engine(checkpoint_dir, engine_dir, max_seq_len=100, quantize_lm_head=False)
    assert not compile_cpu_engine(checkpoint_dir, engine_dir, max_seq_len=100, quantize_lm_head=False)


@pytest.mark.parametrize("max_seq_len", [0, 1025])
def test_a_length_that_the_model_does_not_have_is_refused(tmp_path: Path, max_seq_len: int) -> None:
    with pytest.raises(SetupError, match=f"max_seq_len {max_seq_len} is not between 1 and the model's 1024 positions"):
        tiny_llama.engine(tmp_path, max_seq_len=max_seq_len)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", '{"eos_token": "<|nope|>"}', "eos_token '<|nope|>' is not in tokenizer.json"),
        ("tokenizer_config.json", "{}", "names no eos_token"),
        ("tokenizer_config.json", "{", "no valid JSON"),
        ("tokenizer_config.json", "[]", "holds a list, not an object"),
        ("tokenizer.json", "{}", "is no tokenizer"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    checkpoint_dir = tiny_llama.checkpoint(tmp_path)
    (checkpoint_dir / name).write_text(text)
    with pytest.raises(SetupError, match=message.replace("|", r"\|")):
        compile_cpu_engine(checkpoint_dir, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
