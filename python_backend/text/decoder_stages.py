"""The decoders of `tokenizers`, cut into stages that can be fed bit by bit.

A decoder there maps the whole list of tokens at once. Each stage here does the same for a list that still
grows: it hands on what no later token can change and keeps the rest. Feeding a list in any number of parts,
then finishing, gives the text that the decoder gives for the whole list: `tokenizers` is the tests' oracle.

What is held back is small: an unfinished UTF-8 sequence (at most three bytes), or for byte fallback the
current run of byte tokens, since there one broken byte turns the whole run into replacement characters.

The library's own ``DecodeStream`` (0.22) is not used: it has no flush, raises or loses text in runs of byte
tokens, and decodes all that it holds back again for each token.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from tokenizers import decoders

from python_backend.errors import SetupError


class Stage(Protocol):
    """One step from tokens to text."""

    def push(self, tokens: list[str]) -> list[str]:
        """What is certain after ``tokens``."""

    def finish(self) -> list[str]:
        """What was held back, now that no token follows."""

    def copy(self) -> Stage:
        """A stage in the same state that goes its own way from here."""


@dataclass(slots=True)
class PerToken:
    """A decoder that looks at one token at a time."""

    decode: Callable[[str], str]

    def push(self, tokens: list[str]) -> list[str]:
        return [self.decode(token) for token in tokens]

    def finish(self) -> list[str]:
        return []

    def copy(self) -> PerToken:
        return self


@dataclass(slots=True)
class Metaspace:
    """A mark stands for a space; in the first token it stands for nothing when the encoder prepended one."""

    mark: str
    drop_first: bool

    def push(self, tokens: list[str]) -> list[str]:
        spaced = [token.replace(self.mark, " ") for token in tokens]
        if self.drop_first and tokens:
            spaced[0] = tokens[0].replace(self.mark, "")
            self.drop_first = False
        return spaced

    def finish(self) -> list[str]:
        return []

    def copy(self) -> Metaspace:
        return Metaspace(self.mark, self.drop_first)


_BYTE_TOKEN = re.compile(r"<0x(\+?[0-9A-Fa-f]{1,2})>")


@dataclass(slots=True)
class ByteFallback:
    """A run of tokens such as ``<0xE2>`` is UTF-8, or, if any of it is broken, one U+FFFD for each byte."""

    run: bytearray = field(default_factory=bytearray)

    def push(self, tokens: list[str]) -> list[str]:
        out: list[str] = []
        for token in tokens:
            byte = _BYTE_TOKEN.fullmatch(token) if len(token) == 6 else None
            if byte:
                self.run.append(int(byte[1], 16))
            else:
                if self.run:
                    out += self.finish()
                out.append(token)
        return out

    def finish(self) -> list[str]:
        if not self.run:
            return []
        try:
            return [self.run.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(self.run)
        finally:
            self.run.clear()

    def copy(self) -> ByteFallback:
        return ByteFallback(self.run.copy())


def _byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_level_alphabet()


@lru_cache(maxsize=1 << 18)
def _bytes_of(token: str) -> bytes:
    try:
        return bytes(map(_BYTE_OF.__getitem__, token))
    except KeyError:  # an added token, written as it reads
        return token.encode()


class ByteLevel:
    """All tokens together are one UTF-8 text, in which broken sequences become U+FFFD."""

    __slots__ = ("_utf8",)

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens: list[str]) -> list[str]:
        return [self._utf8.decode(b"".join(map(_bytes_of, tokens)))]

    def finish(self) -> list[str]:
        return [self._utf8.decode(b"", final=True)]

    def copy(self) -> ByteLevel:
        twin = ByteLevel()
        twin._utf8.setstate(self._utf8.getstate())
        return twin


@dataclass(slots=True)
class StripStart:
    """Drops up to ``left`` copies of a character from the start of the fused text."""

    character: str
    left: int

    def push(self, tokens: list[str]) -> list[str]:
        if not self.left:
            return tokens
        text = "".join(tokens)
        cut = 0
        while cut < min(self.left, len(text)) and text[cut] == self.character:
            cut += 1
        self.left = self.left - cut if cut == len(text) else 0
        return [text[cut:]]

    def finish(self) -> list[str]:
        return []

    def copy(self) -> StripStart:
        return StripStart(self.character, self.left)


def stages_of(decoder: decoders.Decoder | None) -> list[Stage]:
    """The stages of a tokenizer's decoder; SetupError for one whose text cannot be streamed exactly."""
    if decoder is None:
        raise SetupError("tokenizer.json has no decoder, so its tokens cannot be joined to a text.")
    # Its pickled state is the decoder section of tokenizer.json, as the library understood it.
    spec = json.loads(decoder.__getstate__())
    stages: list[Stage] = []
    fused = False  # from here on the text is one token
    for part in _flat(spec):
        if part["type"] != "Fuse":
            stages.append(_fused_stage(part) if fused else _stage(part))
        fused = fused or part["type"] in ("Fuse", "ByteLevel")
    return stages


def _flat(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [p for part in spec["decoders"] for p in _flat(part)] if spec["type"] == "Sequence" else [spec]


def _stage(part: dict[str, Any]) -> Stage:
    match part:
        case {"type": "ByteLevel"}:
            return ByteLevel()
        case {"type": "ByteFallback"}:
            return ByteFallback()
        case {"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme}:
            return Metaspace(mark, drop_first=scheme != "never")
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": new}:
            return PerToken(lambda token: token.replace(old, new))
        case {"type": "Strip", "content": character, "start": start, "stop": 0}:
            strip = decoders.Strip(character, start, 0)
            return PerToken(lambda token: str(strip.decode([token])))
    raise _not_streamable(part)


def _fused_stage(part: dict[str, Any]) -> Stage:
    match part:
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": new} if len(old) == 1:
            return PerToken(lambda text: text.replace(old, new))
        case {"type": "Strip", "content": character, "start": start, "stop": 0}:
            return StripStart(character, start)
    raise _not_streamable(part)


def _not_streamable(part: dict[str, Any]) -> SetupError:
    return SetupError(
        f"the decoder {json.dumps(part, ensure_ascii=False)} in tokenizer.json cannot be streamed. "
        "Known are ByteLevel, Metaspace, ByteFallback, Fuse, Replace of a fixed string, Strip at the start. "
        "Use a checkpoint with those."
    )
