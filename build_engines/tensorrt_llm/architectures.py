"""Which GPUs compute which formats, by compute capability: 89 stands for 8.9."""

from __future__ import annotations

from build_engines.checkpoint.config import CheckpointConfig, QuantAlgo
from build_engines.planning.gpu_names import read_gpus
from python_backend.errors import SetupError

#: Ampere: the oldest in TensorRT-LLM's support matrix (nvidia.github.io/TensorRT-LLM/reference/support-matrix.html).
OLDEST = 80
#: The first with FP8 arithmetic, Ada, and with FP4, Blackwell (ModelOpt's support matrix,
#: nvidia.github.io/Model-Optimizer/guides/0_support_matrix.html).
_FP8, _FP4 = 89, 100
_NEEDS: dict[QuantAlgo | None, int] = {"FP8": _FP8, "W4A8_AWQ": _FP8, "NVFP4": _FP4}
#: What ``build`` in ``tensorrt_llm/builder.py`` refuses on Blackwell for data centers, 10.0 to 11.9.
_NOT_ON_BLACKWELL = ("W8A16", "W4A16", "W4A16_AWQ", "W8A8_SQ_PER_CHANNEL")


def check_architecture(sm: int, name: str, config: CheckpointConfig) -> None:
    """Raises SetupError when GPUs called ``name`` cannot compute the checkpoint's formats."""
    algo, kv_cache = config.quantization.quant_algo, config.quantization.kv_cache_quant_algo
    if sm < OLDEST:
        raise SetupError(f"TensorRT-LLM needs {capability(OLDEST)} or newer; {name} has {capability(sm)}.")
    if sm < _NEEDS.get(algo, OLDEST):
        raise SetupError(f"{algo} needs {capability(_NEEDS[algo])} or newer; {name} has {capability(sm)}.")
    if kv_cache == "FP8" and sm < _FP8:
        raise SetupError(f"an FP8 KV cache needs {capability(_FP8)} or newer; {name} has {capability(sm)}. Use int8.")
    if 100 <= sm < 120 and (algo in _NOT_ON_BLACKWELL or kv_cache == "INT8"):
        what = algo if algo in _NOT_ON_BLACKWELL else "an INT8 KV cache"
        raise SetupError(f"TensorRT-LLM refuses {what} on {name}, {capability(sm)}. Quantize to fp8 or nvfp4.")


def check_named_gpu(named: str | None, config: CheckpointConfig) -> None:
    """The same for the GPU that a recipe names, so that it can be known without one."""
    if named is not None:
        gpu = read_gpus(named).gpu
        check_architecture(gpu.sm, gpu.name, config)


def capability(sm: int) -> str:
    """As NVIDIA writes it."""
    return f"compute capability {sm // 10}.{sm % 10}"
