"""What a model cannot have is refused before any work, and without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.quantization.quantize import quantized_config
from build_engines.quantization.settings import QuantizationSettings
from python_backend.errors import SetupError
from tests import tiny_models

LLAMA = tiny_models.config("LlamaForCausalLM")
#: SmolLM2-135M's dimensions: nothing divides by 128, and heads only by 3.
SMOL = LLAMA.changed(
    hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_size=64, intermediate_size=1536
)


def make(source: CheckpointConfig, tp_size: int = 1, pp_size: int = 1, **keys: object) -> CheckpointConfig:
    return quantized_config(source, QuantizationSettings.model_validate(keys), tp_size=tp_size, pp_size=pp_size)


def test_everything_else_stays() -> None:
    made = make(LLAMA, 2, 2, format="fp8", dtype="bfloat16", kv_cache="int8")
    assert (made.dtype, made.quantization.quant_algo, made.quantization.kv_cache_quant_algo) == (
        "bfloat16",
        "FP8",
        "INT8",
    )
    assert (made.mapping.tp_size, made.mapping.pp_size, made.use_parallel_embedding) == (2, 2, True)
    free = {"dtype", "quantization", "mapping", "use_parallel_embedding"}
    assert made.model_dump(exclude=free) == LLAMA.model_dump(exclude=free)


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_qwen_type_is_kept(architecture: Any) -> None:
    source = tiny_models.config(architecture)
    assert source.qwen_type is not None
    assert make(source, format="int8_wo").qwen_type == source.qwen_type


@pytest.mark.parametrize(
    ("source", "keys", "message"),
    [
        (SMOL, {"format": "int4_awq"}, "hidden_size 576 cannot be divided by group_size 128; group_size 64 fits"),
        (SMOL, {"format": "int4_wo", "group_size": 128}, "group_size 64 fits"),
        (
            LLAMA.changed(hidden_size=256, head_size=64, intermediate_size=512),
            {"format": "w4a8_awq", "tp_size": 4},
            "attention.dense's inputs a rank 64 cannot be divided by group_size 128; group_size 64 fits",
        ),
        (SMOL, {"tp_size": 2}, "num_attention_heads 9 cannot be divided by tp_size 2"),
        (LLAMA, {"pp_size": 3}, "num_hidden_layers 2 cannot be divided into pp_size 3 stages"),
        (
            LLAMA.changed(intermediate_size=48),
            {"format": "nvfp4", "tp_size": 2},
            "mlp.proj's inputs a rank 24 cannot be divided by group_size 16; no usual group_size fits",
        ),
        (LLAMA.changed(dtype="float32"), {}, "weights are float32.*quantization.dtype: bfloat16"),
        (LLAMA.changed(quantization={"quant_algo": "FP8"}), {"format": "fp8"}, r"quantized already \(FP8\)"),
        (LLAMA, {"format": "fp8", "calibration": {"max_tokens": 2048}}, "max_tokens is 2048; the model has 1024"),
    ],
)
def test_what_the_model_cannot_have_is_refused(source: CheckpointConfig, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        make(source, **keys)


def test_uncalibrated_formats_do_not_care_about_positions() -> None:
    assert make(LLAMA.changed(max_position_embeddings=128), format="int8_wo").quantization.quant_algo == "W8A16"


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; import build_engines.quantization.quantize; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'modelopt')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
