"""A GGUF file as a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.content_hash import sha256_of
from build_engines.sources.gguf_config import read_config
from build_engines.sources.gguf_file import GgufFile
from build_engines.sources.gguf_rope import ROPE_FACTORS
from build_engines.sources.gguf_tokenizer import tokenizer_files
from build_engines.sources.tensor_locations import Naming, Part, check, locate
from python_backend.errors import SetupError

NAMING = Naming(
    embedding="token_embd.weight",
    final_norm="output_norm.weight",
    lm_head="output.weight",
    layer="blk.{}.",
    tensors={
        "input_layernorm.weight": "attn_norm.weight",
        "attention.dense.weight": "attn_output.weight",
        "attention.q_layernorm.weight": "attn_q_norm.weight",
        "attention.k_layernorm.weight": "attn_k_norm.weight",
        "post_layernorm.weight": "ffn_norm.weight",
        "mlp.fc.weight": "ffn_gate.weight",
        "mlp.gate.weight": "ffn_up.weight",
        "mlp.proj.weight": "ffn_down.weight",
    },
    queries_keys_values=("attn_q", "attn_k", "attn_v"),
)


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A ``ModelSource``. Tensors are dequantized to float32 as they are asked for.

    llama.cpp's converter stores Gemma's norms as weight + 1, just as TensorRT-LLM does.
    """

    gguf: GgufFile
    config: CheckpointConfig
    files: Mapping[str, bytes]
    notices: tuple[str, ...]
    _parts: Mapping[str, tuple[Part, ...]]

    @classmethod
    def open(cls, path: Path) -> GgufModel:
        """Check everything but the weights' values.

        Raises SetupError when the file is missing or no GGUF, or a model that cannot be imported.
        """
        if not path.is_file():
            raise SetupError(f"{path} does not exist.")
        gguf = GgufFile(path)
        described = read_config(gguf)
        parts = locate(described.config, NAMING)
        found = {name: shape for name, shape in gguf.shapes.items() if name != ROPE_FACTORS}
        check(path, described.config.architecture, [part for several in parts.values() for part in several], found)
        files = {name: text.encode() for name, text in tokenizer_files(gguf).items()}
        return cls(gguf, described.config, files, described.notices, parts)

    def tensor(self, name: str) -> Array:
        """As ``ModelSource.tensor``."""
        parts = [self.gguf.tensor(part.name) for part in self._parts[name]]
        if len(parts) == 1:
            return parts[0]
        query, key, value = parts
        if self.config.architecture == "LlamaForCausalLM":
            query = unpermute(query, self.config.num_attention_heads)
            key = unpermute(key, self.config.num_key_value_heads)
        return np.concatenate([query, key, value])

    def sha256(self) -> str:
        """Identifies the content of the file."""
        return sha256_of(self.gguf.path)


def unpermute(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo llama.cpp's order of the rows of a query or key weight [heads * head_size, in].

    For its "llama", llama.cpp rotates neighbouring pairs (2i, 2i + 1) and stores each head's rows so; rotate-half,
    which Hugging Face and TensorRT-LLM use, pairs row i with row i + head_size / 2. Its other architectures are stored
    for rotate-half as they are.
    """
    head_size = rows.shape[0] // heads
    return rows.reshape(heads, head_size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
