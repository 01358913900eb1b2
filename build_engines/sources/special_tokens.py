"""Which ids begin, end and pad a text: named by ``tokenizer_config.json``, numbered by ``tokenizer.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from python_backend.errors import SetupError


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """``pad_id`` is the end token's where a tokenizer names none for padding."""

    bos_id: int | None
    end_id: int
    pad_id: int

    @classmethod
    def read(cls, checkpoint_dir: Path) -> SpecialTokens:
        """Raises SetupError when a file cannot be read, or names no end token or one that does not exist."""
        tokenizer_file, config_file = checkpoint_dir / "tokenizer.json", checkpoint_dir / "tokenizer_config.json"
        try:
            named: Any = json.loads(config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SetupError(f"{config_file} is no valid JSON ({error}).") from error
        if not isinstance(named, dict):
            raise SetupError(f"{config_file} holds a {type(named).__name__}, not an object.")
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # The library raises nothing narrower.
            raise SetupError(f"{tokenizer_file} is no tokenizer ({error}).") from error

        def id_of(kind: str) -> int | None:
            token = named.get(kind)
            content = token.get("content") if isinstance(token, dict) else token
            if content is None:
                return None
            found: int | None = tokenizer.token_to_id(content)
            if found is None:
                raise SetupError(f"{config_file}: {kind} {content!r} is not in {tokenizer_file.name}.")
            return found

        end_id, pad_id = id_of("eos_token"), id_of("pad_token")
        if end_id is None:
            raise SetupError(f"{config_file} names no eos_token; add the model's.")
        return cls(id_of("bos_token"), end_id, end_id if pad_id is None else pad_id)
