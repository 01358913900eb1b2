"""What xgrammar, the grammar engine inside TensorRT-LLM, has to know of a tokenizer for guided decoding.

The backend reads it where ``guided_decoding_backend`` is xgrammar and ``xgrammar_tokenizer_info_path`` names the file.
NVIDIA's examples/generate_xgrammar_tokenizer_info.py writes the same keys, with transformers and tensorrt_llm
installed; here the tokenizer's own file suffices.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from python_backend.errors import SetupError

TOKENIZER_INFO_FILE = "xgrammar_tokenizer_info.json"


def write_tokenizer_info(tokenizer_dir: Path, end_ids: Sequence[int], folder: Path) -> Path:
    """Write the file for the tokenizer.json in ``tokenizer_dir`` into ``folder``, and return its path.

    ``end_ids``: the tokens that may end an output, at least one. Raises SetupError when the tokenizer cannot be read.
    """
    source = tokenizer_dir / "tokenizer.json"
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {source}: {error}") from error
    path = folder / TOKENIZER_INFO_FILE
    path.write_text(json.dumps(tokenizer_info(text, end_ids)), encoding="utf-8")
    return path


def tokenizer_info(tokenizer_json: str, end_ids: Sequence[int]) -> dict[str, str | list[str] | list[int]]:
    """The contents of the file. Raises SetupError when tokenizer.json is broken.

    ``encoded_vocab`` holds the token of each id, and nothing in two places where NVIDIA's differs: at ids that the
    tokenizer leaves out, where NVIDIA's list would shift all that follow, and at those of special tokens. xgrammar
    takes an empty entry for a special token, which it never allows, and others for text: it would allow <|im_start|>
    inside of a JSON string.
    """
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise SetupError(f"tokenizer.json is broken: {error}") from error
    if not end_ids:
        raise SetupError("xgrammar needs at least one token that ends an output. Name the tokenizer's eos_token.")
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids = tokenizer.get_vocab(with_added_tokens=True)
    encoded = [""] * (max(ids.values()) + 1)
    for token, token_id in ids.items():
        if token_id not in special:
            encoded[token_id] = token
    return {"encoded_vocab": encoded, "tokenizer_str": tokenizer.to_str(), "stop_token_ids": list(end_ids)}
