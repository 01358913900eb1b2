"""The tokenizer that an engine directory carries."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from python_backend.engine.manifest import build_hint
from python_backend.errors import SetupError


def load_tokenizer(engine_dir: Path) -> Tokenizer:
    """SetupError when there is no engine."""
    path = engine_dir / "tokenizer.json"
    if not path.exists():
        raise SetupError(f"{path} does not exist; {build_hint(engine_dir)}")
    return Tokenizer.from_file(str(path))
