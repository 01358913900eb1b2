"""``config.json`` of a TensorRT-LLM checkpoint.

Keys are those of TensorRT-LLM 1.2 for the Llama, Mistral, Qwen and Gemma families.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from build_engines.checkpoint.dtypes import DtypeName
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

CONFIG_FILE = "config.json"

Architecture = Literal[
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM"
]
QuantAlgo = Literal["W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W8A8_SQ_PER_CHANNEL", "FP8", "NVFP4"]
KvCacheQuantAlgo = Literal["FP8", "INT8"]
#: TensorRT-LLM needs to be told which Qwen it is.
QWEN_TYPES: dict[Architecture, Literal["qwen2", "qwen3"]] = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class ParallelMapping(BaseModel):
    """How the weights are spread over ranks: rank = pp_rank * tp_size + tp_rank."""

    model_config = _FROZEN

    world_size: int = Field(default=1, gt=0)
    tp_size: int = Field(default=1, gt=0)
    pp_size: int = Field(default=1, gt=0)
    cp_size: Literal[1] = 1
    moe_tp_size: Literal[1] = 1
    moe_ep_size: Literal[1] = 1

    @classmethod
    def of(cls, tp_size: int, pp_size: int) -> ParallelMapping:
        return cls(world_size=tp_size * pp_size, tp_size=tp_size, pp_size=pp_size)

    @model_validator(mode="after")
    def _consistent(self) -> ParallelMapping:
        if self.world_size != self.tp_size * self.pp_size:
            raise ValueError(
                f"mapping.world_size {self.world_size} is not tp_size {self.tp_size} x pp_size {self.pp_size}"
            )
        return self


class Quantization(BaseModel):
    """What the linear layers are stored as. Of ``exclude_modules``, only the lm_head can be left out.

    W8A16 and W4A16 mean plain weights that the engine build quantizes, one scale an output channel.
    """

    model_config = _FROZEN

    quant_algo: QuantAlgo | None = None
    kv_cache_quant_algo: KvCacheQuantAlgo | None = None
    group_size: int | None = Field(
        default=None, gt=0, multiple_of=2, description="Inputs that share a scale: INT4 and NVFP4."
    )
    has_zero_point: Literal[False] = False
    pre_quant_scale: bool = False
    exclude_modules: list[Literal["lm_head"]] = ["lm_head"]

    @model_validator(mode="after")
    def _groups(self) -> Quantization:
        grouped = self.quant_algo in ("W4A16_AWQ", "W4A8_AWQ", "NVFP4")
        if grouped and self.group_size is None:
            raise ValueError(f'key "quantization.group_size" is missing; quant_algo {self.quant_algo} has groups')
        if not grouped and self.group_size is not None:
            raise ValueError(f"quantization.group_size {self.group_size} is given; {self.quant_algo} has no groups")
        return self


class LinearScaling(BaseModel):
    """Positions divided by ``factor``."""

    model_config = _FROZEN

    rope_type: Literal["linear"] = "linear"
    factor: float = Field(gt=0)


class Llama3Scaling(BaseModel):
    """Llama 3.1's rule: low frequencies are divided by ``factor``, high ones kept, those between interpolated."""

    model_config = _FROZEN

    rope_type: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_position_embeddings: int = Field(gt=0)


RotaryScaling = Annotated[LinearScaling | Llama3Scaling, Field(discriminator="rope_type")]


class CheckpointConfig(BaseModel):
    """What a checkpoint of a supported family says of itself.

    ``hidden_act`` "gelu" is the tanh form (Hugging Face's gelu_pytorch_tanh), as TensorRT-LLM computes it.
    """

    model_config = _FROZEN

    architecture: Architecture
    dtype: DtypeName
    logits_dtype: Literal["float16", "float32"] = "float32"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_size: int = Field(gt=0, multiple_of=2)
    intermediate_size: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    hidden_act: Literal["silu", "gelu"] = "silu"
    norm_epsilon: float = Field(gt=0)
    position_embedding_type: Literal["rope_gpt_neox"] = "rope_gpt_neox"
    rotary_base: float = Field(gt=0)
    rotary_scaling: RotaryScaling | None = None
    attn_bias: bool = Field(default=False, description="Whether attention.qkv has a bias; attention.dense has none.")
    mlp_bias: Literal[False] = False
    qk_layernorm: bool = Field(default=False, description="Whether queries and keys are normalized per head.")
    qwen_type: Literal["qwen2", "qwen3"] | None = None
    use_parallel_embedding: bool = Field(default=False, description="Whether ranks share the embedding.")
    embedding_sharding_dim: Literal[0] = 0
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

    def changed(self, **changes: Any) -> CheckpointConfig:
        """A copy with other values. Raises SetupError when the model cannot have them."""
        try:
            return CheckpointConfig.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise SetupError(f"{first_problem(error, CheckpointConfig)}.") from error

    def sharded(self, tp_size: int, pp_size: int) -> CheckpointConfig:
        """A copy for another number of ranks. Raises SetupError when the model cannot be divided so."""
        mapping = ParallelMapping.of(tp_size, pp_size)
        return self.changed(mapping=mapping.model_dump(), use_parallel_embedding=tp_size > 1)

    def to_json(self) -> str:
        """The text of ``config.json``; keys that say nothing about this model are left out."""
        keys: dict[str, Any] = self.model_dump()
        if self.qwen_type is None:
            del keys["qwen_type"]
        if self.quantization.group_size is None:
            del keys["quantization"]["group_size"]
        return json.dumps(keys, indent=2) + "\n"

    @property
    def q_rows(self) -> int:
        """Rows of the query part of ``attention.qkv``."""
        return self.num_attention_heads * self.head_size

    @property
    def kv_rows(self) -> int:
        """Rows of the key part of ``attention.qkv``, and of its value part."""
        return self.num_key_value_heads * self.head_size

    @model_validator(mode="after")
    def _grouped_queries(self) -> CheckpointConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> CheckpointConfig:
        problem = self.indivisible(self.mapping)
        if problem:
            raise ValueError(problem)
        return self

    def indivisible(self, mapping: ParallelMapping) -> str | None:
        """Why this model cannot be spread over ``mapping``, if it cannot."""
        tp, pp, kv_heads = mapping.tp_size, mapping.pp_size, self.num_key_value_heads
        if self.num_hidden_layers % pp:
            return f"num_hidden_layers {self.num_hidden_layers} cannot be divided into pp_size {pp} stages"
        if self.num_attention_heads % tp:
            return f"num_attention_heads {self.num_attention_heads} cannot be divided by tp_size {tp}"
        if kv_heads % tp and tp % kv_heads:
            return f"num_key_value_heads {kv_heads} can neither be divided by nor repeated for tp_size {tp}"
        if self.intermediate_size % tp:
            return f"intermediate_size {self.intermediate_size} cannot be divided by tp_size {tp}"
        group = self.quantization.group_size
        if group is None:
            return None
        inputs = {
            "hidden_size": self.hidden_size,
            "attention.dense's inputs a rank": self.q_rows // tp,
            "mlp.proj's inputs a rank": self.intermediate_size // tp,
        }
        for what, size in inputs.items():
            if size % group:
                fits = [g for g in (128, 64, 32, 16) if not any(size % g for size in inputs.values())]
                instead = f"group_size {fits[0]} fits" if fits else "no usual group_size fits; choose another tp_size"
                return f"{what} {size} cannot be divided by group_size {group}; {instead}"
        if self.intermediate_size // tp % 2:
            return f"intermediate_size {self.intermediate_size} has an odd part a rank; two rows share a byte in INT4"
        return None
