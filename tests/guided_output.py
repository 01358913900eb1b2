"""Writing under a guide without a model: any allowed token will do."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from python_backend.engine.guided import CompiledGuide, Guide, GuideCompiler, GuideType
from tests import tiny_llama

TOKENIZER_JSON = tiny_llama.tokenizer_files()["tokenizer.json"].decode()
TOKENIZER = tiny_llama.tokenizer()
END_ID = int(TOKENIZER.token_to_id("<|im_end|>"))
#: As a model whose vocabulary was padded.
VOCAB_SIZE = tiny_llama.VOCAB_SIZE + 13
_PATIENCE_TOKENS = 80
_MAX_TOKENS = 3000

Choose = Callable[[npt.NDArray[np.int64]], int]


@cache
def compiler() -> GuideCompiler:
    return GuideCompiler(TOKENIZER_JSON, VOCAB_SIZE, END_ID)


def compiled(kind: GuideType, text: str = "") -> CompiledGuide:
    return compiler().compile(Guide(kind, text))


def text_of(tokens: list[int]) -> str:
    return str(TOKENIZER.decode(tokens, skip_special_tokens=True))


def at_random(seed: int) -> Choose:
    """Evenly among the allowed tokens; after a while one that leads to an end, as most models come to one."""
    random = np.random.default_rng(seed)
    closing = [END_ID, *(int(TOKENIZER.token_to_id(token)) for token in ('"', "}", "]"))]
    continuing = [int(TOKENIZER.token_to_id(token)) for token in ("-", "z", "0", "1", ":", ",")]
    written = 0

    def choose(allowed: npt.NDArray[np.int64]) -> int:
        nonlocal written
        written += 1
        if written > _PATIENCE_TOKENS:
            for token in closing:
                if token in allowed:
                    return token
            # In no fixed order: zeros without end would be allowed behind "-0.", where a number below 0 is asked for.
            allowed = np.intersect1d(allowed, continuing) if np.isin(continuing, allowed).any() else allowed
        return int(random.choice(allowed))

    return choose


def write(guide: CompiledGuide, choose: Choose) -> list[int]:
    """The tokens of an output, without the end."""
    matcher, output = guide.start(), list[int]()
    while len(output) < _MAX_TOKENS:
        matcher.follow(output)
        allowed = matcher.allowed().nonzero()[0]
        token = choose(allowed)
        if token == matcher.end_id:
            return output
        output.append(token)
    raise AssertionError(f"no end of {text_of(output)!r}")


def accepts(guide: CompiledGuide, text: str) -> bool:
    """Whether the guide allows the text, as its tokenizer cuts it, and then the end."""
    matcher, output = guide.start(), list[int]()
    for token in TOKENIZER.encode(text).ids:
        matcher.follow(output)
        if not matcher.allowed()[token]:
            return False
        output.append(token)
    matcher.follow(output)
    return bool(matcher.allowed()[matcher.end_id])


def schema(value: object) -> CompiledGuide:
    return compiled(GuideType.JSON_SCHEMA, json.dumps(value))
