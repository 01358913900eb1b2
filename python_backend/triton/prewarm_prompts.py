"""The prompts of a prewarm file as token ids, tokenized as those of requests are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from python_backend.engine.prewarm_file import PrewarmPrompt, read_prewarm_file
from python_backend.errors import InvalidRequest, SetupError
from python_backend.text.chat_request import ChatRequest
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.tokenizer import Tokenizer


def prewarm_prompts(
    path: Path, tokenizer: Tokenizer, template: ChatTemplate, *, add_special_tokens: bool
) -> list[npt.NDArray[np.int64]]:
    """Token ids of each prompt. Raises SetupError when the file or one of its conversations cannot be used."""
    prompts = []
    for number, prompt in enumerate(read_prewarm_file(path), 1):
        try:
            ids = _token_ids(prompt, tokenizer, template, add_special_tokens)
        except InvalidRequest as error:
            raise SetupError(f"prewarm file {path}, entry {number}: {error}") from error
        prompts.append(ids.astype(np.int64))
    return prompts


def _token_ids(
    prompt: PrewarmPrompt, tokenizer: Tokenizer, template: ChatTemplate, add_special_tokens: bool
) -> npt.NDArray[np.int32]:
    if prompt.text is not None:
        return tokenizer.encode(prompt.text, add_special_tokens)
    text = template.render(ChatRequest.parse(json.dumps(prompt.messages).encode()))
    return tokenizer.encode(text, add_special_tokens=False)
