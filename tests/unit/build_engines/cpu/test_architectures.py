"""An engine of every architecture and format computes what transformers computes on the dequantized weights."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.config import Architecture, CheckpointConfig, LinearScaling, QuantAlgo
from build_engines.checkpoint.dtypes import DtypeName
from build_engines.cpu.compile import compile_cpu_engine
from tests import tiny_llama, tiny_models
from tests.reference_model import ReferenceModel
from tests.unit.build_engines.cpu import tiny_checkpoints
from tests.unit.build_engines.cpu.paged_steps import PagedSequence, PagedSteps

FORMATS: tuple[tuple[QuantAlgo | None, DtypeName], ...] = (
    (None, "float16"),
    (None, "bfloat16"),
    ("W8A16", "float16"),
    ("W4A16", "bfloat16"),
    ("W4A16_AWQ", "float16"),
    ("W4A8_AWQ", "bfloat16"),
    ("W8A8_SQ_PER_CHANNEL", "float16"),
    ("FP8", "bfloat16"),
    ("NVFP4", "float16"),
)
PROMPTS = [[5, 6, 7], list(range(40, 110)), [300]]
NUM_TOKENS = 8


def check(tmp_path: Path, config: CheckpointConfig) -> None:
    checkpoint_dir = tiny_checkpoints.checkpoint(tmp_path / "checkpoint", config)
    compile_cpu_engine(checkpoint_dir, tmp_path / "engine")
    oracle = ReferenceModel(checkpoint_dir, quantize_lm_head=config.quantization.quant_algo is not None)
    steps = PagedSteps(tmp_path / "engine", outputs=["token_ids", "logits"])

    tokens = np.random.default_rng(1).integers(0, tiny_llama.VOCAB_SIZE, 150).tolist()
    found = steps.infer([(PagedSequence(tokens, list(range(6))), 150)], range(150), "logits")
    expected = oracle.logits(tokens)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()

    together = steps.generate(PROMPTS, NUM_TOKENS, chunk=7)
    for prompt, output in zip(PROMPTS, together, strict=True):
        logits = oracle.logits([*prompt, *output[:-1]])[len(prompt) - 1 :]
        assert output == logits.argmax(axis=1).tolist()
    assert [steps.generate([prompt], NUM_TOKENS)[0] for prompt in PROMPTS] == together


@pytest.mark.parametrize(
    ("architecture", "quant_algo", "dtype"),
    [(architecture, *form) for architecture, form in product(tiny_models.ARCHITECTURES, FORMATS)],
)
def test_equals_transformers(
    tmp_path: Path, architecture: Architecture, quant_algo: QuantAlgo | None, dtype: DtypeName
) -> None:
    check(tmp_path, tiny_checkpoints.config(architecture, quant_algo, dtype))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("GemmaForCausalLM", {"head_size": 256, "num_attention_heads": 2}),
        ("LlamaForCausalLM", {"rotary_scaling": LinearScaling(factor=4.0).model_dump()}),
        ("Qwen3ForCausalLM", {"head_size": 128}),
    ],
)
def test_equals_transformers_in_other_shapes(
    tmp_path: Path, architecture: Architecture, changes: dict[str, object]
) -> None:
    check(tmp_path, tiny_checkpoints.config(architecture, "W4A16_AWQ").changed(**changes))
