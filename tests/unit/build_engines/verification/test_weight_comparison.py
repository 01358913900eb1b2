from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.config import CheckpointConfig, QuantAlgo
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import LINEAR_LAYERS
from build_engines.checkpoint.writer import TensorSource
from build_engines.quantization.linear import read_linear
from build_engines.verification.weight_comparison import compare_weights
from python_backend.errors import SetupError
from tests import tiny_llama
from tests.unit.build_engines.verification import tiny_quantized


@dataclass(frozen=True)
class Changed:
    """A checkpoint one tensor of which reads otherwise."""

    checkpoint: Checkpoint
    name: str
    value: Array

    @property
    def config(self) -> CheckpointConfig:
        return self.checkpoint.config

    def tensor(self, name: str) -> Array:
        return self.value if name == self.name else self.checkpoint.tensor(name)


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None))


@pytest.mark.parametrize("quant_algo", tiny_quantized.QUANT_ALGOS)
def test_every_form_is_close_to_its_source(tmp_path: Path, source: Checkpoint, quant_algo: QuantAlgo | None) -> None:
    config = tiny_quantized.config(quant_algo).sharded(2, 2)
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", config, source)
    found = compare_weights(source, checkpoint)
    assert len(found.layers) == 5 * config.num_hidden_layers
    for layer in found.layers:
        expected = source.tensor(f"{layer.name}.weight").astype(np.float64)
        linear = read_linear(checkpoint.tensor, config.quantization, layer.name)
        stored = linear.dequantize().astype(np.float64)
        assert layer.relative_error == pytest.approx(np.linalg.norm(stored - expected) / np.linalg.norm(expected))
        scale = np.float64(1) if linear.prequant_scale is None else linear.prequant_scale.astype(np.float64)
        scaled = np.linalg.norm((stored - expected) / scale) / np.linalg.norm(expected / scale)
        assert layer.scaled_error == pytest.approx(scaled)
        cosine = (stored * expected).sum() / np.linalg.norm(stored) / np.linalg.norm(expected)
        assert layer.cosine == pytest.approx(cosine, rel=1e-5)
    assert found.worst.scaled_error == max(layer.scaled_error for layer in found.layers)
    assert found.worst.scaled_error < 0.2
    assert found.changed_tensors == ()
    plain = 3 + 2 * config.num_hidden_layers
    stored_plainly = quant_algo in (None, "W8A16", "W4A16")
    assert found.identical_tensors == plain + (len(found.layers) if stored_plainly else 0)
    assert (found.worst.relative_error == 0) == (quant_algo is None)


def test_a_cast_of_the_source_is_identical(tmp_path: Path) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None, dtype="float32"))
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", tiny_quantized.config(None, dtype="bfloat16"), source)
    found = compare_weights(source, checkpoint)
    assert found.changed_tensors == ()
    assert 1e-4 < found.worst.relative_error < 2**-8


@pytest.mark.parametrize(
    "name",
    [
        "transformer.layers.1.post_layernorm.weight",
        "transformer.ln_f.weight",
        "transformer.vocab_embedding.weight",
        "lm_head.weight",
    ],
)
def test_one_changed_bit_is_found(tmp_path: Path, source: Checkpoint, name: str) -> None:
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", tiny_quantized.config("FP8"), source)
    value = checkpoint.tensor(name).copy()
    value.view(np.uint16).ravel()[-1] ^= 1
    assert compare_weights(source, Changed(checkpoint, name, value)).changed_tensors == (name,)


def test_weights_that_belong_to_another_layer_are_found(tmp_path: Path, source: Checkpoint) -> None:
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", tiny_quantized.config("FP8"), source)
    name = "transformer.layers.0.mlp.gate.weight"
    other = checkpoint.tensor(name.replace("gate", "fc"))
    found = compare_weights(source, Changed(checkpoint, name, other))
    assert found.worst.name == "transformer.layers.0.mlp.gate"
    assert found.worst.relative_error > 1
    assert found.lowest_cosine < 0.1


def test_what_is_not_a_number_is_the_worst(tmp_path: Path, source: Checkpoint) -> None:
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", tiny_quantized.config("FP8"), source)
    scale = "transformer.layers.1.mlp.proj.weights_scaling_factor"
    found = compare_weights(source, Changed(checkpoint, scale, np.array([np.nan], np.float32)))
    assert found.worst.name == "transformer.layers.1.mlp.proj"
    assert np.isnan([found.worst.scaled_error, found.mean_relative_error, found.lowest_cosine]).all()


def test_layers_are_compared_one_by_one(source: Checkpoint) -> None:
    """So that memory holds one: the source's tensor is read when its layer's turn has come, and once."""
    events: list[str] = []

    @dataclass(frozen=True)
    class Recorder:
        config: CheckpointConfig
        read: TensorSource

        def tensor(self, name: str) -> Array:
            events.append(name)
            return self.read(name)

    compare_weights(
        Recorder(source.config, source.tensor), source, report=lambda done, total, what: events.append(f"> {what}")
    )
    for event, following in zip(events[::2], events[1::2], strict=True):
        assert event.startswith("> ")
        assert following.startswith(event.removeprefix("> "))
    assert len(events) == 2 * (len(source.table) + 2 * len(LINEAR_LAYERS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary_scaling": None}, "rotary_scaling is None and its source's is "),
        ({"rotary_base": 500_000.0}, "rotary_base is 500000.0 and its source's is 10000.0"),
        ({"norm_epsilon": 1e-6}, "norm_epsilon is 1e-06"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1 and its source's is 2"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, source: Checkpoint, changes: dict[str, object], message: str) -> None:
    other = tiny_llama.checkpoint(tmp_path, source.config.changed(**changes))
    with pytest.raises(SetupError, match=message):
        compare_weights(source, Checkpoint.open(other))
