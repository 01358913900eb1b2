"""The tokenizer of one engine: Hugging Face `tokenizers` behind a typed surface.

Two files of a checkpoint are read: ``tokenizer.json`` (the tokenizer itself) and ``tokenizer_config.json``
(which token begins, ends and pads a sequence). Neither transformers nor torch is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from python_backend.errors import InvalidRequest, SetupError
from python_backend.text.decoder_stages import Stage, stages_of

_MAX_ID = 2**31 - 1
_REBUILD = "Copy it from the checkpoint, or build the engine again: build_command in its manifest.json says how."


class Tokenizer:
    """Encodes prompts and decodes whole sequences; safe to share between threads and requests."""

    def __init__(self, rust: RustTokenizer, config: dict[str, Any], source: str = "tokenizer_config.json") -> None:
        # A saved tokenizer may cut or pad every text, as in training; a prompt is never cut silently.
        rust.no_truncation()
        rust.no_padding()
        self._rust = rust
        self._special = {t.content: i for i, t in rust.get_added_tokens_decoder().items() if t.special}
        self._pieces: dict[bool, dict[int, str]] = {True: {}, False: {}}
        self._stages = stages_of(rust.decoder)
        self.vocab_size: int = rust.get_vocab_size(with_added_tokens=True)
        self.special_ids = frozenset(self._special.values())
        end_id = self._named_id(config, "eos_token", source)
        if end_id is None:
            raise SetupError(f"{source} names no eos_token, so nothing would end a sequence. {_REBUILD}")
        pad_id = self._named_id(config, "pad_token", source)
        self.end_id = end_id
        self.pad_id = end_id if pad_id is None else pad_id
        self.bos_id = self._named_id(config, "bos_token", source)

    @classmethod
    def load(cls, tokenizer_dir: str | Path) -> Tokenizer:
        """The tokenizer in a directory; SetupError when one of its two files is missing or broken."""
        # Prompts are encoded one at a time, and a thread pool would only warn when a process forks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        text = _read(Path(tokenizer_dir) / "tokenizer.json")
        config_path = Path(tokenizer_dir) / "tokenizer_config.json"
        config_text = _read(config_path)
        try:
            rust = RustTokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise SetupError(f"{tokenizer_dir}/tokenizer.json is broken: {error}. {_REBUILD}") from error
        try:
            config = json.loads(config_text)
        except json.JSONDecodeError as error:
            raise SetupError(f"{config_path} is broken: {error}. {_REBUILD}") from error
        if not isinstance(config, dict):
            raise SetupError(f"{config_path} holds a {type(config).__name__}, not an object. {_REBUILD}")
        return cls(rust, config, str(config_path))

    def encode(self, text: str, add_special_tokens: bool) -> NDArray[np.int32]:
        """Token ids of ``text``, shape [tokens]; special tokens written in the text count as such."""
        try:
            encoding = self._rust.encode(text, add_special_tokens=add_special_tokens)
        except TypeError as error:
            raise InvalidRequest(f"the text holds half of a surrogate pair, which is no character: {error}") from error
        return np.array(encoding.ids, dtype=np.int32)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]], skip_special_tokens: bool) -> str:
        """The text of a whole sequence. Ids outside the vocabulary have no text."""
        return str(self._rust.decode(_checked(ids), skip_special_tokens=skip_special_tokens))

    def pieces(self, ids: Sequence[int] | NDArray[np.integer[Any]], skip_special_tokens: bool) -> list[str]:
        """The tokens that the decoder turns into text; ids without text are left out."""
        known = self._pieces[skip_special_tokens]
        plain = ids.tolist() if isinstance(ids, np.ndarray) else ids
        try:
            return [known[i] for i in plain]
        except KeyError:
            self._learn(_checked(plain), skip_special_tokens)
            return [known[i] for i in plain if i in known]

    def decoder_stages(self) -> list[Stage]:
        """A fresh copy of the decoder, cut into stages that can be fed bit by bit."""
        return [stage.copy() for stage in self._stages]

    def _learn(self, ids: list[int], skip_special_tokens: bool) -> None:
        known = self._pieces[skip_special_tokens]
        for i in ids:
            token = None if i in known else self._rust.id_to_token(i)
            if token is not None and not (skip_special_tokens and token in self._special):
                known[i] = token

    def _named_id(self, config: dict[str, Any], key: str, source: str) -> int | None:
        named = config.get(key)
        token = named.get("content") if isinstance(named, dict) else named
        if token is None:
            return None
        token_id = self._rust.token_to_id(token)
        if token_id is None:
            raise SetupError(f'{source} names "{token}" as {key}, which tokenizer.json does not hold. {_REBUILD}')
        return int(token_id)


def decode_prompt(raw: bytes) -> str:
    """The prompt as text; InvalidRequest when it is empty or not UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the prompt is not valid UTF-8: {error.reason} at byte {error.start} of {len(raw)}."
        ) from error
    if not text:
        raise InvalidRequest("the prompt is empty. Send at least one character.")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}. {_REBUILD}") from error


def _checked(ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[int]:
    plain: list[int] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    for i in plain:
        if not 0 <= i <= _MAX_ID:
            raise InvalidRequest(f"{i} is no token id; ids lie between 0 and {_MAX_ID}.")
    return plain
