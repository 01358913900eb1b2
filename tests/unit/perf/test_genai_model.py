"""The peer's model computes what transformers computes on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from build_engines.cpu.compile import compile_cpu_engine
from perf import genai_model
from perf.genai_ir import write_genai_model
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import mode_properties
from python_backend.errors import SetupError
from tests import tiny_llama
from tests.reference_model import ReferenceModel


@pytest.mark.parametrize("tied", [True, False])
def test_stateful_steps_equal_transformers(tmp_path: Path, tied: bool) -> None:
    checkpoint_dir = tiny_llama.checkpoint(tmp_path, tiny_llama.config(tied=tied))
    write_genai_model(checkpoint_dir, tmp_path / "genai")
    core = ov.Core()
    exact = mode_properties(core, ExecutionMode.EXACT)
    request = core.compile_model(tmp_path / "genai" / "openvino_model.xml", "CPU", exact).create_infer_request()
    tokens = np.random.default_rng(0).integers(0, tiny_llama.VOCAB_SIZE, (2, 40))
    expected = [ReferenceModel(checkpoint_dir, quantize_lm_head=True).logits(sequence.tolist()) for sequence in tokens]
    for begin, end in ((0, 25), (25, 26), (26, 40)):
        found = request.infer(
            {
                "input_ids": tokens[:, begin:end],
                "attention_mask": np.ones((2, end), np.int64),
                "position_ids": np.tile(np.arange(begin, end), (2, 1)),
                "beam_idx": np.arange(2, dtype=np.int32),
            }
        )["logits"]
        for row, logits in zip(found, expected, strict=True):
            assert np.abs(row - logits[begin:end]).max() < 1e-4 * np.abs(logits).max()


def test_knows_the_end_token(tmp_path: Path) -> None:
    write_genai_model(tiny_llama.checkpoint(tmp_path), tmp_path / "genai")
    generation = json.loads((tmp_path / "genai" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": tiny_llama.SPECIAL_TOKENS.index("<|im_end|>")}


def test_is_made_once_for_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genai_model, "CACHE_DIR", tmp_path / "cache")
    engine_dir, checkpoint_dir = tiny_llama.engine(tmp_path), tmp_path / "checkpoint"
    model_dir = genai_model.genai_model(engine_dir, checkpoint_dir)
    made = (model_dir / "openvino_model.bin").stat()
    assert genai_model.genai_model(engine_dir, checkpoint_dir) == model_dir
    assert (model_dir / "openvino_model.bin").stat().st_ino == made.st_ino
    compile_cpu_engine(checkpoint_dir, engine_dir, quantize_lm_head=False)
    other = genai_model.genai_model(engine_dir, checkpoint_dir)
    assert (other / "openvino_model.bin").stat().st_size > made.st_size


def test_refuses_the_checkpoint_of_another_engine(tmp_path: Path) -> None:
    engine_dir = tiny_llama.engine(tmp_path)
    with pytest.raises(SetupError, match="was not made from"):
        genai_model.genai_model(engine_dir, tiny_llama.checkpoint(tmp_path, seed=1))
