"""The prewarm file: the prompts that an operator wants computed before the server is ready.

YAML, since such prompts are long and have many lines; JSON is YAML too. A list, of which each entry has one key:

    - text: |-
        You are a helpful assistant. ...
    - messages:
        - role: system
          content: You answer questions about trains. ...

``text`` is tokenized as ``text_input`` is, ``messages`` holds what the ``messages`` input does and is rendered with the
chat template. Write what requests have in common from their first token on, up to where they begin to differ; the line
break that ``|`` (without the dash) leaves at the end may be such a difference.
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
        return _PROMPTS.validate_python([] if content is None else content)
    except ValidationError as error:
        raise SetupError(f"prewarm file {path}, {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [f"entry {part + 1}" if isinstance(part, int) else str(part) for part in first["loc"]]
    known = PrewarmPrompt.model_fields if first["type"] == "extra_forbidden" else ()
    hint = did_you_mean(place[-1], known) if place else ""
    return f"{', '.join(place) or 'content'}: {first['msg'].removeprefix('Value error, ')}{hint}."
