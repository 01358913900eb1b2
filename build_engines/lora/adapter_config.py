"""PEFT's ``adapter_config.json``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

ADAPTER_CONFIG_FILE = "adapter_config.json"

#: What can be done with an adapter that is more than plain LoRA.
MERGE_WITH_PEFT = "Merge the adapter into its model with PEFT (merge_and_unload) and build from the result."

#: Keys that say where an adapter is from or how it was trained, and nothing of what it computes.
_NO_EFFECT = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "peft_version", "revision", "task_type", "inference_mode"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
        *("megatron_core", "eva_config", "loftq_config", "qalora_group_size", "ensure_weight_tying"),
    }
)

_Value = TypeVar("_Value", int, float)


class AdapterConfig(BaseModel):
    """What decides how an adapter's matrices are applied.

    PEFT adds keys with every release, each for another kind of adapter: those unknown here must be unset (null,
    false or empty). Nor can an initialization be carried over that changes the base model's weights (PiSSA, OLoRA).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA"]
    r: int = Field(gt=0)
    lora_alpha: float = Field(allow_inf_nan=False)
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: Literal["none"] = "none"
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "eva"] = True

    @classmethod
    def read(cls, adapter_dir: Path) -> AdapterConfig:
        """Raises SetupError that names the file, the key and its value."""
        path = adapter_dir / ADAPTER_CONFIG_FILE
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise SetupError(f"{path} does not exist; {adapter_dir} is no PEFT adapter.") from error
        except ValidationError as error:
            raise SetupError(f"{path}: {first_problem(error, cls)}. {MERGE_WITH_PEFT}") from error
        except ValueError as error:
            raise SetupError(f"{path} is no valid JSON ({error}). Copy the adapter again.") from error

    @model_validator(mode="after")
    def _plain_lora(self) -> AdapterConfig:
        for key, value in (self.model_extra or {}).items():
            if value and key not in _NO_EFFECT:
                raise ValueError(f'key "{key}" is {value!r}, which plain LoRA does not have')
        for pattern in (*(self.rank_pattern or {}), *(self.alpha_pattern or {})):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"pattern {pattern!r} is no regular expression ({error})") from error
        return self

    def rank(self, path: str) -> int:
        """Of the module called ``path`` in the base model, "model.layers.0.self_attn.q_proj" for one."""
        return _first_match(self.rank_pattern or {}, path, self.r)

    def scale(self, path: str) -> float:
        """What multiplies its lora_B @ lora_A: alpha / rank, or rsLoRA's alpha / sqrt(rank) (Kalajdzievski, 2023)."""
        alpha, rank = _first_match(self.alpha_pattern or {}, path, self.lora_alpha), self.rank(path)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _first_match(pattern: Mapping[str, _Value], path: str, otherwise: _Value) -> _Value:
    """PEFT's rule: a pattern matches the end of a path, from a dot on."""
    matching = (value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", path))
    return next(matching, otherwise)
