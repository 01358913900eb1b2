"""The tokenizer file of TensorRT-LLM's guided decoding, next to what NVIDIA's script makes with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from build_engines.tensorrt_llm.xgrammar_tokenizer_info import tokenizer_info, write_tokenizer_info
from python_backend.errors import SetupError
from tests import tiny_llama

TOKENIZER = tiny_llama.tokenizer_files()["tokenizer.json"].decode()


def nvidia_tokenizer_info(tokenizer: Any) -> dict[str, Any]:
    """As tensorrt_llm.llmapi.tokenizer._xgrammar_tokenizer_info does it for fast tokenizers."""
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {
        "encoded_vocab": [token for token, _ in by_id],
        "tokenizer_str": tokenizer.backend_tokenizer.to_str(),
        "stop_token_ids": [tokenizer.eos_token_id],
    }


def test_it_is_what_nvidia_s_script_writes_but_for_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    transformers = PreTrainedTokenizerFast(tokenizer_object=tiny_llama.tokenizer(), eos_token="<|im_end|>")
    theirs = nvidia_tokenizer_info(transformers)
    path = write_tokenizer_info(tmp_path, [transformers.eos_token_id], tmp_path)
    ours = json.loads(path.read_text())
    assert path.name == "xgrammar_tokenizer_info.json"
    assert ours.keys() == theirs.keys()
    assert ours["stop_token_ids"] == theirs["stop_token_ids"]
    assert json.loads(ours["tokenizer_str"]) == json.loads(theirs["tokenizer_str"])
    special = len(tiny_llama.SPECIAL_TOKENS)
    assert set(theirs["encoded_vocab"][:special]) == set(tiny_llama.SPECIAL_TOKENS)
    assert ours["encoded_vocab"][:special] == [""] * special
    assert ours["encoded_vocab"][special:] == theirs["encoded_vocab"][special:]


def test_ids_that_the_tokenizer_leaves_out_keep_their_place() -> None:
    sparse = json.loads(TOKENIZER)
    vocab: dict[str, int] = sparse["model"]["vocab"]
    last = max(vocab, key=lambda token: vocab[token])
    sparse["model"]["vocab"] = {**vocab, last: vocab[last] + 5}
    encoded = tokenizer_info(json.dumps(sparse), [2])["encoded_vocab"]
    assert encoded[vocab[last] :] == [""] * 5 + [last]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read .*tokenizer\.json"):
        write_tokenizer_info(tmp_path, [2], tmp_path)
    with pytest.raises(SetupError, match="broken"):
        tokenizer_info("{}", [2])
    with pytest.raises(SetupError, match="eos_token"):
        tokenizer_info(TOKENIZER, [])
