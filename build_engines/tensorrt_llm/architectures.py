"""Which GPUs compute which formats, by compute capability: 89 stands for 8.9."""

from __future__ import annotations

from build_engines.checkpoint.config import CheckpointConfig, QuantAlgo
from build_engines.planning.gpu_names import read_gpus
from build_engines.planning.gpus import FP4_SM, FP8_SM, OLDEST_SM, capability, check_supported
from python_backend.errors import SetupError

_NEEDS: dict[QuantAlgo | None, int] = {"FP8": FP8_SM, "W4A8_AWQ": FP8_SM, "NVFP4": FP4_SM}
#: What ``build`` in ``tensorrt_llm/builder.py`` refuses on Blackwell for data centers, 10.0 to 11.9.
_NOT_ON_BLACKWELL = ("W8A16", "W4A16", "W4A16_AWQ", "W8A8_SQ_PER_CHANNEL")


def check_architecture(sm: int, name: str, config: CheckpointConfig) -> None:
    """Raises SetupError when GPUs called ``name`` cannot compute the checkpoint's formats."""
    algo, kv_cache = config.quantization.quant_algo, config.quantization.kv_cache_quant_algo
    check_supported(sm, name)
    if sm < _NEEDS.get(algo, OLDEST_SM):
        raise SetupError(f"{algo} needs {capability(_NEEDS[algo])} or newer; {name} has {capability(sm)}.")
    if kv_cache == "FP8" and sm < FP8_SM:
        raise SetupError(f"an FP8 KV cache needs {capability(FP8_SM)} or newer; {name} has {capability(sm)}. Use int8.")
    if 100 <= sm < 120 and (algo in _NOT_ON_BLACKWELL or kv_cache == "INT8"):
        what = algo if algo in _NOT_ON_BLACKWELL else "an INT8 KV cache"
        raise SetupError(f"TensorRT-LLM refuses {what} on {name}, {capability(sm)}. Quantize to fp8 or nvfp4.")


def check_named_gpu(named: str | None, config: CheckpointConfig) -> None:
    """The same for the GPU that a recipe names, so that it can be known without one."""
    if named is not None:
        gpu = read_gpus(named).gpu
        check_architecture(gpu.sm, gpu.name, config)
