"""Quantization by NVIDIA's ModelOpt: calibrate a transformers model, export it as TensorRT-LLM names it.

Needs the extra ``quantize``; nothing else in this package imports torch, transformers or ModelOpt.
"""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_tensorrt_llm_checkpoint
from transformers import PreTrainedModel

from build_engines.checkpoint.config import Architecture, CheckpointConfig
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.progress import Report
from build_engines.quantization.settings import Format, QuantizationSettings
from build_engines.quantization.token_pieces import TokenIds
from build_engines.quantization.transformers_model import transformers_model
from build_engines.sources.model_source import ModelSource
from python_backend.errors import SetupError

_PRESETS: dict[Format, dict[str, Any]] = {
    "fp8": mtq.FP8_DEFAULT_CFG,
    "int8_sq": mtq.INT8_SMOOTHQUANT_CFG,
    "int4_awq": mtq.INT4_AWQ_CFG,
    "w4a8_awq": mtq.W4A8_AWQ_BETA_CFG,
    "nvfp4": mtq.NVFP4_DEFAULT_CFG,
}
_NOTHING: dict[str, Any] = {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": "max"}
_KV_CACHE_BITS: dict[str, int | tuple[int, int]] = {"fp8": (4, 3), "int8": 8}
_DECODERS: dict[Architecture, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen",
    "Qwen3ForCausalLM": "qwen",
    "GemmaForCausalLM": "gemma",
}


def export_quantized(
    source: ModelSource,
    settings: QuantizationSettings,
    dtype: str,
    samples: TokenIds,
    directory: Path,
    report: Report,
) -> None:
    """Write ``directory``/rank0.safetensors: the whole model, quantized, in ModelOpt's layout.

    Runs on one GPU when torch finds one, in ``dtype``; otherwise on the CPU in float32, where 16-bit floats are slower
    than 32-bit ones on most machines. The whole model is in memory, and what is exported beside it; both are free
    again afterwards. The GPU path has not been run on a GPU so far. Raises what ModelOpt and torch
    raise, and SetupError when the weights alone are more than the GPU's free memory.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exported_dtype: torch.dtype = getattr(torch, dtype)
    if device == "cuda":
        _check_memory(source.config.changed(dtype=dtype), torch.cuda.mem_get_info()[0])
    report(0, 0, "load the model")
    model = transformers_model(source.config, source.tensor, exported_dtype if device == "cuda" else torch.float32)
    model = model.to(device)
    mtq.quantize(model, modelopt_config(settings), _ForwardLoop(samples, settings.calibration.batch_size, report))
    report(0, 0, "export")
    with torch.inference_mode():
        export_tensorrt_llm_checkpoint(
            model,
            _DECODERS[source.config.architecture],
            exported_dtype,
            export_dir=directory,
            inference_tensor_parallel=1,
            inference_pipeline_parallel=1,
        )
    del model
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def modelopt_config(settings: QuantizationSettings) -> dict[str, Any]:
    """What ``mtq.quantize`` is asked for. For formats that are not ModelOpt's, only the KV cache is quantized."""
    config = copy.deepcopy(_PRESETS.get(settings.format, _NOTHING))
    group_size = settings.quantization().group_size
    if settings.format in ("int4_awq", "w4a8_awq"):
        for rule in config["quant_cfg"]:
            if rule["quantizer_name"] == "*weight_quantizer":
                # W4A8 has two steps: INT4 by groups, then FP8.
                first = rule["cfg"][0] if isinstance(rule["cfg"], list) else rule["cfg"]
                first["block_sizes"][-1] = group_size
    if settings.kv_cache:
        # TensorRT-LLM's own script names k_proj's and v_proj's output_quantizer, which the export silently ignores.
        cfg = {"num_bits": _KV_CACHE_BITS[settings.kv_cache], "axis": None}
        config["quant_cfg"].append({"quantizer_name": "*[kv]_bmm_quantizer", "cfg": cfg, "enable": True})
    return config


def _check_memory(config: CheckpointConfig, free_bytes: int) -> None:
    needed_bytes = sum(entry.whole.size_bytes for entry in tensor_table(config).values())
    if needed_bytes > free_bytes:
        raise SetupError(
            f"calibration runs on one GPU, which has {free_bytes / 1e9:.1f} GB free; the weights in {config.dtype} are "
            f"{needed_bytes / 1e9:.1f} GB. Use a larger GPU, or set CUDA_VISIBLE_DEVICES= (to nothing) to calibrate on "
            f"the CPU in float32, where the weights take {2 * needed_bytes / 1e9:.1f} GB."
        )


class _ForwardLoop:
    """Runs all samples through the model; ModelOpt calls it once or more, as its algorithm needs."""

    def __init__(self, samples: TokenIds, batch_size: int, report: Report) -> None:
        self._samples, self._batch_size, self._report = torch.from_numpy(samples), batch_size, report
        self._passes = 0

    def __call__(self, model: PreTrainedModel) -> None:
        self._passes += 1
        total = len(self._samples)
        with torch.inference_mode():
            for begin in range(0, total, self._batch_size):
                self._report(begin, total, f"calibrate, pass {self._passes}")
                ids = self._samples[begin : begin + self._batch_size].to(model.device)
                # Without the lm_head, which is not quantized: its logits would be the largest tensor of all.
                model.base_model(input_ids=ids, use_cache=False)
        self._report(total, total, f"calibrate, pass {self._passes}")
