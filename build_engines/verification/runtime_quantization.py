"""What an engine rounds while it runs: the inputs of linear layers, and the KV cache. Simulated in float32.

Each function rounds to the values that the type can hold and gives them back as floats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from build_engines.checkpoint.config import KvCacheQuantAlgo, QuantAlgo
from build_engines.quantization.linear import Linear

Rounding = Callable[[torch.Tensor], torch.Tensor]

_FLOAT8_MAX = 448.0
_E2M1_MAX = 6.0
_E2M1_BLOCK = 16
#: The magnitudes of a 4-bit float, E2M1, and those half way between them.
_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_E2M1_MIDDLES = (_E2M1[1:] + _E2M1[:-1]) / 2


def activation_rounding(quant_algo: QuantAlgo | None, linear: Linear) -> Rounding | None:
    """What an engine does to the scaled input of ``linear``; None where inputs stay as they are."""
    scale = None if linear.activation_scale is None else float(linear.activation_scale)
    match quant_algo:
        case "FP8" | "W4A8_AWQ":
            assert scale is not None
            return lambda x: to_float8(x, scale)
        case "NVFP4":
            assert scale is not None
            return lambda x: to_nvfp4(x, scale)
        case "W8A8_SQ_PER_CHANNEL":
            return to_int8_per_token
        case None | "W8A16" | "W4A16" | "W4A16_AWQ":
            return None


def kv_cache_rounding(quant_algo: KvCacheQuantAlgo, scale: float) -> Rounding:
    """What an engine does to rotated keys, and to values, when it stores them.

    Here all tokens attend to what is stored. An engine without paged context attention lets a prompt's tokens see each
    other as they were.
    """
    return (lambda x: to_float8(x, scale)) if quant_algo == "FP8" else (lambda x: to_int8(x, scale))


def to_float8(x: torch.Tensor, scale: float) -> torch.Tensor:
    """float8_e4m3fn times ``scale``, saturating."""
    return (x / scale).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(torch.float8_e4m3fn).float() * scale


def to_int8(x: torch.Tensor, scale: float) -> torch.Tensor:
    """int8 times ``scale``, saturating."""
    return (x / scale).round().clamp(-128, 127) * scale


def to_int8_per_token(x: torch.Tensor) -> torch.Tensor:
    """int8 with a scale for each token, its largest magnitude / 127: SmoothQuant's inputs."""
    scale = x.abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(scale > 0, (x / scale).round() * scale, x)


def to_nvfp4(x: torch.Tensor, scale: float) -> torch.Tensor:
    """4-bit floats, a float8 scale for every 16 inputs of a token, times ``scale``."""
    blocks = x.reshape(*x.shape[:-1], -1, _E2M1_BLOCK)
    block_scales = to_float8(blocks.abs().amax(dim=-1, keepdim=True) / _E2M1_MAX, scale)
    scaled = torch.where(block_scales > 0, blocks / block_scales, torch.zeros_like(blocks))
    magnitudes = scaled.abs().contiguous()
    # What lies in the middle of two goes to the even code.
    down = torch.bucketize(magnitudes, _E2M1_MIDDLES)
    up = torch.bucketize(magnitudes, _E2M1_MIDDLES, right=True)
    codes = torch.where(down % 2 == 0, down, up)
    return (_E2M1[codes] * scaled.sign() * block_scales).flatten(-2)
