"""From a GGUF file of the Llama family to a TensorRT-LLM checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from build_engines.checkpoint.config import CheckpointConfig, Quantization
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.content_hash import builder_sha256, sha256_of
from build_engines.sources.gguf_file import GgufFile
from build_engines.sources.gguf_tokenizer import tokenizer_files
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

SOURCE_FILE = "source.json"

_LAYER_TENSORS = {
    "input_layernorm.weight": "attn_norm.weight",
    "attention.dense.weight": "attn_output.weight",
    "post_layernorm.weight": "ffn_norm.weight",
    "mlp.fc.weight": "ffn_gate.weight",
    "mlp.gate.weight": "ffn_up.weight",
    "mlp.proj.weight": "ffn_down.weight",
}


def import_gguf(gguf_file: Path, checkpoint_dir: Path) -> bool:
    """Write ``gguf_file`` as a float16 checkpoint that engines quantize to INT8 (W8A16), with its tokenizer.

    All or nothing; False when ``checkpoint_dir`` has been made from this very file already.
    Raises SetupError when the file is no GGUF, or a model that cannot be imported.
    """
    if not gguf_file.is_file():
        raise SetupError(f"{gguf_file} does not exist.")
    source = json.dumps({"gguf_sha256": sha256_of(gguf_file), "builder_sha256": builder_sha256()}) + "\n"
    if _is_imported(checkpoint_dir, source):
        return False
    gguf = GgufFile(gguf_file)
    config = checkpoint_config(gguf)
    files = {name: text.encode() for name, text in {**tokenizer_files(gguf), SOURCE_FILE: source}.items()}
    write_checkpoint(checkpoint_dir, config, _tensors(gguf, config).__getitem__, files)
    return True


def checkpoint_config(gguf: GgufFile) -> CheckpointConfig:
    """The model's dimensions. Raises SetupError for anything but a plain Llama."""
    architecture = gguf.get("general.architecture", str)
    if architecture != "llama":
        raise SetupError(f'{gguf.path}: architecture is "{architecture}"; only "llama" can be imported.')
    heads = gguf.get("llama.attention.head_count", int)
    if heads < 1:
        raise SetupError(f"{gguf.path}: llama.attention.head_count is {heads}.")
    hidden_size = gguf.get("llama.embedding_length", int)
    head_size = gguf.find("llama.attention.key_length", int) or hidden_size // heads
    rotated = gguf.get("llama.rope.dimension_count", int)
    if rotated != head_size:
        raise SetupError(f"{gguf.path}: {rotated} of {head_size} head dimensions are rotated; all of them must be.")
    if gguf.find("llama.rope.scaling.type", str) not in (None, "none") or "rope_freqs.weight" in gguf.tensor_names:
        raise SetupError(f"{gguf.path}: rotary embeddings are scaled, which cannot be imported.")
    try:
        return CheckpointConfig(
            architecture="LlamaForCausalLM",
            dtype="float16",
            vocab_size=len(gguf.get("tokenizer.ggml.tokens", list)),
            hidden_size=hidden_size,
            num_hidden_layers=gguf.get("llama.block_count", int),
            num_attention_heads=heads,
            num_key_value_heads=gguf.find("llama.attention.head_count_kv", int) or heads,
            head_size=head_size,
            intermediate_size=gguf.get("llama.feed_forward_length", int),
            max_position_embeddings=gguf.get("llama.context_length", int),
            norm_epsilon=gguf.get("llama.attention.layer_norm_rms_epsilon", float),
            rotary_base=gguf.find("llama.rope.freq_base", float) or 10_000.0,
            tie_word_embeddings="output.weight" not in gguf.tensor_names,
            quantization=Quantization(quant_algo="W8A16"),
        )
    except ValidationError as error:
        raise SetupError(f"{gguf.path}: {first_problem(error, CheckpointConfig)}") from error


def unpermute(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo llama.cpp's order of the rows of a query or key weight [heads * head_size, in].

    llama.cpp rotates neighbouring pairs (2i, 2i + 1) and stores each head's rows so; rotate-half, which Hugging Face
    and TensorRT-LLM use, pairs row i with row i + head_size / 2.
    """
    head_size = rows.shape[0] // heads
    return rows.reshape(heads, head_size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _tensors(gguf: GgufFile, config: CheckpointConfig) -> dict[str, Array]:
    unknown = gguf.tensor_names

    def read(name: str) -> npt.NDArray[np.float32]:
        unknown.discard(name)
        return gguf.tensor(name)

    tensors: dict[str, Array] = {
        "transformer.vocab_embedding.weight": read("token_embd.weight"),
        "transformer.ln_f.weight": read("output_norm.weight"),
    }
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = read("output.weight")
    for layer in range(config.num_hidden_layers):
        to, at = f"transformer.layers.{layer}", f"blk.{layer}"
        for name, gguf_name in _LAYER_TENSORS.items():
            tensors[f"{to}.{name}"] = read(f"{at}.{gguf_name}")
        query, key, value = (read(f"{at}.attn_{x}.weight") for x in "qkv")
        shapes = [(config.q_rows, config.hidden_size), *[(config.kv_rows, config.hidden_size)] * 2]
        if [query.shape, key.shape, value.shape] != shapes:
            raise SetupError(
                f"{gguf.path}: {at}.attn_q, attn_k and attn_v are not the {shapes} that its metadata says."
            )
        query, key = unpermute(query, config.num_attention_heads), unpermute(key, config.num_key_value_heads)
        tensors[f"{to}.attention.qkv.weight"] = np.concatenate([query, key, value])
    if unknown:
        some = ", ".join(sorted(unknown)[:3])
        raise SetupError(f"{gguf.path}: a plain Llama has no tensor {some}; it cannot be imported.")
    return tensors


def _is_imported(checkpoint_dir: Path, source: str) -> bool:
    path = checkpoint_dir / SOURCE_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != source:
        return False
    try:
        Checkpoint.open(checkpoint_dir)
    except SetupError:  # Somebody changed it; it is mended by importing again.
        return False
    return True
