"""config.pbtxt, read the way Triton will read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from python_backend.errors import SetupError


def read_model_config(path: Path) -> Any:
    """Triton's ModelConfig message. SetupError when the file is missing or not well-formed."""
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise SetupError(f"{path} cannot be read, line:column {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error


def string_parameters(config: Any) -> Mapping[str, str]:
    """The ``parameters`` of a ModelConfig."""
    return {key: parameter.string_value for key, parameter in config.parameters.items()}
