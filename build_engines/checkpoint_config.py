"""``config.json`` of a TensorRT-LLM checkpoint, and the tensors that it calls for.

Names and shapes are those of TensorRT-LLM 1.2 for the Llama family. Beware of its MLP: ``fc`` is Hugging Face's
``gate_proj`` and ``gate`` is its ``up_proj``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

CONFIG_FILE = "config.json"


class ParallelMapping(BaseModel):
    """How the weights are spread over ranks. One rank only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world_size: int = 1
    tp_size: int = 1
    pp_size: int = 1
    cp_size: int = 1
    moe_tp_size: int = 1
    moe_ep_size: int = 1

    @model_validator(mode="after")
    def _one_rank(self) -> ParallelMapping:
        sharded = {name: size for name, size in self.model_dump().items() if size != 1}
        if sharded:
            sizes = ", ".join(f"{name} {size}" for name, size in sharded.items())
            raise ValueError(
                f"the checkpoint is sharded ({sizes}) and only unsharded ones can be read; "
                "convert it again with tp_size 1 and pp_size 1"
            )
        return self


class Quantization(BaseModel):
    """``quant_algo`` W8A16 means plain weights that the engine build quantizes to INT8, one scale a channel.

    All linear layers are: of ``exclude_modules``, only the lm_head can be left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quant_algo: Literal["W8A16"] | None = None
    kv_cache_quant_algo: None = None
    exclude_modules: list[Literal["lm_head"]] = ["lm_head"]


class CheckpointConfig(BaseModel):
    """What a Llama-family checkpoint says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["LlamaForCausalLM"] = "LlamaForCausalLM"
    dtype: Literal["float16", "float32"]
    logits_dtype: Literal["float32"] = "float32"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_size: int = Field(gt=0, multiple_of=2)
    intermediate_size: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    hidden_act: Literal["silu"] = "silu"
    norm_epsilon: float = Field(gt=0)
    position_embedding_type: Literal["rope_gpt_neox"] = "rope_gpt_neox"
    rotary_base: float = Field(gt=0)
    rotary_scaling: None = None
    attn_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: bool
    mapping: ParallelMapping = ParallelMapping()
    quantization: Quantization = Quantization()

    @classmethod
    def read(cls, checkpoint_dir: Path) -> CheckpointConfig:
        """Raises SetupError that names the file, the key and its value."""
        path = checkpoint_dir / CONFIG_FILE
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise SetupError(f"{path} does not exist; {checkpoint_dir} is no TensorRT-LLM checkpoint.") from error
        except ValidationError as error:
            raise SetupError(f"{path}: {first_problem(error, cls)}") from error
        except ValueError as error:
            raise SetupError(f"{path} is no valid JSON ({error}). Make the checkpoint again.") from error

    @property
    def q_rows(self) -> int:
        """Rows of the query part of ``attention.qkv``."""
        return self.num_attention_heads * self.head_size

    @property
    def kv_rows(self) -> int:
        """Rows of the key part of ``attention.qkv``, and of its value part."""
        return self.num_key_value_heads * self.head_size

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of ``rank0.safetensors`` by name; weights are [out, in]. A tied lm_head is not stored."""
        hidden, inter = self.hidden_size, self.intermediate_size
        of_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "attention.qkv.weight": (self.q_rows + 2 * self.kv_rows, hidden),
            "attention.dense.weight": (hidden, self.q_rows),
            "post_layernorm.weight": (hidden,),
            "mlp.fc.weight": (inter, hidden),
            "mlp.gate.weight": (inter, hidden),
            "mlp.proj.weight": (hidden, inter),
        }
        shapes: dict[str, tuple[int, ...]] = {"transformer.vocab_embedding.weight": (self.vocab_size, hidden)}
        for layer in range(self.num_hidden_layers):
            shapes |= {f"transformer.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
        shapes["transformer.ln_f.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    @model_validator(mode="after")
    def _grouped_queries(self) -> CheckpointConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self
