"""The number formats that a plan can choose: how weights are stored, and which arithmetic multiplies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from build_engines.checkpoint.config import CheckpointConfig, KvCacheQuantAlgo, ParallelMapping, QuantAlgo
from build_engines.planning.gpus import Arithmetic, Gpu
from build_engines.quantization.settings import Format, QuantizationSettings
from python_backend.errors import SetupError, did_you_mean


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """``bits`` are those of a weight, without scales. ``smallest_sm`` is the first GPU that computes with it."""

    name: Format
    bits: int
    arithmetic: Arithmetic
    smallest_sm: int
    group_sizes: tuple[int | None, ...] = (None,)

    @property
    def quant_algo(self) -> QuantAlgo | None:
        return QuantizationSettings(format=self.name).quantization().quant_algo


KvCache = Literal["fp8", "int8"]
KV_CACHES: dict[KvCacheQuantAlgo | None, KvCache | None] = {None: None, "FP8": "fp8", "INT8": "int8"}

FORMATS: dict[str, WeightFormat] = {
    form.name: form
    for form in (
        WeightFormat("none", 16, "fp16", 80),
        WeightFormat("fp8", 8, "fp8", 89),
        WeightFormat("int8_sq", 8, "int8", 80),
        WeightFormat("int8_wo", 8, "fp16", 80),
        WeightFormat("nvfp4", 4, "fp4", 100, (16,)),
        WeightFormat("w4a8_awq", 4, "fp8", 89, (128, 64)),
        WeightFormat("int4_awq", 4, "fp16", 80, (128, 64)),
        WeightFormat("int4_wo", 4, "fp16", 80),
    )
}


def named_format(name: str) -> WeightFormat:
    """Raises SetupError with the near name when there is none."""
    if name not in FORMATS:
        raise SetupError(f'"{name}" is no format{did_you_mean(name, FORMATS)}. Formats: {", ".join(FORMATS)}.')
    return FORMATS[name]


def precisions(gpu: Gpu) -> tuple[WeightFormat, ...]:
    """From the highest precision down, the format of each width that suits ``gpu`` best.

    Of 8 bits: FP8 where there is hardware for it, which loses little and computes twice as fast as FP16 (ModelOpt's
    "Best practices to choose the right quantization methods"); else INT8 weights, which lose less than SmoothQuant and
    need no calibration. Of 4 bits: NVFP4, else AWQ.
    """
    eight = "fp8" if gpu.has_fp8 else "int8_wo"
    four = "nvfp4" if gpu.has_fp4 else "int4_awq"
    return FORMATS["none"], FORMATS[eight], FORMATS[four]


def short_kv_cache(gpu: Gpu) -> KvCache:
    """The 8-bit type for keys and values that suits ``gpu``."""
    return "fp8" if gpu.has_fp8 else "int8"


def check_hardware(form: WeightFormat, kv_cache: KvCache | None, gpu: Gpu) -> None:
    """Raises SetupError when ``gpu`` cannot compute with these."""
    if gpu.sm < form.smallest_sm:
        fits = [other.name for other in FORMATS.values() if gpu.sm >= other.smallest_sm]
        raise SetupError(
            f"format {form.name} needs compute capability {_capability(form.smallest_sm)}; {gpu.name} has "
            f"{_capability(gpu.sm)}. It can do: {', '.join(fits)}."
        )
    if kv_cache == "fp8" and not gpu.has_fp8:
        raise SetupError(
            f"an FP8 KV cache needs compute capability 8.9; {gpu.name} has {_capability(gpu.sm)}. Use int8 or none."
        )


def apply_format(
    config: CheckpointConfig, form: WeightFormat, kv_cache: KvCache | None, mapping: ParallelMapping
) -> CheckpointConfig:
    """``config`` in these formats over these ranks, with the first group size that divides it.

    Raises SetupError when the model cannot be divided so.
    """
    problem: SetupError | None = None
    for group_size in form.group_sizes:
        settings = QuantizationSettings(format=form.name, kv_cache=kv_cache, group_size=group_size)
        try:
            return config.changed(
                quantization=settings.quantization().model_dump(),
                mapping=mapping.model_dump(),
                use_parallel_embedding=mapping.tp_size > 1,
            )
        except SetupError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"
