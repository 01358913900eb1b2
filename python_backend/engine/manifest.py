"""The CPU engine directory: what ``manifest.json`` says of it.

``python -m build_engines`` writes it, the server checks it before anything is loaded.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from python_backend.errors import SetupError, did_you_mean

#: The environment variable by which the launcher tells the models which engine to serve.
ENGINE_DIR_VARIABLE = "SLIPSTREAM_ENGINE_DIR"
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "openvino_model.xml"
BUILD_COMMAND = "python -m build_engines demo"


class EngineManifest(BaseModel):
    """What an engine is, what it was compiled from and by, and which files it consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    kind: Literal["cpu"] = "cpu"
    architecture: str
    dtype: str
    quant_algo: str | None
    quantize_lm_head: bool
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    max_seq_len: int = Field(gt=0, description="Most tokens of prompt and output together.")
    bos_id: int | None = Field(ge=0)
    end_id: int = Field(ge=0)
    pad_id: int = Field(ge=0)
    checkpoint_sha256: str = Field(description="Of the checkpoint's config, weights and tokenizer.")
    builder_sha256: str = Field(description="Of the code that compiled the engine.")
    openvino_version: str
    created: datetime
    files: dict[str, int] = Field(description="Every file of the engine but this one, with its size in bytes.")

    @classmethod
    def load(cls, engine_dir: Path) -> EngineManifest:
        """Read the manifest of ``engine_dir`` and check that its files are there, whole.

        Raises SetupError that names the missing or broken file and the command that makes it.
        """
        path = engine_dir / MANIFEST_FILE
        try:
            manifest = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise SetupError(f"{path} cannot be read ({error.strerror}); {build_hint(engine_dir)}") from error
        except ValidationError as error:
            raise SetupError(f"{path}: {first_problem(error, cls)}; {build_hint(engine_dir)}") from error
        except ValueError as error:
            raise SetupError(f"{path} is no valid JSON ({error}); {build_hint(engine_dir)}") from error
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
    """The command that makes this engine, for the end of a message."""
    return f"build the engine with `{BUILD_COMMAND} --engine-dir {engine_dir}`."


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """What a file was refused for first as a ``model``, with key and value."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f'unknown key "{key}"{did_you_mean(key, model.model_fields)}'
    if first["type"] == "missing":
        return f'key "{key}" is missing'
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    return f'key "{key}" is {first["input"]!r}: {first["msg"]}'
