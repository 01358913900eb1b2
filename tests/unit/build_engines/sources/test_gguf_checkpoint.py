"""A GGUF file becomes the checkpoint that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.sources.gguf_file import GgufFile
from build_engines.sources.open_source import open_source
from python_backend.errors import SetupError
from tests import tiny_llama
from tests.unit.build_engines.sources.tiny_gguf import TOKENS, config, write_gguf


def import_gguf(gguf: Path, checkpoint_dir: Path) -> None:
    """Write it as the demo's recipe does."""
    source = open_source(gguf)
    config = source.config.changed(dtype="float16", quantization={"quant_algo": "W8A16"})
    write_checkpoint(checkpoint_dir, config, source.tensor, source.files)


@pytest.mark.parametrize("tied", [True, False])
def test_the_checkpoint_is_the_one_that_the_file_was_made_from(tmp_path: Path, tied: bool) -> None:
    tensors = tiny_llama.tensors(config(tied=tied))
    gguf = write_gguf(tmp_path / "model.gguf", config(tied=tied), tensors)
    import_gguf(gguf, tmp_path / "checkpoint")
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"general__architecture": "gemma3"},
            'architecture is "gemma3"; those that can be imported are llama, qwen2, qwen3, gemma',
        ),
        ({"llama__rope__dimension_count": 16}, "16 of 32 head dimensions"),
        ({"llama__rope__scaling__type": "yarn"}, 'rotary embeddings are scaled by "yarn", which cannot be imported'),
        ({"llama__rope__scaling__type": "linear"}, r'metadata "llama\.rope\.scaling\.factor" is missing'),
        ({"llama__attention__value_length": 16}, "heads of values have 16 dimensions, heads of keys 32"),
        ({"llama__expert_count": 8}, "it has 8 experts"),
        ({"llama__logit_scale": 2.0}, r'metadata "llama\.logit_scale" is not known, and may change what is computed'),
        ({"split__count": 2}, "is one part of a split model. Merge it with `llama-gguf-split --merge`"),
        ({"llama__block_count": None}, 'metadata "llama.block_count" is missing'),
        ({"llama__block_count": "two"}, "metadata \"llama.block_count\" is 'two', no int"),
        ({"llama__block_count": 3}, r'tensor "blk\.2\.attn_norm\.weight" is missing'),
        ({"llama__block_count": 1}, r'unknown tensor "blk\.1\.attn_q\.weight"'),
        (
            {"tokenizer__ggml__model": "llama"},
            'tokenizer model is "llama"; only byte-level BPE .* Import the Hugging Face model',
        ),
        (
            {"tokenizer__ggml__pre": "tekken"},
            'is "tekken"; those that can be imported are gpt-2, llama-bpe, qwen2, smollm',
        ),
        ({"tokenizer__ggml__tokens": ["a"] * len(TOKENS)}, "duplicates"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "28 tokens have 2 types"),
        ({"tokenizer__ggml__merges": ["a b", "a z"]}, "merges do not fit the vocabulary"),
        ({"tokenizer__ggml__merges": ["a b c"]}, "merges do not fit the vocabulary"),
        ({"tokenizer__ggml__eos_token_id": 99}, "eos_token_id is 99; the vocabulary has 28 tokens"),
        ({"tokenizer__ggml__eos_token_id": None}, "names no end token"),
        (
            {"llama__attention__head_count": 8},
            r'"blk\.0\.attn_q\.weight" is \[128, 64\]; the config calls for \[256, 64\]',
        ),
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
