"""A GGUF file opens as the model that llama.cpp's converter made it from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from build_engines.checkpoint.config import Architecture, LinearScaling, Llama3Scaling
from build_engines.checkpoint.dtypes import Array
from build_engines.quantization.transformers_model import transformers_model
from build_engines.sources.gguf_model import GgufModel
from build_engines.sources.gguf_rope import llama3_factors
from python_backend.errors import SetupError
from tests.unit.build_engines.sources.random_models import logits, random_model
from tests.unit.build_engines.sources.tiny_gguf import ARCHITECTURES, config_of, from_hugging_face, write

LLAMA3 = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


def state(model: Any) -> dict[str, Array]:
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


def saved(
    folder: Path,
    architecture: Architecture,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Array] | None = None,
) -> Path:
    """A random model's file. ``tensors`` are added to its own."""
    config = config_of(architecture)
    weights = from_hugging_face(config, state(random_model(config)))
    if config.tie_word_embeddings:
        del weights["output.weight"]
    return write(folder / "model.gguf", config, {**weights, **(tensors or {})}, **(metadata or {}))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_the_converted_models_bit_for_bit(tmp_path: Path, architecture: Architecture, tied: bool) -> None:
    config = config_of(architecture, tie_word_embeddings=tied)
    model = random_model(config)
    weights = from_hugging_face(config, state(model))
    if tied:
        del weights["output.weight"]
    source = GgufModel.open(write(tmp_path / "model.gguf", config, weights))
    assert source.config == config
    assert source.notices == ()
    assert torch.equal(logits(transformers_model(source.config, source.tensor)), logits(model))


def test_what_llama_cpp_leaves_out_has_its_defaults(tmp_path: Path) -> None:
    missing = {"gemma__rope__freq_base": None, "gemma__rope__dimension_count": None}
    source = GgufModel.open(saved(tmp_path, "GemmaForCausalLM", missing))
    assert (source.config.rotary_base, source.config.head_size) == (10_000.0, 32)


def test_a_sliding_window_limits_positions_and_says_so(tmp_path: Path) -> None:
    source = GgufModel.open(saved(tmp_path, "LlamaForCausalLM", {"llama__attention__sliding_window": 512}))
    assert source.config.max_position_embeddings == 512
    assert source.notices == (
        "attention has a sliding window of 512 tokens, which the engines do not have: "
        "max_position_embeddings is 512 instead of 1024.",
    )


def test_linear_scaling(tmp_path: Path) -> None:
    scaled = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    source = GgufModel.open(saved(tmp_path, "LlamaForCausalLM", scaled))
    assert source.config.rotary_scaling == LinearScaling(factor=4.0)


def converter_factors(scaling: Llama3Scaling, base: float, head_size: int) -> Array:
    """As convert_hf_to_gguf.py computes them: in float32, one by one."""
    frequencies = 1.0 / (base ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size))
    low = scaling.original_max_position_embeddings / scaling.low_freq_factor
    high = scaling.original_max_position_embeddings / scaling.high_freq_factor
    factors = []
    for frequency in frequencies:
        wavelength = 2 * torch.pi / frequency
        if wavelength < high:
            factors.append(torch.tensor(1.0))
        elif wavelength > low:
            factors.append(torch.tensor(scaling.factor))
        else:
            turns = scaling.original_max_position_embeddings / wavelength
            smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("positions", [256, 4096, 8192])
@pytest.mark.parametrize(("base", "head_size"), [(500_000.0, 128), (500_000.0, 64), (10_000.0, 32)])
def test_llama3_factors_are_those_of_the_converter(factor: float, positions: int, base: float, head_size: int) -> None:
    changes = {"factor": factor, "original_max_position_embeddings": positions}
    scaling = Llama3Scaling.model_validate(LLAMA3.model_dump() | changes)
    expected = converter_factors(scaling, base, head_size)
    np.testing.assert_allclose(llama3_factors(scaling, base, head_size), expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3s_scaling_is_found_again(tmp_path: Path, factor: float) -> None:
    scaling = Llama3Scaling.model_validate(
        LLAMA3.model_dump() | {"factor": factor, "original_max_position_embeddings": 256}
    )
    config = config_of("LlamaForCausalLM", rotary_scaling=scaling.model_dump())
    model = random_model(config)
    weights = from_hugging_face(config, state(model))
    del weights["output.weight"]
    weights["rope_freqs.weight"] = converter_factors(scaling, config.rotary_base, config.head_size)
    source = GgufModel.open(write(tmp_path / "model.gguf", config, weights))
    assert source.config.rotary_scaling == scaling
    assert torch.equal(logits(transformers_model(source.config, source.tensor)), logits(model))


@pytest.mark.parametrize(
    "factors",
    [
        converter_factors(LLAMA3.model_copy(update={"high_freq_factor": 3.99}), 10_000.0, 32),
        converter_factors(LLAMA3.model_copy(update={"original_max_position_embeddings": 6000}), 10_000.0, 32),
        np.linspace(1, 8, 16),
        np.full(16, np.nan),
        np.full(16, -1),
        np.ones(8),
    ],
    ids=["high", "positions", "ramp", "nan", "negative", "short"],
)
def test_other_factors_are_refused(tmp_path: Path, factors: Array) -> None:
    path = saved(tmp_path, "LlamaForCausalLM", tensors={"rope_freqs.weight": factors})
    with pytest.raises(SetupError, match=r'"rope_freqs\.weight" is not Llama 3\'s scaling .* Import the Hugging Face'):
        GgufModel.open(path)


def test_factors_beside_another_scaling_are_refused(tmp_path: Path) -> None:
    scaled = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    path = saved(tmp_path, "LlamaForCausalLM", scaled, {"rope_freqs.weight": np.ones(16)})
    with pytest.raises(SetupError, match=r'scaled by "linear" with rope_freqs\.weight, which cannot be imported'):
        GgufModel.open(path)


def test_a_bias_that_the_architecture_does_not_have_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "LlamaForCausalLM", tensors={"blk.0.attn_q.bias": np.zeros(128)})
    with pytest.raises(SetupError, match=r'unknown tensor "blk\.0\.attn_q\.bias"; a LlamaForCausalLM'):
        GgufModel.open(path)


def test_quantized_weights_are_dequantized_to_float16_and_it_says_so(tmp_path: Path) -> None:
    config = config_of("LlamaForCausalLM")
    weights = from_hugging_face(config, state(random_model(config)))
    del weights["output.weight"]
    plain = GgufModel.open(write(tmp_path / "model.gguf", config, weights))
    assert (plain.config.dtype, plain.notices) == ("float32", ())

    name = "transformer.layers.0.mlp.fc.weight"
    path = write(tmp_path / "quantized.gguf", config, weights, q8_0=("blk.0.ffn_gate.weight",))
    source = GgufModel.open(path)
    assert source.config == config.changed(dtype="float16")
    assert source.notices == ("weights are dequantized from F32, Q8_0 to float16.",)
    q8_0 = GGMLQuantizationType.Q8_0
    assert np.array_equal(source.tensor(name), quants.dequantize(quants.quantize(plain.tensor(name), q8_0), q8_0))


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    path = saved(tmp_path, "LlamaForCausalLM")
    before = GgufModel.open(path).sha256()
    path.rename(tmp_path / "other.gguf")
    assert GgufModel.open(tmp_path / "other.gguf").sha256() == before
    saved(tmp_path, "LlamaForCausalLM", {"llama__rope__freq_base": 5e5})
    assert GgufModel.open(path).sha256() != before
