"""TensorRT-LLM's runtime, imitated as its C++ reads the two files, computes what PEFT computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from build_engines.checkpoint.config import Architecture, CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.sharding import shard
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.lora.peft_adapter import PeftAdapter
from build_engines.lora.tensorrt_llm_lora import convert_lora
from build_engines.quantization.transformers_model import transformers_model
from python_backend.errors import SetupError
from tests import tiny_models
from tests.unit.build_engines.lora.tiny_adapters import VARIETIES, TinySource, edit_config, logits, save_adapter

#: Module ids of loraModule.h, as transformers names the layers.
PATHS = {
    1: "self_attn.q_proj",
    2: "self_attn.k_proj",
    3: "self_attn.v_proj",
    4: "self_attn.o_proj",
    5: "mlp.gate_proj",
    6: "mlp.down_proj",
    7: "mlp.up_proj",
}


def config_of(architecture: Architecture, **changes: Any) -> CheckpointConfig:
    """float16, with heads that make up the hidden size."""
    return tiny_models.config(architecture, dtype="float16", head_size=16, **changes)


def load_as_rank(
    out_dir: Path, config: CheckpointConfig, tp_size: int, tp_rank: int
) -> Iterator[tuple[int, int, Array, Array]]:
    """Module id, layer, and the parts of lora_A and lora_B that a rank keeps: LoraCache::copyToPages."""
    hidden, inter, head = config.hidden_size, config.intermediate_size, config.head_size
    heads, kv_heads = config.num_attention_heads * head, config.num_key_value_heads * head
    shapes = [(hidden, heads), (hidden, kv_heads), (hidden, kv_heads), (hidden, hidden)]
    shapes += [(hidden, inter), (inter, hidden), (hidden, inter)]
    weights = np.load(out_dir / "model.lora_weights.npy")[0]
    for row, (module_id, layer, rank, is_dora) in zip(
        weights, np.load(out_dir / "model.lora_config.npy")[0].tolist(), strict=True
    ):
        assert not is_dora
        into, out = shapes[module_id - 1]
        down, up = row[: rank * into].reshape(rank, into), row[rank * into :][: out * rank].reshape(out, rank)
        if module_id in (4, 6):
            down = down[:, tp_rank * (into // tp_size) :][:, : into // tp_size]
        else:
            up = up.reshape(tp_size, out // tp_size, rank)[tp_rank]
        yield module_id, layer, down.astype(np.float32), up.astype(np.float32)


@pytest.mark.parametrize(("architecture", "settings"), VARIETIES)
def test_logits_are_those_of_peft(tmp_path: Path, architecture: Architecture, settings: dict[str, Any]) -> None:
    config = config_of(architecture)
    adapted = save_adapter(tmp_path / "adapter", config, **settings)
    assert convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    model = transformers_model(config, TinySource(config).tensor)
    without = logits(model)
    for module_id, layer, down, up in load_as_rank(tmp_path / "1", config, 1, 0):
        weight = model.get_submodule(f"model.layers.{layer}.{PATHS[module_id]}").weight
        weight.data += torch.from_numpy(up @ down)
    effect = (logits(adapted) - without).abs().max()
    assert effect > 1
    assert (logits(model) - logits(adapted)).abs().max() < 2e-3 * effect


def test_ranks_take_what_their_part_of_the_model_needs(tmp_path: Path) -> None:
    whole = config_of("LlamaForCausalLM")
    save_adapter(tmp_path / "adapter", whole)
    config = whole.sharded(tp_size=2, pp_size=1)
    convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    changes = {name: np.zeros(entry.whole.shape, np.float32) for name, entry in tensor_table(whole).items()}
    for update in PeftAdapter.open(tmp_path / "adapter", whole).updates:
        changes[update.tensor][update.module.rows(whole)] = update.delta()
    names = {4: "attention.dense", 5: "mlp.fc", 6: "mlp.proj", 7: "mlp.gate"}
    for tp_rank in range(2):
        taken: dict[str, list[Array]] = {}
        for module_id, layer, down, up in load_as_rank(tmp_path / "1", config, 2, tp_rank):
            name = f"transformer.layers.{layer}.{names.get(module_id, 'attention.qkv')}.weight"
            taken.setdefault(name, []).append(up @ down)
        assert len(taken) == 10
        for name, parts in taken.items():
            needed = shard(config, tensor_table(config)[name], changes[name], tp_rank)
            np.testing.assert_allclose(np.concatenate(parts), needed, atol=2e-3)


def test_files_are_what_the_loader_expects(tmp_path: Path) -> None:
    config = config_of("Qwen2ForCausalLM")
    save_adapter(tmp_path / "adapter", config, rank_pattern={"up_proj": 6})
    convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    weights = np.load(tmp_path / "1/model.lora_weights.npy")
    rows = np.load(tmp_path / "1/model.lora_config.npy")
    assert (weights.dtype, weights.shape) == (np.float16, (1, 14, 6 * (64 + 128)))
    assert rows.dtype == np.int32
    assert rows.tolist() == [[[id, layer, 6 if id == 7 else 4, 0] for layer in range(2) for id in range(1, 8)]]
    assert not weights[0, 0, 4 * (64 + 64) :].any()


def test_is_done_once(tmp_path: Path) -> None:
    config = config_of("LlamaForCausalLM")
    save_adapter(tmp_path / "adapter", config)
    assert convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    assert not convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    with (tmp_path / "1/model.lora_weights.npy").open("r+b") as file:
        file.truncate(1000)
    assert convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    edit_config(tmp_path / "adapter", lora_alpha=3)
    assert convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    assert not convert_lora(tmp_path / "adapter", config, tmp_path / "1")


def test_refuses_what_float16_cannot_hold(tmp_path: Path) -> None:
    config = config_of("LlamaForCausalLM")
    save_adapter(tmp_path / "adapter", config)
    edit_config(tmp_path / "adapter", lora_alpha=4_000_000)
    with pytest.raises(SetupError, match=r"layer 0's self_attn\.q_proj reaches .* and float16 at most 65504"):
        convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "bfloat16"}, "the checkpoint's dtype is bfloat16. Adapters must have the engine's type"),
        ({"head_size": 32}, "o_proj, whose 128 inputs are not the model's hidden size 64"),
        (
            {"mapping": {"world_size": 4, "tp_size": 4}},
            "whose 2 heads are repeated for tp_size 4; TensorRT-LLM does not repeat an adapter's. Build with tp_size 2",
        ),
    ],
)
def test_refuses_models_whose_adapters_the_runtime_would_misread(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = config_of("LlamaForCausalLM").changed(**changes)
    save_adapter(tmp_path / "adapter", config)
    with pytest.raises(SetupError) as refused:
        convert_lora(tmp_path / "adapter", config, tmp_path / "1")
    assert message in str(refused.value)


def test_replaces_nothing_else(tmp_path: Path) -> None:
    config = config_of("LlamaForCausalLM")
    save_adapter(tmp_path / "adapter", config)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(SetupError, match=r"is in use and has no model\.lora_weights\.npy"):
        convert_lora(tmp_path / "adapter", config, tmp_path / "mine")
