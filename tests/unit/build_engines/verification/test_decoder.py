"""The one forward that verification is built on, against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines.checkpoint.config import Architecture, CheckpointConfig, LinearScaling, QuantAlgo
from build_engines.checkpoint.dtypes import Array, DtypeName
from build_engines.checkpoint.writer import TensorSource
from build_engines.quantization.linear import read_linear
from build_engines.quantization.transformers_model import transformers_model
from build_engines.verification.decoder import Decoder
from tests import tiny_llama, tiny_models
from tests.unit.build_engines.verification import tiny_quantized


def token_ids(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, tiny_llama.VOCAB_SIZE, count))


def logits_of_transformers(config: CheckpointConfig, tensor: TensorSource) -> torch.Tensor:
    model = transformers_model(config, tensor)
    with torch.inference_mode():
        logits: torch.Tensor = model(token_ids(300)[None]).logits[0]
    return logits


def check_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Float32 over two layers: logits reach 7, and differ by 1.4e-5 at most where this was written."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_equals_transformers(tmp_path: Path, architecture: Architecture, dtype: DtypeName) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_models.config(architecture, dtype=dtype))
    found = Decoder(source.config, source.tensor)(token_ids(300))
    check_equal(found, logits_of_transformers(source.config, source.tensor))


def test_linear_rope_scaling_equals_transformers(tmp_path: Path) -> None:
    scaling = LinearScaling(factor=4.0).model_dump()
    source = tiny_quantized.source(tmp_path / "source", tiny_models.config("LlamaForCausalLM", rotary_scaling=scaling))
    plain = Decoder(source.config.changed(rotary_scaling=None), source.tensor)(token_ids(300))
    found = Decoder(source.config, source.tensor)(token_ids(300))
    check_equal(found, logits_of_transformers(source.config, source.tensor))
    assert (found - plain).abs().max() > 0.1


def test_a_batch_is_its_sequences(tmp_path: Path) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_models.config("Qwen3ForCausalLM"))
    decoder = Decoder(source.config, source.tensor)
    batch = token_ids(40).reshape(2, 20)
    check_equal(decoder(batch), torch.stack([decoder(sequence) for sequence in batch]))


@pytest.mark.parametrize("quant_algo", tiny_quantized.QUANT_ALGOS)
def test_quantized_weights_are_dequantized(tmp_path: Path, quant_algo: QuantAlgo | None) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None))
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", tiny_quantized.config(quant_algo), source)

    def dequantized(name: str) -> Array:
        layer = name.removesuffix(".weight")
        if not layer.endswith(("qkv", "dense", "fc", "gate", "proj")):
            return source.tensor(name)
        return read_linear(checkpoint.tensor, checkpoint.config.quantization, layer).dequantize()

    found = Decoder(checkpoint.config, checkpoint.tensor)(token_ids(300))
    check_equal(found, logits_of_transformers(source.config, dequantized))


@pytest.mark.parametrize(
    ("quant_algo", "kv_cache", "changes"),
    [
        ("FP8", None, True),
        ("W8A8_SQ_PER_CHANNEL", None, True),
        ("W4A8_AWQ", None, True),
        ("NVFP4", None, True),
        (None, "FP8", True),
        (None, "INT8", True),
        (None, None, False),
        ("W8A16", None, False),
        ("W4A16_AWQ", None, False),
    ],
)
def test_simulation_rounds_what_an_engine_rounds(
    tmp_path: Path, quant_algo: QuantAlgo | None, kv_cache: str | None, changes: bool
) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None))
    config = tiny_quantized.config(quant_algo, kv_cache=kv_cache)
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", config, source)
    exact = Decoder(config, checkpoint.tensor)(token_ids(64))
    rounded = Decoder(config, checkpoint.tensor, simulate=True)(token_ids(64))
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.5 if changes else error == 0
