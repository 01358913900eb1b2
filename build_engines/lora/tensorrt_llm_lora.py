"""An adapter in the two files that TensorRT-LLM reads, from ``lora_prefetch_dir`` or from a request's tensors.

``model.lora_weights.npy``, float16 [1, rows, values]: a row is lora_A [rank, in] and scaled lora_B [out, rank], both
flattened, then zeros. ``model.lora_config.npy``, int32 [1, rows, 4]: module id, layer, rank, and whether it is DoRA.
The leading 1 is a request's batch. Both hold the whole model, whose ranks each take their part when they load it.
Sources: hf_lora_convert.py and cpp/tensorrt_llm/runtime/loraCache.cpp (older releases had no fourth column).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.content_hash import builder_sha256, sha256_of
from build_engines.lora.peft_adapter import LowRank, PeftAdapter
from build_engines.publish import publishing
from python_backend.errors import SetupError

LORA_WEIGHTS_FILE = "model.lora_weights.npy"
LORA_CONFIG_FILE = "model.lora_config.npy"
SOURCE_FILE = "source.json"

_MERGE_INSTEAD = "or merge the adapter into the model before it is quantized."


def convert_lora(adapter_dir: Path, base: CheckpointConfig, out_dir: Path) -> bool:
    """Write the PEFT adapter ``adapter_dir`` to ``out_dir`` for engines of the checkpoint that ``base`` describes.

    All or nothing; False when ``out_dir`` has been made from this very adapter already. For ``lora_prefetch_dir``,
    name ``out_dir`` by the number that requests give as lora_task_id. Raises SetupError when the adapter is not for
    this model, when TensorRT-LLM could not apply it to this model, or float16 cannot hold it.
    """
    adapter = PeftAdapter.open(adapter_dir, base)
    _check_runtime(adapter, base)
    source = {"adapter_sha256": adapter.sha256(), "builder_sha256": builder_sha256("checkpoint", "lora")}
    if _is_converted(out_dir, source):
        return False
    with publishing(out_dir, known_by=LORA_WEIGHTS_FILE) as draft:
        weights, config = draft / LORA_WEIGHTS_FILE, draft / LORA_CONFIG_FILE
        _write_weights(weights, adapter)
        rows = [[update.module.module_id, update.layer, update.rank, 0] for update in adapter.updates]
        np.save(config, np.array([rows], np.int32))
        source["files_sha256"] = sha256_of(weights, config)
        (draft / SOURCE_FILE).write_text(json.dumps(source) + "\n", encoding="utf-8")
    return True


def _check_runtime(adapter: PeftAdapter, base: CheckpointConfig) -> None:
    """What TensorRT-LLM 1.2 would take and compute wrongly, or not at all (loraUtils.cpp, loraModule.cpp)."""
    if base.dtype != "float16":
        raise SetupError(
            f"the checkpoint's dtype is {base.dtype}. Adapters must have the engine's type, and only float16 passes "
            f"through .npy files and the input lora_weights. Make the checkpoint with dtype float16, {_MERGE_INSTEAD}"
        )
    names = {update.module.name for update in adapter.updates}
    if "attn_dense" in names and base.q_rows != base.hidden_size:
        raise SetupError(
            f"the adapter changes o_proj, whose {base.q_rows} inputs are not the model's hidden size "
            f"{base.hidden_size}; TensorRT-LLM takes them to be equal. Train it without o_proj, {_MERGE_INSTEAD}"
        )
    tp_size, kv_heads = base.mapping.tp_size, base.num_key_value_heads
    if names & {"attn_k", "attn_v"} and tp_size > kv_heads:
        raise SetupError(
            f"the adapter changes k_proj or v_proj, whose {kv_heads} heads are repeated for tp_size {tp_size}; "
            f"TensorRT-LLM does not repeat an adapter's. Build with tp_size {kv_heads} at most, {_MERGE_INSTEAD}"
        )


def _write_weights(path: Path, adapter: PeftAdapter) -> None:
    """Row by row, so that memory holds one."""
    size = max(update.down.size + update.up.size for update in adapter.updates)
    shape = (1, len(adapter.updates), size)
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        for update in adapter.updates:
            row = np.zeros(size, np.float16)
            row[: update.down.size] = _half(update, update.down.astype(np.float32))
            row[update.down.size :][: update.up.size] = _half(update, update.scaled_up())
            file.write(row.tobytes())


def _half(update: LowRank, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise SetupError(
            f"layer {update.layer}'s {update.module.peft} reaches {np.abs(values).max():g} in the adapter, and float16 "
            f"at most {np.finfo(np.float16).max:g}. Train it again with a smaller lora_alpha, {_MERGE_INSTEAD}"
        )
    return half.ravel()


def _is_converted(out_dir: Path, source: dict[str, Any]) -> bool:
    files = [out_dir / name for name in (LORA_WEIGHTS_FILE, LORA_CONFIG_FILE, SOURCE_FILE)]
    if not all(path.is_file() for path in files):
        return False
    expected = json.dumps(source | {"files_sha256": sha256_of(*files[:2])}) + "\n"
    return files[2].read_text(encoding="utf-8") == expected
