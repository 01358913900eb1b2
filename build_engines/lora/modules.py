"""The linear layers that LoRA adapts, by the names of everyone who names them."""

from __future__ import annotations

from dataclasses import dataclass

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.tensor_table import linear_shape


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One kind of linear layer: PEFT's path within a layer, TensorRT-LLM's name and id, and whose rows it is.

    Names and ids are those of ``LORA_MODULE_IDS`` in TensorRT-LLM's lora_manager.py and of its hf_lora_convert.py.
    """

    peft: str
    name: str
    module_id: int
    linear: str

    def rows(self, config: CheckpointConfig) -> slice:
        """Its outputs among those of ``linear``: a part of ``attention.qkv``, all of any other."""
        q, kv = config.q_rows, config.kv_rows
        first, count = {"attn_q": (0, q), "attn_k": (q, kv), "attn_v": (q + kv, kv)}.get(
            self.name, (0, linear_shape(config, self.linear)[0])
        )
        return slice(first, first + count)

    def shape(self, config: CheckpointConfig) -> tuple[int, int]:
        """Outputs and inputs."""
        rows = self.rows(config)
        return rows.stop - rows.start, linear_shape(config, self.linear)[1]


MODULES = (
    LoraModule("self_attn.q_proj", "attn_q", 1, "attention.qkv"),
    LoraModule("self_attn.k_proj", "attn_k", 2, "attention.qkv"),
    LoraModule("self_attn.v_proj", "attn_v", 3, "attention.qkv"),
    LoraModule("self_attn.o_proj", "attn_dense", 4, "attention.dense"),
    LoraModule("mlp.gate_proj", "mlp_h_to_4h", 5, "mlp.fc"),
    LoraModule("mlp.down_proj", "mlp_4h_to_h", 6, "mlp.proj"),
    LoraModule("mlp.up_proj", "mlp_gate", 7, "mlp.gate"),
)
BY_PEFT_PATH = {module.peft: module for module in MODULES}
