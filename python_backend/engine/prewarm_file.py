"""The prewarm file: the prompts that an operator wants computed before the server is ready.

YAML, since such prompts are long and have many lines; JSON is YAML too. A list, of which each entry has one key:

    - text: |
        You are a helpful assistant. ...
    - messages:
        - role: system
          content: You answer questions about trains. ...

``text`` is tokenized as ``text_input`` is, ``messages`` holds what the ``messages`` input does and is rendered with the
chat template. Write what requests have in common and nothing else: their first tokens, up to where they begin to differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from python_backend.errors import SetupError, did_you_mean


class PrewarmPrompt(BaseModel):
    """One entry: exactly one of the two is there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: Annotated[str, Field(min_length=1)] | None = None
    messages: list[dict[str, Any]] | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> PrewarmPrompt:
        if (self.text is None) == (not self.messages):
            raise ValueError("give either text or messages")
        return self


_PROMPTS = TypeAdapter(list[PrewarmPrompt])


def read_prewarm_file(path: Path) -> list[PrewarmPrompt]:
    """The prompts in the file. Raises SetupError that names the place of the fault."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"prewarm file {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(f"prewarm file {path} is no valid YAML: {' '.join(str(error).split())}") from error
    try:
        return _PROMPTS.validate_python(content or [])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"]) or "its content"
        hint = did_you_mean(str(first["loc"][-1]), PrewarmPrompt.model_fields) if first["loc"] else ""
        raise SetupError(f"prewarm file {path}, entry {place}: {first['msg']}{hint}.") from error
