"""Weights reach the engine's file bit for bit, and are multiplied by kernels that read them as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from openvino import opset16 as ops

from build_engines.checkpoint.config import QuantAlgo
from build_engines.checkpoint.dtypes import Array, DtypeName
from build_engines.checkpoint.reader import Checkpoint
from build_engines.cpu.compile import compile_cpu_engine
from build_engines.cpu.openvino_ops import parameter
from build_engines.cpu.weight_constants import Table
from build_engines.quantization.int4_packing import unpack_int4
from build_engines.quantization.weight_only import quantize_int4, quantize_int8
from build_engines.quantization.weights import Int4Weight
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import mode_properties
from python_backend.engine.openvino_model import read_model
from tests.unit.build_engines.cpu import tiny_checkpoints
from tests.unit.build_engines.cpu.paged_steps import PagedSteps


@dataclass(frozen=True)
class Built:
    """A checkpoint, and the constants of the engine that was compiled from it."""

    checkpoint: Checkpoint
    constants: list[Any]

    def source(self, suffix: str) -> Array:
        return self.checkpoint.tensor(f"transformer.layers.0.attention.qkv.{suffix}")

    def stored(self, dtype: ov.Type) -> list[bytes]:
        """The constants of a type."""
        return [bits(np.asarray(c.data)) for c in self.constants if c.get_element_type() == dtype]

    def stored_nibbles(self, dtype: ov.Type) -> list[bytes]:
        """The same of a 4-bit type, one value a byte, in the order of the tensor."""
        found = (np.frombuffer(packed, np.uint8) for packed in self.stored(dtype))
        return [bits(np.stack([packed & 15, packed >> 4], axis=-1)) for packed in found]


def bits(values: Array) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def nibbles(integers: Array) -> bytes:
    return bits(integers.view(np.uint8) & 15)


@pytest.fixture
def built(tmp_path: Path, request: pytest.FixtureRequest) -> Built:
    quant_algo, dtype = request.param
    config = tiny_checkpoints.config("LlamaForCausalLM", quant_algo, dtype)
    checkpoint_dir = tiny_checkpoints.checkpoint(tmp_path / "checkpoint", config)
    compile_cpu_engine(checkpoint_dir, tmp_path / "engine")
    model = read_model(ov.Core(), tmp_path / "engine")
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return Built(Checkpoint.open(checkpoint_dir), constants)


@pytest.mark.parametrize("built", [(None, "float16"), (None, "bfloat16"), (None, "float32")], indirect=True)
def test_plain_weights_keep_their_bits(built: Built) -> None:
    dtype = {"float16": ov.Type.f16, "bfloat16": ov.Type.bf16, "float32": ov.Type.f32}[built.checkpoint.config.dtype]
    assert bits(built.source("weight")) in built.stored(dtype)


@pytest.mark.parametrize("built", [("W8A16", "float16")], indirect=True)
def test_int8_weight_only_is_the_engine_builds_rule(built: Built) -> None:
    expected = quantize_int8(built.source("weight"))
    assert bits(expected.integers) in built.stored(ov.Type.i8)
    assert bits(expected.scales) in built.stored(ov.Type.f32)


@pytest.mark.parametrize("built", [("W8A8_SQ_PER_CHANNEL", "float16")], indirect=True)
def test_smoothquant_keeps_its_bits(built: Built) -> None:
    assert bits(built.source("weight")) in built.stored(ov.Type.i8)
    assert bits(built.source("weights_scaling_factor")) in built.stored(ov.Type.f32)
    assert bits(built.source("prequant_scaling_factor").astype(np.float32)) in built.stored(ov.Type.f32)


@pytest.mark.parametrize("built", [("W4A16", "bfloat16")], indirect=True)
def test_int4_weight_only_is_the_engine_builds_rule(built: Built) -> None:
    expected = quantize_int4(built.source("weight"))
    assert nibbles(expected.integers) in built.stored_nibbles(ov.Type.i4)
    assert bits(expected.scales) in built.stored(ov.Type.f32)


@pytest.mark.parametrize("built", [("W4A16_AWQ", "float16"), ("W4A8_AWQ", "bfloat16")], indirect=True)
def test_int4_awq_keeps_its_integers_and_scales(built: Built) -> None:
    assert nibbles(unpack_int4(built.source("weight"))) in built.stored_nibbles(ov.Type.i4)
    assert bits(built.source("weights_scaling_factor")) in built.stored(ov.Type.f32)
    assert bits(built.source("prequant_scaling_factor").astype(np.float32)) in built.stored(ov.Type.f32)


@pytest.mark.parametrize("built", [("FP8", "float16")], indirect=True)
def test_float8_keeps_its_bits(built: Built) -> None:
    assert bits(built.source("weight")) in built.stored(ov.Type.f8e4m3)
    assert bits(built.source("weights_scaling_factor")) in built.stored(ov.Type.f32)


@pytest.mark.parametrize("built", [("NVFP4", "float16")], indirect=True)
def test_float4_keeps_its_bits(built: Built) -> None:
    assert bits(built.source("weight")) in built.stored(ov.Type.f4e2m1)
    assert bits(built.source("weights_scaling_factor")) in built.stored(ov.Type.f8e4m3)
    assert bits(built.source("weights_scaling_factor_2")) in built.stored(ov.Type.f32)


@settings(deadline=None, max_examples=20)
@given(integers=arrays(np.int8, (6, 8), elements=st.integers(-8, 7)), groups=st.sampled_from([1, 2, 4]))
def test_int4_is_read_back_as_written(integers: Array, groups: int) -> None:
    scales = np.arange(1, 1 + 6 * groups, dtype=np.float32).reshape(6, groups) / 8
    weight = Int4Weight(integers, scales)
    x = parameter("x", [-1, 8], ov.Type.f32)
    model = ov.Model([ops.result(Table(weight).linear(x))], [x], "linear")
    core = ov.Core()
    compiled = core.compile_model(model, "CPU", mode_properties(core, ExecutionMode.EXACT))
    found = compiled([np.eye(8, dtype=np.float32)])[0]
    assert np.array_equal(found.T, weight.dequantize())


@pytest.mark.parametrize(
    ("quant_algo", "dtype", "kernel"),
    [
        ("W8A16", "float16", "i8"),
        ("W8A8_SQ_PER_CHANNEL", "bfloat16", "i8"),
        ("W4A16", "float16", "i4"),
        ("W4A16_AWQ", "bfloat16", "i4"),
        ("W4A8_AWQ", "float16", "i4"),
        ("NVFP4", "bfloat16", "f4e2m1"),
    ],
)
def test_matrices_are_multiplied_as_they_are_stored(
    tmp_path: Path, quant_algo: QuantAlgo, dtype: DtypeName, kernel: str
) -> None:
    config = tiny_checkpoints.config("Qwen3ForCausalLM", quant_algo, dtype)
    compile_cpu_engine(tiny_checkpoints.checkpoint(tmp_path / "checkpoint", config), tmp_path / "engine")
    found: Counter[str] = Counter()
    for node in PagedSteps(tmp_path / "engine").compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"] == "FullyConnected":
            found[info["runtimePrecision"].astype(str)] += 1
    matrices = 5 * config.num_hidden_layers
    assert found == ({"i8": matrices + 1} if kernel == "i8" else {kernel: matrices, "i8": 1})
