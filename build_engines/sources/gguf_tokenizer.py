"""The tokenizer that a GGUF file carries, as ``tokenizer.json`` and ``tokenizer_config.json``.

GGUF gives tokens, merges and the *name* of the rule that splits text before merging; the rules are written out here,
as the models' authors published them. Byte-level BPE only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from build_engines.sources.gguf_file import GgufFile
from python_backend.errors import SetupError


class TokenType(IntEnum):
    """llama.cpp's kinds of token that are matched in the text as they stand."""

    CONTROL = 3
    USER_DEFINED = 4


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _byte_level,
    "smollm": _single_digits,
}


def tokenizer_files(gguf: GgufFile) -> dict[str, str]:
    """File names to contents. Raises SetupError for a tokenizer that is not byte-level BPE with a known rule."""
    tokenizer = _tokenizer(gguf)
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(_config(gguf), indent=2, ensure_ascii=False) + "\n",
    }


def _tokenizer(gguf: GgufFile) -> Tokenizer:
    model, rule = gguf.get("tokenizer.ggml.model", str), gguf.get("tokenizer.ggml.pre", str)
    if model != "gpt2":
        raise SetupError(f'{gguf.path}: tokenizer model is "{model}"; only byte-level BPE ("gpt2") can be imported.')
    if rule not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise SetupError(f'{gguf.path}: pre-tokenizer is "{rule}"; those that can be imported are {known}.')
    tokens, types = _tokens(gguf), gguf.get("tokenizer.ggml.token_type", list)
    if len(types) != len(tokens):
        raise SetupError(f"{gguf.path}: {len(tokens)} tokens have {len(types)} types; the file is damaged.")
    merges = [tuple(merge.split(" ")) for merge in gguf.get("tokenizer.ggml.merges", list)]
    try:
        tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    except Exception as error:  # The library raises nothing narrower.
        raise SetupError(f"{gguf.path}: merges do not fit the vocabulary ({error}); the file is damaged.") from error
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[rule]()
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind == TokenType.CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
    bos = _named_token(gguf, "bos")
    if bos is not None and gguf.find("tokenizer.ggml.add_bos_token", bool):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    return tokenizer


def _config(gguf: GgufFile) -> dict[str, object]:
    eos = _named_token(gguf, "eos")
    if eos is None:
        raise SetupError(f"{gguf.path}: the tokenizer names no end token (tokenizer.ggml.eos_token_id).")
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(gguf.find("tokenizer.ggml.add_bos_token", bool)),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.get("llama.context_length", int),
        "bos_token": _named_token(gguf, "bos"),
        "eos_token": eos,
        "pad_token": _named_token(gguf, "padding") or eos,
        "unk_token": _named_token(gguf, "unknown"),
    }
    template = gguf.find("tokenizer.chat_template", str)
    return config if template is None else config | {"chat_template": template}


def _named_token(gguf: GgufFile, name: str) -> str | None:
    """The token that the file gives a part to: bos, eos, padding, unknown."""
    key = f"tokenizer.ggml.{name}_token_id"
    index, tokens = gguf.find(key, int), _tokens(gguf)
    if index is None:
        return None
    if index >= len(tokens):
        raise SetupError(f"{gguf.path}: {key} is {index}; the vocabulary has {len(tokens)} tokens.")
    return tokens[index]


def _tokens(gguf: GgufFile) -> list[str]:
    tokens: list[str] = gguf.get("tokenizer.ggml.tokens", list)
    if len(set(tokens)) != len(tokens):
        raise SetupError(f"{gguf.path}: the vocabulary of {len(tokens)} tokens has duplicates; the file is damaged.")
    return tokens
