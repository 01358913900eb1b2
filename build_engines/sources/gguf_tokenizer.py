"""The tokenizer that a GGUF file carries, as ``tokenizer.json`` and ``tokenizer_config.json``.

GGUF gives tokens, merges and the *name* of the rule that splits text before merging; the rules are written out here,
as the models' authors published them. Byte-level BPE only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from build_engines.sources.gguf_file import GgufFile
from python_backend.errors import SetupError


class TokenType(IntEnum):
    """llama.cpp's kinds of token that are matched in the text as they stand."""

    CONTROL = 3
    USER_DEFINED = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """How a family of models splits text into words, each of which is merged by itself."""

    split: Callable[[], pre_tokenizers.PreTokenizer]
    normalizer: Callable[[], normalizers.Normalizer] | None = None
    whole_words: bool = False  # Whether a word that is a token is taken without merging.
    adds_bos: bool = False  # Where the file does not say.


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _split_by(numbers: str) -> pre_tokenizers.PreTokenizer:
    """By tiktoken's pattern for GPT-4, with another rule for numbers."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


#: By ``tokenizer.ggml.pre``.
RULES = {
    "gpt-2": Rule(_byte_level),
    "smollm": Rule(_single_digits),
    "llama-bpe": Rule(lambda: _split_by(r"\p{N}{1,3}"), whole_words=True, adds_bos=True),
    "qwen2": Rule(lambda: _split_by(r"\p{N}"), normalizer=normalizers.NFC),
}


def tokenizer_files(gguf: GgufFile) -> dict[str, str]:
    """File names to contents. Raises SetupError for a tokenizer that is not byte-level BPE with a known rule."""
    tokenizer = _tokenizer(gguf)
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(_config(gguf), indent=2, ensure_ascii=False) + "\n",
    }


def _tokenizer(gguf: GgufFile) -> Tokenizer:
    model = gguf.get("tokenizer.ggml.model", str)
    if model != "gpt2":
        raise SetupError(
            f'{gguf.path}: tokenizer model is "{model}"; only byte-level BPE ("gpt2") can be imported from GGUF. '
            "Import the Hugging Face model."
        )
    rule = _rule(gguf)
    tokens, types = _tokens(gguf), gguf.get("tokenizer.ggml.token_type", list)
    if len(types) != len(tokens):
        raise SetupError(f"{gguf.path}: {len(tokens)} tokens have {len(types)} types; the file is damaged.")
    merges = [tuple(merge.split(" ")) for merge in gguf.get("tokenizer.ggml.merges", list)]
    try:
        ids = {token: index for index, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=rule.whole_words))
    except Exception as error:  # The library raises nothing narrower.
        raise SetupError(f"{gguf.path}: merges do not fit the vocabulary ({error}); the file is damaged.") from error
    if rule.normalizer:
        tokenizer.normalizer = rule.normalizer()
    tokenizer.pre_tokenizer = rule.split()
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind == TokenType.CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
    bos = _named_token(gguf, "bos")
    if bos is not None and _adds_bos(gguf):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    return tokenizer


def _rule(gguf: GgufFile) -> Rule:
    name = gguf.get("tokenizer.ggml.pre", str)
    if name not in RULES:
        known = ", ".join(sorted(RULES))
        raise SetupError(f'{gguf.path}: pre-tokenizer is "{name}"; those that can be imported are {known}.')
    return RULES[name]


def _adds_bos(gguf: GgufFile) -> bool:
    said = gguf.find("tokenizer.ggml.add_bos_token", bool)
    return _rule(gguf).adds_bos if said is None else said


def _config(gguf: GgufFile) -> dict[str, object]:
    eos = _named_token(gguf, "eos")
    if eos is None:
        raise SetupError(f"{gguf.path}: the tokenizer names no end token (tokenizer.ggml.eos_token_id).")
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": _adds_bos(gguf),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.get(f"{gguf.get('general.architecture', str)}.context_length", int),
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
