"""A GGUF file becomes the checkpoint that it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.sources.gguf_checkpoint import import_gguf
from build_engines.sources.gguf_file import GgufFile
from python_backend.errors import SetupError
from tests import tiny_llama
from tests.unit.build_engines.tiny_gguf import TOKENS, config, write_gguf


@pytest.mark.parametrize("tied", [True, False])
def test_the_checkpoint_is_the_one_that_the_file_was_made_from(tmp_path: Path, tied: bool) -> None:
    tensors = tiny_llama.tensors(config(tied=tied))
    gguf = write_gguf(tmp_path / "model.gguf", config(tied=tied), tensors)
    assert import_gguf(gguf, tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    assert checkpoint.config == config(tied=tied)  # norm_epsilon, too: 1e-5, though float32 holds 9.99999975e-06.
    for name, tensor in tensors.items():
        assert np.array_equal(checkpoint.tensor(name), tensor.astype(np.float32).astype(np.float16)), name


def test_an_unusual_epsilon_is_kept(tmp_path: Path) -> None:
    gguf = write_gguf(
        tmp_path / "model.gguf",
        config(),
        tiny_llama.tensors(config()),
        llama__attention__layer_norm_rms_epsilon=9.99e-6,
    )
    import_gguf(gguf, tmp_path / "checkpoint")
    assert CheckpointConfig.read(tmp_path / "checkpoint").norm_epsilon == 9.99e-6


def test_the_same_file_is_not_imported_twice(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    gguf = write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    assert import_gguf(gguf, target)
    os.utime(gguf)
    assert not import_gguf(gguf, target)
    write_gguf(gguf, config(), tiny_llama.tensors(config(), seed=1))
    assert import_gguf(gguf, target)
    (target / "tokenizer.json").unlink()
    assert import_gguf(gguf, target)
    assert not import_gguf(gguf, target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "gemma3"}, 'architecture is "gemma3"; only "llama"'),
        ({"llama__rope__dimension_count": 16}, "16 of 32 head dimensions"),
        ({"llama__rope__scaling__type": "linear"}, "rotary embeddings are scaled"),
        ({"llama__block_count": None}, 'metadata "llama.block_count" is missing'),
        ({"llama__block_count": "two"}, "metadata \"llama.block_count\" is 'two', no int"),
        ({"llama__block_count": 3}, r'tensor "blk\.2\.'),
        ({"llama__block_count": 1}, r"has no tensor blk\.1\."),
        ({"tokenizer__ggml__model": "llama"}, 'tokenizer model is "llama"'),
        ({"tokenizer__ggml__pre": "qwen2"}, 'pre-tokenizer is "qwen2"; those that can be imported are gpt-2, smollm'),
        ({"tokenizer__ggml__tokens": ["a"] * len(TOKENS)}, "duplicates"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "28 tokens have 2 types"),
        ({"tokenizer__ggml__merges": ["a b", "a z"]}, "merges do not fit the vocabulary"),
        ({"tokenizer__ggml__merges": ["a b c"]}, "merges do not fit the vocabulary"),
        ({"tokenizer__ggml__eos_token_id": 99}, "eos_token_id is 99; the vocabulary has 28 tokens"),
        ({"tokenizer__ggml__eos_token_id": None}, "names no end token"),
        ({"llama__attention__head_count": 8}, "attn_q, attn_k and attn_v are not"),
        ({"llama__attention__head_count": 3}, "num_attention_heads 3 is no multiple of num_key_value_heads 2"),
    ],
)
def test_a_model_that_cannot_be_imported_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    gguf = write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()), **changes)
    with pytest.raises(SetupError, match=message):
        import_gguf(gguf, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    tensors = tiny_llama.tensors(config())
    tensors["transformer.ln_f.weight"][0] = -70_000
    gguf = write_gguf(tmp_path / "model.gguf", config(), tensors)
    with pytest.raises(SetupError, match=r'"transformer\.ln_f\.weight" reaches 70000, which float16 cannot hold'):
        import_gguf(gguf, tmp_path / "checkpoint")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        import_gguf(tmp_path / "model.gguf", tmp_path / "checkpoint")
    for content in (b"", b"no model", b"GGUF" + bytes(100)):
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(SetupError, match="cannot be read as GGUF"):
            import_gguf(tmp_path / "model.gguf", tmp_path / "checkpoint")


def test_a_tensor_that_cannot_be_dequantized_is_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 32), np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SetupError, match=r'"blk\.0\.attn_q\.weight" cannot be read: Dequantization for I8'):
        GgufFile(tmp_path / "model.gguf").tensor("blk.0.attn_q.weight")


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    gguf.write_bytes(gguf.read_bytes()[:-5000])
    with pytest.raises(SetupError, match="cannot be read as GGUF"):
        import_gguf(gguf, tmp_path / "checkpoint")
