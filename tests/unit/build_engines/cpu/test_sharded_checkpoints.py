"""However a model was sharded, its engine is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engines.checkpoint.config import Architecture, QuantAlgo
from build_engines.cpu.compile import compile_cpu_engine
from tests.unit.build_engines.cpu import tiny_checkpoints
from tests.unit.build_engines.cpu.paged_steps import PagedSteps


@pytest.mark.parametrize(
    ("architecture", "quant_algo"),
    [
        ("LlamaForCausalLM", None),
        ("GemmaForCausalLM", "W8A16"),
        ("Qwen2ForCausalLM", "W4A16_AWQ"),
        ("MistralForCausalLM", "FP8"),
        ("Qwen3ForCausalLM", "NVFP4"),
    ],
)
def test_engines_are_equal_to_the_byte(
    tmp_path: Path, architecture: Architecture, quant_algo: QuantAlgo | None
) -> None:
    whole = tiny_checkpoints.config(architecture, quant_algo)
    tensors = tiny_checkpoints.tensors(whole)
    files, tokens = [], []
    for tp_size, pp_size in ((1, 1), (2, 1), (4, 2)):
        folder = tmp_path / f"tp{tp_size}pp{pp_size}"
        sharded = whole.sharded(tp_size, pp_size)
        compile_cpu_engine(tiny_checkpoints.write(folder / "checkpoint", sharded, tensors), folder / "engine")
        files.append([(folder / "engine" / f"openvino_model.{kind}").read_bytes() for kind in ("xml", "bin")])
        tokens.append(PagedSteps(folder / "engine").generate([[1, 2, 3], [9, 8]], 8))
    assert files[1] == files[0]
    assert files[2] == files[0]
    assert tokens[1] == tokens[0]
    assert tokens[2] == tokens[0]


def test_another_model_is_another_engine(tmp_path: Path) -> None:
    engines = []
    for seed in (0, 1):
        config = tiny_checkpoints.config("LlamaForCausalLM", "W4A16_AWQ")
        checkpoint_dir = tiny_checkpoints.checkpoint(tmp_path / f"checkpoint{seed}", config, seed=seed)
        compile_cpu_engine(checkpoint_dir, tmp_path / f"engine{seed}")
        engines.append((tmp_path / f"engine{seed}" / "openvino_model.bin").read_bytes())
    assert engines[0] != engines[1]
