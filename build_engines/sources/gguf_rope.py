"""Rotary embeddings as GGUF tells them: linear scaling as metadata, Llama 3's as a tensor of factors.

``rope_freqs.weight`` holds what llama.cpp divides each frequency by; the converter computes it from the parameters in
Llama 3's ``config.json`` and does not keep those. Only their ratios can be told from the factors, so the published
models' parameters are tried, and must give the factors again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.config import LinearScaling, Llama3Scaling, RotaryScaling
from build_engines.sources.gguf_file import GgufFile
from python_backend.errors import SetupError

ROPE_FACTORS = "rope_freqs.weight"
#: Of all published models with this scaling: Llama 3.1, 3.2 and 3.3, and those trained from them.
_LOW_FREQ_FACTOR, _HIGH_FREQ_FACTOR = 1.0, 4.0
_ORIGINAL_POSITIONS = tuple(2**power for power in range(8, 21))
#: The converter computes in float32.
_TOLERANCE = 1e-5


def read_scaling(gguf: GgufFile, architecture: str, base: float, head_size: int) -> RotaryScaling | None:
    """Raises SetupError for a scaling that cannot be computed."""
    kind = gguf.find(f"{architecture}.rope.scaling.type", str) or "none"
    factors = gguf.tensor(ROPE_FACTORS) if ROPE_FACTORS in gguf.shapes else None
    match kind, factors:
        case "none", None:
            return None
        case "linear", None:
            return LinearScaling(factor=gguf.get(f"{architecture}.rope.scaling.factor", float))
        case "none", np.ndarray():
            found = _llama3_scaling(factors, base, head_size)
            if found is None:
                raise SetupError(
                    f'{gguf.path}: tensor "{ROPE_FACTORS}" is not Llama 3\'s scaling of rotary embeddings '
                    f"(low_freq_factor {_LOW_FREQ_FACTOR:g}, high_freq_factor {_HIGH_FREQ_FACTOR:g}), which is the "
                    "only one that can be told from factors. Import the Hugging Face model."
                )
            return found
    factors_too = f" with {ROPE_FACTORS}" if factors is not None else ""
    raise SetupError(f'{gguf.path}: rotary embeddings are scaled by "{kind}"{factors_too}, which cannot be imported.')


def llama3_factors(scaling: Llama3Scaling, base: float, head_size: int) -> npt.NDArray[np.float64]:
    """What each of head_size / 2 frequencies is divided by."""
    frequencies = base ** -(np.arange(0, head_size, 2) / head_size)
    turns = scaling.original_max_position_embeddings * frequencies / (2 * np.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0, 1)
    factors: npt.NDArray[np.float64] = 1 / ((1 - smooth) / scaling.factor + smooth)
    return factors


def _llama3_scaling(factors: npt.NDArray[np.float32], base: float, head_size: int) -> Llama3Scaling | None:
    if factors.shape != (head_size // 2,) or not np.isfinite(factors).all() or factors.min() <= 0:
        return None
    for positions in _ORIGINAL_POSITIONS:
        scaling = Llama3Scaling(
            factor=float(str(factors.max())),
            low_freq_factor=_LOW_FREQ_FACTOR,
            high_freq_factor=_HIGH_FREQ_FACTOR,
            original_max_position_embeddings=positions,
        )
        if np.allclose(llama3_factors(scaling, base, head_size), factors, rtol=_TOLERANCE, atol=0):
            return scaling
    return None
