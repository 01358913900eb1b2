"""ModelOpt's export is put right where it is known to differ, and refused where it is not what was asked for."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import FLOAT16, Array
from build_engines.checkpoint.safetensors_file import SafetensorsFile, SafetensorsWriter, TensorType
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, tensor_table
from build_engines.quantization.exported_tensors import ExportedTensors
from python_backend.errors import SetupError
from tests import tiny_models

QKV = "transformer.layers.0.attention.qkv"
KV_SCALE = "transformer.layers.1.attention.kv_cache_scaling_factor"


def config(**quantization: object) -> CheckpointConfig:
    return tiny_models.config("MistralForCausalLM", vocab_size=300, quantization=quantization)


def export(of: CheckpointConfig) -> dict[str, Array]:
    """What a faultless export would be: ones."""
    return {name: np.ones(entry.whole.shape, entry.whole.dtype) for name, entry in tensor_table(of).items()}


def opened(folder: Path, of: CheckpointConfig, tensors: dict[str, Array]) -> ExportedTensors:
    path = folder / "rank0.safetensors"
    with SafetensorsWriter(path, {name: TensorType(t.dtype, t.shape) for name, t in tensors.items()}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return ExportedTensors(SafetensorsFile(path), of)


def test_a_faultless_export_is_given_as_it_is(tmp_path: Path) -> None:
    of = config(quant_algo="FP8", kv_cache_quant_algo="INT8")
    tensors = export(of)
    made = opened(tmp_path, of, tensors)
    for name, tensor in tensors.items():
        assert made(name).dtype == tensor.dtype
        assert (made(name) == tensor).all()


def test_rows_added_to_the_vocabulary_are_cut_off(tmp_path: Path) -> None:
    of = config(quant_algo="W4A16_AWQ", group_size=32)
    tensors = export(of)
    for name in (EMBEDDING, LM_HEAD):
        tensors[name] = np.pad(tensors[name], [(0, 20), (0, 0)])
    made = opened(tmp_path, of, tensors)
    assert made(EMBEDDING).shape == made(LM_HEAD).shape == (300, 64)
    assert made(EMBEDDING).all()


def test_scalars_get_their_dimension(tmp_path: Path) -> None:
    of = config(quant_algo="NVFP4", group_size=16)
    name = f"{QKV}.weights_scaling_factor_2"
    made = opened(tmp_path, of, export(of) | {name: np.array(0.5, np.float32)})
    assert made(name).tolist() == [0.5]


def test_a_tied_lm_head_may_be_missing_and_another_not(tmp_path: Path) -> None:
    untied = config()
    tensors = export(untied)
    del tensors[LM_HEAD]
    opened(tmp_path, untied.changed(tie_word_embeddings=True), tensors)
    with pytest.raises(SetupError, match=r'has no "lm_head\.weight"'):
        opened(tmp_path, untied, tensors)


def test_the_parts_of_the_kv_scale_are_left_out_on_purpose(tmp_path: Path) -> None:
    of = config(kv_cache_quant_algo="FP8")
    parts = {KV_SCALE.replace(".kv_", f".{x}_"): np.ones(1, np.float32) for x in "kv"}
    made = opened(tmp_path, of, export(of) | parts)
    assert made(KV_SCALE).tolist() == [1]


def test_a_kv_cache_that_was_not_quantized_is_refused(tmp_path: Path) -> None:
    of = config(quant_algo="W8A8_SQ_PER_CHANNEL", kv_cache_quant_algo="INT8")
    tensors = export(of)
    del tensors[KV_SCALE]
    with pytest.raises(SetupError, match=f'did not quantize the KV cache: its export has no "{KV_SCALE}"'):
        opened(tmp_path, of, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{QKV}.scale": np.ones(1, np.float32)}, f'unknown tensor "{QKV}.scale"'),
        ({f"{QKV}.activation_scaling_facto": np.ones(1, np.float32)}, "did you mean"),
        (
            {f"{QKV}.weight": np.ones((128, 64), FLOAT16)},
            r"as F16 \[128, 64\]; the format calls for F8_E4M3 \[256, 64\]",
        ),
        ({EMBEDDING: np.ones((301, 64), FLOAT16)}, r"F16 \[301, 64\]; the format calls for F16 \[300, 64\]"),
        ({"transformer.ln_f.weight": np.ones(64, ml_dtypes.bfloat16)}, r"as BF16 \[64\]; the format calls for F16"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, change: dict[str, Array], message: str) -> None:
    of = config(quant_algo="FP8")
    with pytest.raises(SetupError, match=message):
        opened(tmp_path, of, export(of) | change)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    of = config(quant_algo="FP8")
    name = f"{QKV}.activation_scaling_factor"
    made = opened(tmp_path, of, export(of) | {name: np.array([value], np.float32)})
    with pytest.raises(SetupError, match=f'not finite in "{name}".*bfloat16'):
        made(name)
