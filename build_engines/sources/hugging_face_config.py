"""``config.json`` of a Hugging Face directory.

What the numbers depend on is read, or must have the value that Slipstream computes with; all else is ignored. A key
that is not known either way is told to the user.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from build_engines.checkpoint.config import CONFIG_FILE, QWEN_TYPES, Architecture, CheckpointConfig
from build_engines.checkpoint.dtypes import DtypeName
from build_engines.sources.hugging_face_keys import not_neutral, unknown
from build_engines.sources.hugging_face_rope import Rope, read_rope
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

#: transformers' names.
MODEL_TYPES: dict[Architecture, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
}
_FAMILIES = "Llama 2 and 3, Mistral, SmolLM, TinyLlama, Qwen2 and 2.5, Qwen3 (dense) and Gemma 1"
#: transformers' default where config.json does not name the window.
_MISTRAL_WINDOW = 4096


class _Keys(BaseModel):
    """The keys that are read as they stand."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: int
    hidden_size: int = Field(gt=0)
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int
    rms_norm_eps: float
    hidden_act: str | None = None
    hidden_activation: str | None = None
    tie_word_embeddings: bool | None = None
    dtype: DtypeName | None = Field(default=None, validation_alias=AliasChoices("dtype", "torch_dtype"))
    sliding_window: int | None = Field(default=None, gt=0)
    use_sliding_window: bool | None = None
    max_window_layers: int | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None


_READ = frozenset(_Keys.model_fields) | {
    *("architectures", "model_type", "auto_map", "quantization_config", "compression_config"),
    *("torch_dtype", "rope_theta", "rope_scaling", "rope_parameters"),
}


@dataclass(frozen=True, slots=True)
class HuggingFaceConfig:
    """A supported model's config. ``declared_dtype`` is what it says of the weights, which may be stored otherwise."""

    path: Path
    architecture: Architecture
    declared_dtype: DtypeName | None
    notices: tuple[str, ...]
    _keys: _Keys
    _rope: Rope
    _window: int | None

    @classmethod
    def read(cls, directory: Path) -> HuggingFaceConfig:
        """Needs no weights. Raises SetupError that names the key and what is supported."""
        path = directory / CONFIG_FILE
        raw = _load(path)
        architecture = _architecture(path, raw)
        try:
            _refuse(raw, architecture)
            keys, rope = _Keys.model_validate(raw), read_rope(raw, architecture)
            window = _window(keys, raw, architecture)
            _check_activation(keys, architecture)
        except ValidationError as error:
            raise SetupError(f"{path}: {first_problem(error, _Keys)}.") from error
        except ValueError as error:
            raise SetupError(f"{path}: {error}.") from error
        notices = [rope.notice] if rope.notice else []
        if window:
            notices.append(
                f"attention has a sliding window of {window} tokens, which the engines do not have: "
                f"max_position_embeddings is {window} instead of {keys.max_position_embeddings}."
            )
        if _means_tanh(keys, architecture):
            notices.append(
                'hidden_act "gelu" is computed as gelu_pytorch_tanh, which Gemma was trained with; transformers takes '
                "it at its word. Add hidden_activation to the config to say so."
            )
        if strange := unknown(raw, _READ):
            notices.append(f"{CONFIG_FILE} has keys that are not known and were ignored: {', '.join(strange)}.")
        return cls(path, architecture, keys.dtype, tuple(notices), keys, rope, window)

    def checkpoint_config(self, dtype: DtypeName | None = None) -> CheckpointConfig:
        """The unquantized model on one rank, in ``dtype`` or what is declared. Raises SetupError."""
        keys, dtype = self._keys, dtype or self.declared_dtype
        if dtype is None:
            raise SetupError(f'{self.path}: key "torch_dtype" (or "dtype") is missing; add the type of the weights.')
        try:
            return CheckpointConfig(
                architecture=self.architecture,
                dtype=dtype,
                vocab_size=keys.vocab_size,
                hidden_size=keys.hidden_size,
                num_hidden_layers=keys.num_hidden_layers,
                num_attention_heads=keys.num_attention_heads,
                num_key_value_heads=self._key_value_heads(),
                head_size=self._head_size(),
                intermediate_size=keys.intermediate_size,
                max_position_embeddings=self._window or keys.max_position_embeddings,
                hidden_act="gelu" if self.architecture == "GemmaForCausalLM" else "silu",
                norm_epsilon=keys.rms_norm_eps,
                rotary_base=self._rope.base,
                rotary_scaling=self._rope.scaling,
                attn_bias=self.architecture == "Qwen2ForCausalLM",
                qk_layernorm=self.architecture == "Qwen3ForCausalLM",
                qwen_type=QWEN_TYPES.get(self.architecture),
                tie_word_embeddings=self._tied(),
            )
        except ValidationError as error:
            raise SetupError(f"{self.path}: {first_problem(error, CheckpointConfig)}.") from error

    def _key_value_heads(self) -> int:
        heads = self._keys.num_key_value_heads
        if heads is None and self.architecture != "LlamaForCausalLM":
            raise SetupError(f'{self.path}: key "num_key_value_heads" is missing.')
        return self._keys.num_attention_heads if heads is None else heads

    def _head_size(self) -> int:
        keys = self._keys
        if keys.head_dim is not None:
            return keys.head_dim
        if self.architecture in ("Qwen3ForCausalLM", "GemmaForCausalLM"):
            raise SetupError(f'{self.path}: key "head_dim" is missing.')
        if keys.hidden_size % keys.num_attention_heads:
            raise SetupError(
                f"{self.path}: hidden_size {keys.hidden_size} is no multiple of num_attention_heads "
                f'{keys.num_attention_heads}, and key "head_dim" is missing.'
            )
        return keys.hidden_size // keys.num_attention_heads

    def _tied(self) -> bool:
        # transformers leaves the key out where the value is the architecture's default.
        tied = self._keys.tie_word_embeddings
        return self.architecture == "GemmaForCausalLM" if tied is None else tied


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise SetupError(f"{path} is no valid JSON ({error}). Copy it again.") from error
    if not isinstance(raw, dict):
        raise SetupError(f"{path} holds a {type(raw).__name__}, not an object.")
    return raw


def _architecture(path: Path, raw: dict[str, Any]) -> Architecture:
    match raw.get("architectures"):
        case [str(name)]:
            pass
        case other:
            raise SetupError(f"{path}: architectures is {other!r}; it must name one, such as LlamaForCausalLM.")
    for architecture in get_args(Architecture):
        if name == architecture:
            if raw.get("model_type") != MODEL_TYPES[architecture]:
                raise SetupError(
                    f"{path}: model_type is {raw.get('model_type')!r}; {name} calls for {MODEL_TYPES[architecture]!r}."
                )
            return architecture  # type: ignore[no-any-return]
    supported = ", ".join(get_args(Architecture))
    raise SetupError(f"{path}: architecture {name} is not supported. Supported are {supported}: {_FAMILIES}.")


def _refuse(raw: dict[str, Any], architecture: Architecture) -> None:
    for key in ("quantization_config", "compression_config"):
        if raw.get(key) is not None:
            method = raw[key].get("quant_method") if isinstance(raw[key], dict) else raw[key]
            raise ValueError(f"the weights are quantized already ({key}: {method}); name the unquantized model")
    if "AutoModelForCausalLM" in (raw.get("auto_map") or {}):
        raise ValueError(f"auto_map names code of the model's own, which may not compute a {architecture}")
    # transformers' Qwen2 has biases whatever the key says.
    problem = not_neutral(raw, frozenset({"attention_bias"} if architecture == "Qwen2ForCausalLM" else ()))
    if problem:
        raise ValueError(problem)


def _check_activation(keys: _Keys, architecture: Architecture) -> None:
    if architecture != "GemmaForCausalLM":
        if keys.hidden_act not in ("silu", "swish"):
            raise ValueError(f"hidden_act is {keys.hidden_act!r}; {architecture} is computed with 'silu'")
        return
    activation = keys.hidden_activation or keys.hidden_act or "gelu_pytorch_tanh"
    if activation != "gelu_pytorch_tanh" and not _means_tanh(keys, architecture):
        key = "hidden_activation" if keys.hidden_activation else "hidden_act"
        raise ValueError(f"{key} is {activation!r}; {architecture} is computed with 'gelu_pytorch_tanh'")


def _means_tanh(keys: _Keys, architecture: Architecture) -> bool:
    """Gemma was published with hidden_act "gelu" and means the tanh form, which hidden_activation came to say."""
    return architecture == "GemmaForCausalLM" and keys.hidden_activation is None and keys.hidden_act == "gelu"


def _window(keys: _Keys, raw: dict[str, Any], architecture: Architecture) -> int | None:
    """The sliding window of any layer, if it is shorter than the model's positions."""
    window = keys.sliding_window
    if architecture == "MistralForCausalLM" and "sliding_window" not in raw:
        window = _MISTRAL_WINDOW
    if architecture.startswith("Qwen") and not _slides(keys):
        window = None
    slides = window is not None or "sliding_attention" in (keys.layer_types or [])
    if slides and architecture in ("LlamaForCausalLM", "GemmaForCausalLM"):
        raise ValueError(f"sliding_window is {window}, layer_types {keys.layer_types}; {architecture} has no window")
    return window if window and window < keys.max_position_embeddings else None


def _slides(keys: _Keys) -> bool:
    """Whether any layer of a Qwen model has a window."""
    if not keys.use_sliding_window:
        return False
    if keys.layer_types is not None:
        return "sliding_attention" in keys.layer_types
    return keys.max_window_layers is None or keys.max_window_layers < keys.num_hidden_layers
