"""A merged model computes what PEFT computes with the adapter beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from build_engines.checkpoint.config import Architecture
from build_engines.checkpoint.dtypes import BY_NAME, DtypeName
from build_engines.lora.merge import MergedSource
from build_engines.lora.peft_adapter import PeftAdapter
from build_engines.quantization.transformers_model import transformers_model
from build_engines.sources.model_source import ModelSource
from python_backend.errors import SetupError
from tests import tiny_models
from tests.unit.build_engines.lora.tiny_adapters import VARIETIES, TinySource, edit_config, logits, save_adapter


@pytest.mark.parametrize(("architecture", "settings"), VARIETIES)
def test_logits_are_those_of_peft(tmp_path: Path, architecture: Architecture, settings: dict[str, Any]) -> None:
    config = tiny_models.config(architecture, dtype="float32")
    base = TinySource(config)
    adapted = save_adapter(tmp_path, config, **settings)
    merged: ModelSource = MergedSource(base, tmp_path)
    computed = logits(transformers_model(config, merged.tensor))
    with_adapter, without = logits(adapted), logits(transformers_model(config, base.tensor))
    assert (with_adapter - without).abs().max() > 1
    torch.testing.assert_close(computed, with_adapter, atol=5e-5, rtol=0)
    torch.testing.assert_close(computed, logits(adapted.merge_and_unload()), atol=5e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_rounded_once(tmp_path: Path, dtype: DtypeName) -> None:
    config = tiny_models.config("Qwen2ForCausalLM", dtype=dtype)
    base = TinySource(config)
    save_adapter(tmp_path, config, target_modules=["k_proj"])
    merged = MergedSource(base, tmp_path)
    name = "transformer.layers.1.attention.qkv.weight"
    (update,) = [update for update in PeftAdapter.open(tmp_path, config).updates if update.tensor == name]
    before, after = base.tensor(name), merged.tensor(name)
    keys = slice(config.q_rows, config.q_rows + config.kv_rows)
    exact = before[keys].astype(np.float64) + update.scale * (
        update.up.astype(np.float64) @ update.down.astype(np.float64)
    )
    steps = np.abs(after[keys].astype(np.float64) - exact) / np.abs(exact)
    assert after.dtype == BY_NAME[dtype]
    assert steps.max() <= {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype] * 1.01
    others = np.r_[: keys.start, keys.stop : len(after)]
    assert np.array_equal(before[others], after[others])
    bias = "transformer.layers.1.attention.qkv.bias"
    assert np.array_equal(base.tensor(bias), merged.tensor(bias))


def test_says_what_it_is(tmp_path: Path) -> None:
    config = tiny_models.config("LlamaForCausalLM")
    base = TinySource(config, notices=("of the base",))
    save_adapter(tmp_path / "poet", config)
    merged = MergedSource(base, tmp_path / "poet")
    assert merged.config == config
    assert merged.files == base.files
    assert merged.notices == ("of the base", "the LoRA adapter poet is merged into the weights")
    before = merged.sha256()
    assert before == MergedSource(base, tmp_path / "poet").sha256() != base.sha256()
    edit_config(tmp_path / "poet", lora_alpha=16)
    assert before != MergedSource(base, tmp_path / "poet").sha256()


def test_refuses_sums_too_large_for_the_type(tmp_path: Path) -> None:
    config = tiny_models.config("LlamaForCausalLM", dtype="float16")
    save_adapter(tmp_path, config)
    edit_config(tmp_path, lora_alpha=4_000_000)
    merged = MergedSource(TinySource(config), tmp_path)
    with pytest.raises(SetupError, match=r"attention\.qkv\.weight\" reaches .*, which float16 cannot hold"):
        merged.tensor("transformer.layers.0.attention.qkv.weight")
