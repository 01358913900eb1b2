"""``python -m build_engines``: exit codes, messages, and the demo engine from beginning to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from build_engines.__main__ import main
from build_engines.sources.demo_model import demo_gguf
from python_backend.engine.manifest import CpuManifest
from tests import tiny_llama
from tests.reference_model import ReferenceModel
from tests.unit.build_engines.cpu.paged_steps import PagedSteps

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes" / "smollm2-135m-int8.yaml"
ENGINE = Path("engines/smollm2-135m-int8")
QUESTIONS = [
    "What is the capital of France?",
    "List three prime numbers.",
    "Write a short poem about the sea.",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the demo's recipe was built."""
    folder = tmp_path_factory.mktemp("demo")
    with chdir(folder):
        assert main(["build", str(RECIPE)]) == 0
        yield folder


def chat_ids(folder: Path, question: str) -> list[int]:
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    return list(Tokenizer.from_file(str(folder / ENGINE / "tokenizer.json")).encode(text).ids)


def test_the_demo_engine_knows_the_capital_of_france(demo: Path) -> None:
    output = PagedSteps(demo / ENGINE).generate([chat_ids(demo, QUESTIONS[0])], 8)[0]
    tokenizer = Tokenizer.from_file(str(demo / ENGINE / "tokenizer.json"))
    assert tokenizer.decode(output) == "The capital of France is Paris."
    assert output[-1] == CpuManifest.load(demo / ENGINE).end_id


def test_the_demo_engine_equals_transformers(demo: Path) -> None:
    prompts = [chat_ids(demo, question) for question in QUESTIONS]
    oracle = ReferenceModel(demo / "checkpoints" / ENGINE.name, quantize_lm_head=True)
    found = PagedSteps(demo / ENGINE).generate(prompts, 16, chunk=20)
    for prompt, output in zip(prompts, found, strict=True):
        logits = oracle.logits([*prompt, *output[:-1]])
        assert logits[len(prompt) - 1 :].argmax(axis=1).tolist() == output


def test_a_second_demo_has_nothing_to_do(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / ENGINE / "manifest.json").read_bytes()
    assert main(["build", str(RECIPE)]) == 0
    assert capsys.readouterr().out.count("up to date") == 3
    assert (demo / ENGINE / "manifest.json").read_bytes() == before


def test_the_demo_engine_is_found_whole(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(demo / ENGINE)]) == 0
    assert "LlamaForCausalLM, W8A16" in capsys.readouterr().out


def test_what_is_wrong_with_an_engine_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = tiny_llama.engine(tmp_path)
    weights = engine / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["check", str(engine)]) == 1
    printed = capsys.readouterr()
    assert "it was cut short or changed" in printed.out
    assert "python -m build_engines compile-cpu" in printed.out
    assert "cannot be served as it is" in printed.err


def test_the_demo_is_verified_on_text(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(demo / "checkpoints" / ENGINE.name)
    code = main(["verify", checkpoint, str(demo_gguf()), "--max-tokens", "256", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["text"]["predicted_tokens"] == 255
    assert 0 < report["text"]["kl_divergence"] < 0.02
    assert report["text"]["top1_agreement"] > 0.9
    assert code == (0 if report["passed"] else 1)  # So few tokens may or may not keep a limit.


def test_compile_with_limits(tmp_path: Path) -> None:
    checkpoint, engine = str(tiny_llama.checkpoint(tmp_path)), str(tmp_path / "engine")
    assert main(["compile-cpu", checkpoint, engine, "--max-seq-len", "64", "--no-quantize-lm-head"]) == 0
    manifest = json.loads((tmp_path / "engine" / "manifest.json").read_text())
    assert (manifest["max_seq_len"], manifest["quantize_lm_head"]) == (64, False)


def test_a_failure_is_one_readable_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build_engines", "compile-cpu", str(tmp_path / "none"), str(tmp_path / "engine")]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "config.json does not exist" in result.stderr


def test_nobody_has_to_read_to_the_end() -> None:
    command = [sys.executable, "-m", "build_engines", "schema"]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writer)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


def test_wrong_usage_is_told_apart() -> None:
    for words in (["compile-cpu"], ["verify", "c", "m", "--max-tokens", "1"], ["accuracy", "--samples", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
