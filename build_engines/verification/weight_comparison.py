"""The weights of a checkpoint against those of its source, tensor by tensor.

Quantized layers are dequantized as an engine does. All else (norms, embedding, lm_head, biases, plain weights) must be
the source's bit for bit, once that is cast to the checkpoint's type. That holds for every format: ModelOpt's export
for TensorRT-LLM stores the scales of SmoothQuant and AWQ beside the layer (``prequant_scaling_factor``) and, unlike
its export for Hugging Face, never folds them into the norm before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME, Array
from build_engines.checkpoint.tensor_table import LINEAR_LAYERS, layer_tensor, tensor_table
from build_engines.progress import Report, silent
from build_engines.quantization.linear import read_linear
from build_engines.quantization.weights import Floats
from build_engines.verification.same_model import Model, check_same_model, unquantized

_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a linear layer's dequantized weight W' is from the source's W.

    ``relative_error`` is |W' - W| / |W| in the Frobenius norm; ``cosine`` is that of the angle between the two.
    ``scaled_error`` is the relative error where columns are divided by the layer's prequant scales. SmoothQuant and
    AWQ choose these so that an input's weight counts as its activations are large: there, it tells a mistake from
    rounding, where the plain error may be dominated by inputs that hardly matter.
    """

    name: str
    relative_error: float
    scaled_error: float
    cosine: float


@dataclass(frozen=True, slots=True)
class WeightComparison:
    """Every linear layer, and the names of the tensors that should be the source's bit for bit and are not."""

    layers: tuple[LayerError, ...]
    identical_tensors: int
    changed_tensors: tuple[str, ...]

    @property
    def worst(self) -> LayerError:
        """The layer with the largest scaled error; one that is not a number is worse than all others."""
        return max(self.layers, key=lambda layer: (math.isnan(layer.scaled_error), layer.scaled_error))

    @property
    def mean_relative_error(self) -> float:
        return sum(layer.relative_error for layer in self.layers) / len(self.layers)

    @property
    def lowest_cosine(self) -> float:
        """Not a number when any layer's is."""
        return float(np.min([layer.cosine for layer in self.layers]))


def compare_weights(source: Model, checkpoint: Model, *, report: Report = silent) -> WeightComparison:
    """Compare all weights, with one linear layer in memory at a time.

    W8A16 and W4A16 are quantized by the rule of the engine build, over whole rows. (An engine build does so on each
    rank, which gives row-parallel layers a scale a rank: at least as fine.) Raises SetupError when the configs
    describe different models, or ranks disagree.
    """
    check_same_model(source.config, checkpoint.config)
    linears = list(_linear_names(checkpoint.config))
    plain = list(_plain_names(checkpoint.config))
    layers, changed = [], []
    for done, name in enumerate(linears):
        report(done, len(linears) + len(plain), name)
        layers.append(_layer_error(source, checkpoint, name))
    for done, name in enumerate(plain, start=len(linears)):
        report(done, len(linears) + len(plain), name)
        if not _is_identical(source.tensor(name), checkpoint.tensor(name)):
            changed.append(name)
    return WeightComparison(tuple(layers), len(plain) - len(changed), tuple(changed))


def _linear_names(config: CheckpointConfig) -> Iterator[str]:
    for layer in range(config.num_hidden_layers):
        for linear in LINEAR_LAYERS:
            yield layer_tensor(layer, linear)


def _plain_names(config: CheckpointConfig) -> Iterator[str]:
    """The source's tensors that the checkpoint stores as they are."""
    stored = tensor_table(config)
    for name in tensor_table(unquantized(config)):
        if stored[name].whole.dtype == BY_NAME[config.dtype]:
            yield name


def _layer_error(source: Model, checkpoint: Model, name: str) -> LayerError:
    expected = source.tensor(f"{name}.weight")
    linear = read_linear(checkpoint.tensor, checkpoint.config.quantization, name)
    found = linear.weight.dequantize()
    scale = np.ones(found.shape[1], np.float32) if linear.prequant_scale is None else linear.prequant_scale
    rows = max(1, _BLOCK_ELEMENTS // expected.shape[1])
    totals = np.zeros(6)
    with np.errstate(divide="ignore", invalid="ignore"):
        for begin in range(0, len(expected), rows):
            block = expected[begin : begin + rows].astype(np.float32)
            totals += _totals(block, found[begin : begin + rows], scale)
        plain, norm, product, distance, scaled, scaled_distance = totals
        return LayerError(
            name,
            relative_error=_ratio(math.sqrt(distance), math.sqrt(plain), 0.0),
            scaled_error=_ratio(math.sqrt(scaled_distance), math.sqrt(scaled), 0.0),
            cosine=_ratio(product, math.sqrt(norm) * math.sqrt(plain), 1.0),
        )


def _totals(expected: Floats, found: Floats, scale: Floats) -> list[float]:
    """Sums over some rows. ``found`` is W' / scale."""
    scaled, dequantized = expected / scale, found * scale
    products = [
        (expected, expected),
        (dequantized, dequantized),
        (expected, dequantized),
        (dequantized - expected, dequantized - expected),
        (scaled, scaled),
        (found - scaled, found - scaled),
    ]
    return [float(np.dot(a.ravel(), b.ravel())) for a, b in products]


def _ratio(value: float, by: float, if_both_zero: float) -> float:
    if by == 0:
        return if_both_zero if value == 0 else math.inf
    return float(value / by)


def _is_identical(expected: Array, found: Array) -> bool:
    if expected.shape != found.shape:
        return False
    rows = max(1, _BLOCK_ELEMENTS // int(np.prod(expected.shape[1:])))
    with np.errstate(over="ignore"):
        return all(
            expected[begin : begin + rows].astype(found.dtype).tobytes() == found[begin : begin + rows].tobytes()
            for begin in range(0, len(expected), rows)
        )
