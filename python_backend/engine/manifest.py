"""The engine directory, of either kind: what ``manifest.json`` says of it.

``python -m build_engines`` writes it; the server, and ``python -m build_engines check``, compare it with what is there.
"""

from __future__ import annotations

import json
import reprlib
from datetime import datetime
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from python_backend.errors import SetupError, did_you_mean

#: The environment variable by which the launcher tells the models which engine to serve.
ENGINE_DIR_VARIABLE = "SLIPSTREAM_ENGINE_DIR"
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "openvino_model.xml"

_FROZEN = ConfigDict(extra="forbid", frozen=True)
#: For values in messages. YAML's aliases make ones in seconds that no terminal could show.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200


class Manifest(BaseModel):
    """What an engine of any kind is, what it was compiled from and how, and which files it consists of."""

    model_config = _FROZEN

    format_version: Literal[2] = 2
    architecture: str
    dtype: str = Field(description="The type of what is not quantized.")
    quant_algo: str | None
    kv_cache_quant_algo: str | None = None
    tp_size: int = Field(default=1, gt=0, description="Tensor-parallel ranks of the checkpoint.")
    pp_size: int = Field(default=1, gt=0, description="Pipeline stages of the checkpoint.")
    vocab_size: int = Field(gt=0)
    max_seq_len: int = Field(gt=0, description="Most tokens of prompt and output together.")
    source_sha256: str | None = Field(default=None, description="Of the model that was imported.")
    checkpoint_sha256: str = Field(description="Of the checkpoint's config, weights and tokenizer.")
    accuracy: dict[str, float] | None = Field(
        default=None, description="How near to its source the checkpoint was found: the summary of its verification."
    )
    build_command: str | None = Field(default=None, description="The command that makes this engine again.")
    created: datetime
    files: dict[str, int] = Field(description="Every file of the engine but this one, with its size in bytes.")

    @classmethod
    def load(cls, engine_dir: Path) -> Self:
        """Read the manifest of ``engine_dir`` and check that its files are there, whole.

        Raises SetupError that names the missing or broken file and the command that makes it, or when the engine is
        of another kind.
        """
        manifest = load_manifest(engine_dir)
        if not isinstance(manifest, cls):
            raise SetupError(
                f"{engine_dir} holds an engine of kind {manifest.kind!r}, which cannot run here; "
                "name another one, or choose the profile that serves it."
            )
        return manifest


class CpuManifest(Manifest):
    """An engine for the CPU, compiled by OpenVINO."""

    kind: Literal["cpu"] = "cpu"
    quantize_lm_head: bool
    draft_vocab_size: int | None = Field(
        default=None, gt=0, description="A draft's: how many of the tokens it can propose; None: all."
    )
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    bos_id: int | None = Field(ge=0)
    end_id: int = Field(ge=0)
    pad_id: int = Field(ge=0)
    builder_sha256: str = Field(description="Of the code that compiled the engine.")
    openvino_version: str


class LoraLimits(BaseModel):
    """What adapters an engine takes."""

    model_config = _FROZEN

    target_modules: tuple[str, ...]
    max_rank: int = Field(gt=0)


class TensorRtLlmManifest(Manifest):
    """An engine of TensorRT-LLM. It runs with exactly this version, on tp x pp GPUs of this architecture."""

    kind: Literal["tensorrt_llm"] = "tensorrt_llm"
    tensorrt_llm_version: str
    image: str | None = Field(description="The container it was compiled in; None: outside of any that we started.")
    gpu_name: str
    compute_capability: str = Field(description='The GPU\'s architecture as NVIDIA numbers it: "9.0" is Hopper.')
    max_batch_size: int = Field(gt=0, description="Most requests that run at once.")
    max_num_tokens: int = Field(gt=0, description="Most tokens of one step, over all requests.")
    max_beam_width: int = Field(gt=0)
    max_draft_len: int = Field(ge=0, description="Most draft tokens of a request that are verified in one step.")
    lora: LoraLimits | None
    arguments: tuple[str, ...] = Field(description="Of trtllm-build, those that shape the engine.")
    content_sha256: str = Field(description="Over the files, in the order of their names.")

    @property
    def world_size(self) -> int:
        """GPUs that one instance takes."""
        return self.tp_size * self.pp_size


AnyManifest = CpuManifest | TensorRtLlmManifest
_KINDS: dict[str, type[AnyManifest]] = {"cpu": CpuManifest, "tensorrt_llm": TensorRtLlmManifest}


def load_manifest(engine_dir: Path) -> AnyManifest:
    """The manifest of ``engine_dir``, whichever kind it is of, once its files are seen to be whole.

    Raises SetupError as ``Manifest.load`` does.
    """
    path = engine_dir / MANIFEST_FILE
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}); {build_hint(engine_dir)}") from error
    except ValueError as error:
        raise SetupError(f"{path} is no valid JSON ({error}); {build_hint(engine_dir)}") from error
    kind = keys.get("kind") if isinstance(keys, dict) else None
    if kind not in _KINDS:
        raise SetupError(f'{path}: key "kind" is {kind!r}, not one of {", ".join(_KINDS)}; {build_hint(engine_dir)}')
    try:
        manifest = _KINDS[kind].model_validate(keys)
    except ValidationError as error:
        raise SetupError(f"{path}: {first_problem(error, _KINDS[kind])}; {build_hint(engine_dir)}") from error
    for name, size_bytes in manifest.files.items():
        _check_size(engine_dir, name, size_bytes)
    return manifest


def _check_size(engine_dir: Path, name: str, size_bytes: int) -> None:
    path = engine_dir / name
    if not path.is_file():
        raise SetupError(f"{path} does not exist; {build_hint(engine_dir)}")
    found_bytes = path.stat().st_size
    if found_bytes != size_bytes:
        raise SetupError(
            f"{path} has {found_bytes} bytes and {MANIFEST_FILE} says {size_bytes}: it was cut short or changed; "
            f"{build_hint(engine_dir)}"
        )


def build_hint(engine_dir: Path) -> str:
    """The command that makes this engine, for the end of a message: its manifest names it, whatever else is broken."""
    try:
        command = json.loads((engine_dir / MANIFEST_FILE).read_text(encoding="utf-8"))["build_command"]
    except (OSError, ValueError, KeyError, TypeError):
        command = None
    if isinstance(command, str):
        return f"build the engine again with `{command}`."
    return "build an engine with `python -m build_engines build RECIPE`; `make serve` builds the demo's."


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """What a file was refused for first as a ``model``, with key and value."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        siblings = [".".join([*path[:-1], name]) for name in _keys_at(model, path[:-1])]
        return f'unknown key "{key}"{did_you_mean(key, siblings)}'
    if first["type"] == "missing":
        return f'key "{key}" is missing'
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    return f'key "{key}" is {_SHORT.repr(first["input"])}: {first["msg"]}'


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a section of a file may have."""
    for name in path:
        field = model.model_fields.get(name)
        sections = [field.annotation, *get_args(field.annotation)] if field else []
        found = [kind for kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)
