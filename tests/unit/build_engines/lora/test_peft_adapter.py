"""Only what can be carried over exactly is read; the rest is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from build_engines.lora.peft_adapter import PeftAdapter
from python_backend.errors import SetupError
from tests import tiny_models
from tests.unit.build_engines.lora.tiny_adapters import edit_config, edit_tensors, save_adapter

CONFIG = tiny_models.config("LlamaForCausalLM", dtype="float32")
AT = "base_model.model.model.layers"


def test_reads_what_peft_computes(tmp_path: Path) -> None:
    settings = {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7}, "alpha_pattern": {"mlp.down_proj": 3}}
    model = save_adapter(tmp_path, CONFIG, use_rslora=True, layers_to_transform=[1], **settings)
    adapter = PeftAdapter.open(tmp_path, CONFIG)
    assert [update.rank for update in adapter.updates] == [2, 4, 4, 4, 4, 4, 7]
    assert {update.layer for update in adapter.updates} == {1}
    for update in adapter.updates:
        layer = model.get_submodule(f"base_model.model.model.layers.1.{update.module.peft}")
        np.testing.assert_allclose(update.delta(), layer.get_delta_weight("default").detach().numpy(), atol=1e-6)


def test_says_what_the_engine_must_be_built_with(tmp_path: Path) -> None:
    save_adapter(tmp_path, CONFIG, r=5, target_modules=["v_proj", "down_proj"])
    adapter = PeftAdapter.open(tmp_path, CONFIG)
    assert adapter.max_rank == 5
    assert adapter.target_modules == ("attn_q", "attn_k", "attn_v", "mlp_4h_to_h")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, 'key "use_dora" is True, which plain LoRA does not have. Merge the adapter'),
        ({"bias": "lora_only"}, "key \"bias\" is 'lora_only'"),
        ({"lora_bias": True}, 'key "lora_bias" is True'),
        ({"modules_to_save": ["lm_head"]}, "key \"modules_to_save\" is ['lm_head']"),
        ({"trainable_token_indices": [1, 2]}, 'key "trainable_token_indices" is [1, 2]'),
        ({"layer_replication": [[0, 2], [1, 2]]}, 'key "layer_replication" is [[0, 2], [1, 2]]'),
        ({"target_modules": ["q_proj", "embed_tokens"]}, 'embed_tokens.base_layer.weight" is no low-rank matrix of'),
        ({"target_modules": ["q_proj", "lm_head"]}, 'lm_head.base_layer.weight" is no low-rank matrix of'),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of tied embeddings
def test_refuses_what_is_more_than_plain_lora(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    save_adapter(tmp_path, CONFIG, **settings)
    with pytest.raises(SetupError) as refused:
        PeftAdapter.open(tmp_path, CONFIG)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "key \"peft_type\" is 'IA3': Input should be 'LORA'"),
        ({"fan_in_fan_out": True}, 'key "fan_in_fan_out" is True'),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"some_later_invention": {"strength": 2}}, "key \"some_later_invention\" is {'strength': 2}"),
        ({"rank_pattern": {"q_proj": 2}}, 'q_proj.lora_A.weight" is F32 [4, 64]; rank 2 on this model calls for'),
        ({"alpha_pattern": {"(": 2}}, "pattern '(' is no regular expression"),
        ({"lora_alpha": None}, 'key "lora_alpha" is None'),
    ],
)
def test_refuses_a_config_that_means_something_else(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_adapter(tmp_path, CONFIG)
    edit_config(tmp_path, **changes)
    with pytest.raises(SetupError) as refused:
        PeftAdapter.open(tmp_path, CONFIG)
    assert message in str(refused.value)


def test_later_keys_that_are_unset_do_no_harm(tmp_path: Path) -> None:
    save_adapter(tmp_path, CONFIG)
    edit_config(tmp_path, some_later_invention=None, another=False, base_model_name_or_path="meta/llama")
    assert len(PeftAdapter.open(tmp_path, CONFIG).updates) == 14


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "rank 4 on this model calls for floats of [32, 4]. Name the model"),
        ({"num_hidden_layers": 1}, "is of layer 1, counted from 0; the model has 1. Name the model"),
        ({"num_key_value_heads": 4}, 'k_proj.lora_B.weight" is F32 [64, 4]'),
    ],
)
def test_refuses_an_adapter_of_another_model(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_adapter(tmp_path, CONFIG)
    with pytest.raises(SetupError) as refused:
        PeftAdapter.open(tmp_path, CONFIG.changed(**changes))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{AT}.0.mlp.up_proj.lora_B.weight", None, 'mlp.up_proj.lora_B.weight" is missing'),
        (f"{AT}.0.mlp.up_proj.lora_A.weight", None, 'mlp.up_proj.lora_A.weight" is missing'),
        (f"{AT}.0.mlp.up_projs.lora_A.weight", torch.zeros(4, 64), 'mlp.up_projs.lora_A.weight" is no low-rank'),
        (f"{AT}.0.mlp.up_proj.lora_A.weight", torch.zeros(4, 64, dtype=torch.int8), "is I8 [4, 64]"),
    ],
)
def test_refuses_a_file_with_other_tensors(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    save_adapter(tmp_path, CONFIG)
    edit_tensors(tmp_path, {name: tensor})
    with pytest.raises(SetupError) as refused:
        PeftAdapter.open(tmp_path, CONFIG)
    assert message in str(refused.value)


def test_refuses_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"adapter_config\.json does not exist; .* is no PEFT adapter"):
        PeftAdapter.open(tmp_path, CONFIG)
    save_adapter(tmp_path, CONFIG)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SetupError, match=r"adapter_model\.safetensors cannot be read"):
        PeftAdapter.open(tmp_path, CONFIG)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(SetupError, match="a pickle"):
        PeftAdapter.open(tmp_path, CONFIG)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(SetupError, match="no valid JSON"):
        PeftAdapter.open(tmp_path, CONFIG)
