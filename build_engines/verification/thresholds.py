"""How far a checkpoint may be from its source.

Defaults are figures measured with SmolLM2-135M, times a margin. A model so small suffers more than larger ones do
from the same format, so what goes beyond is a mistake rather than bad luck.
"""

from __future__ import annotations

from dataclasses import dataclass

from build_engines.checkpoint.config import KvCacheQuantAlgo, QuantAlgo
from build_engines.checkpoint.tensor_table import LINEAR_LAYERS, layer_tensor
from build_engines.verification.same_model import Model
from build_engines.verification.settings import ThresholdSettings

#: Errors that add up may be this many times those measured; tokens on which both models disagree, this many times.
ERROR_MARGIN = 2.0
DISAGREEMENT_MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a format took SmolLM2-135M from its source; 0 is not at all.

    ``weight_error`` is the worst layer's, the others are means over text, with activations and KV cache rounded too.
    """

    weight_error: float
    kl_divergence: float
    disagreement: float
    perplexity_excess: float

    def __add__(self, other: Distance) -> Distance:
        return Distance(
            self.weight_error + other.weight_error,
            self.kl_divergence + other.kl_divergence,
            self.disagreement + other.disagreement,
            self.perplexity_excess + other.perplexity_excess,
        )


#: 2044 tokens of the default text in sequences of 512, against the GGUF's dequantized weights. Calibrated on all of the
#: built-in text, W4A8_AWQ on 4 samples of it. Unquantized is bfloat16; groups of 64; ModelOpt 0.47.0.
_MEASURED: dict[QuantAlgo | None, Distance] = {
    None: Distance(0.0014, 0.0001, 0.004, 0.001),
    "W8A16": Distance(0.012, 0.003, 0.031, 0.006),
    "W4A16": Distance(0.187, 0.790, 0.412, 1.058),
    "FP8": Distance(0.027, 0.038, 0.093, 0.040),
    "W8A8_SQ_PER_CHANNEL": Distance(0.047, 0.063, 0.119, 0.063),
    "W4A16_AWQ": Distance(0.152, 0.232, 0.247, 0.244),
    "W4A8_AWQ": Distance(0.152, 0.245, 0.247, 0.254),
    "NVFP4": Distance(0.096, 0.401, 0.305, 0.479),
}
_UNSMOOTHED_INT4 = Distance(0.139, 0.525, 0.361, 0.531)
#: What they added to FP8.
_KV_CACHE_ADDS: dict[KvCacheQuantAlgo, Distance] = {
    "FP8": Distance(0, 0.004, 0.004, 0.006),
    "INT8": Distance(0, 0.013, 0.016, 0.022),
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits that a checkpoint must keep; the names are those of ``ThresholdSettings``."""

    max_weight_error: float
    max_kl_divergence: float
    min_top1_agreement: float
    max_perplexity_ratio: float


def thresholds_for(checkpoint: Model, settings: ThresholdSettings) -> Thresholds:
    """The defaults of the checkpoint's format, where ``settings`` say nothing else."""
    quantization = checkpoint.config.quantization
    expected = _MEASURED[quantization.quant_algo]
    if quantization.quant_algo == "W4A16_AWQ" and not _is_smoothed(checkpoint):
        expected = _UNSMOOTHED_INT4
    if quantization.kv_cache_quant_algo:
        expected = expected + _KV_CACHE_ADDS[quantization.kv_cache_quant_algo]
    defaults = {
        "max_weight_error": ERROR_MARGIN * expected.weight_error,
        "max_kl_divergence": ERROR_MARGIN * expected.kl_divergence,
        "min_top1_agreement": 1 - DISAGREEMENT_MARGIN * expected.disagreement,
        "max_perplexity_ratio": 1 + ERROR_MARGIN * expected.perplexity_excess,
    }
    return Thresholds(**defaults | settings.model_dump(exclude_none=True))


def _is_smoothed(checkpoint: Model) -> bool:
    """Whether AWQ has looked for scales; plain INT4 with groups is stored the same way, with scales of 1."""
    names = (layer_tensor(0, f"{linear}.prequant_scaling_factor") for linear in LINEAR_LAYERS)
    return any(bool((checkpoint.tensor(name) != 1).any()) for name in names)
