"""A Hugging Face directory as a source: ``config.json``, safetensors, and the tokenizer's files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from build_engines.checkpoint.config import CONFIG_FILE, CheckpointConfig
from build_engines.checkpoint.dtypes import BFLOAT16, BY_NAME, FLOAT16, FLOAT32, Array, DtypeName
from build_engines.checkpoint.reader import OPTIONAL_FILES, TOKENIZER_FILES
from build_engines.checkpoint.safetensors_file import TensorType
from build_engines.checkpoint.tensor_table import FINAL_NORM
from build_engines.content_hash import sha256_of
from build_engines.sources.hugging_face_config import HuggingFaceConfig
from build_engines.sources.safetensors_shards import SafetensorsShards
from build_engines.sources.tensor_locations import Naming, Part, check, locate
from python_backend.errors import SetupError

NAMING = Naming(
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    lm_head="lm_head.weight",
    layer="model.layers.{}.",
    tensors={
        "input_layernorm.weight": "input_layernorm.weight",
        "attention.dense.weight": "self_attn.o_proj.weight",
        "attention.q_layernorm.weight": "self_attn.q_norm.weight",
        "attention.k_layernorm.weight": "self_attn.k_norm.weight",
        "post_layernorm.weight": "post_attention_layernorm.weight",
        "mlp.fc.weight": "mlp.gate_proj.weight",
        "mlp.gate.weight": "mlp.up_proj.weight",
        "mlp.proj.weight": "mlp.down_proj.weight",
    },
    queries_keys_values=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
)
#: Tables of rotary frequencies that old versions of transformers saved; they follow from the config.
_HARMLESS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True, slots=True)
class HuggingFaceModel:
    """A ``ModelSource``. Weights are views of the memory-mapped files wherever they can be."""

    directory: Path
    config: CheckpointConfig
    files: Mapping[str, bytes]
    notices: tuple[str, ...]
    _shards: SafetensorsShards
    _parts: Mapping[str, tuple[Part, ...]]

    @classmethod
    def open(cls, directory: Path) -> HuggingFaceModel:
        """Check everything but the weights' values.

        Raises SetupError that names the file, and the key or tensor, and says what is wrong with it.
        """
        described = HuggingFaceConfig.read(directory)
        files = _carried(directory)
        shards = SafetensorsShards.open(directory)
        config = described.checkpoint_config(described.declared_dtype or "float32")
        parts = locate(config, NAMING)
        expected = [part for several in parts.values() for part in several]
        found = {name: kind for name, kind in shards.types.items() if not _HARMLESS.fullmatch(name)}
        notices = [*described.notices, *_end_tokens(files)]
        if config.tie_word_embeddings and NAMING.lm_head in found:
            del found[NAMING.lm_head]
            notices.append(f"{NAMING.lm_head} is not read: the config ties it to the embedding.")
        check(directory, config.architecture, expected, {name: kind.shape for name, kind in found.items()})
        dtype = _stored_dtype(directory, found)
        if described.declared_dtype not in (None, dtype):
            notices.append(f"{CONFIG_FILE} says {described.declared_dtype}; the weights are stored as {dtype}.")
        notices += _rounded(found, dtype)
        return cls(directory, config.changed(dtype=dtype), files, tuple(notices), shards, parts)

    def tensor(self, name: str) -> Array:
        """As ``ModelSource.tensor``. Gemma's norms are float32, since they become weight + 1."""
        parts = [self._shards.tensor(part.name) for part in self._parts[name]]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.config.architecture == "GemmaForCausalLM" and (name == FINAL_NORM or name.endswith("layernorm.weight")):
            # transformers multiplies by weight + 1, TensorRT-LLM by the weight, which its converters write so.
            return whole.astype(np.float32) + 1
        return whole

    def sha256(self) -> str:
        """Identifies the content: config, weights and tokenizer."""
        weights = [file.path for file in self._shards.files]
        return sha256_of(self.directory / CONFIG_FILE, *weights, *(self.directory / name for name in self.files))


def _carried(directory: Path) -> dict[str, bytes]:
    if not (directory / "tokenizer.json").is_file() and (directory / "tokenizer.model").is_file():
        raise SetupError(
            f"{directory} has a tokenizer.model and no tokenizer.json. Make it with transformers: "
            "`from transformers import AutoTokenizer; "
            f"AutoTokenizer.from_pretrained({str(directory)!r}, use_fast=True).save_pretrained({str(directory)!r})`."
        )
    for name in TOKENIZER_FILES:
        if not (directory / name).is_file():
            raise SetupError(f"{directory / name} does not exist. Copy the model's tokenizer there.")
    names = (*TOKENIZER_FILES, *(name for name in OPTIONAL_FILES if (directory / name).is_file()))
    return {name: (directory / name).read_bytes() for name in names}


def _end_tokens(files: Mapping[str, bytes]) -> list[str]:
    """A notice where generation ends at more tokens than the tokenizer's eos_token."""
    try:
        ids = json.loads(files.get("generation_config.json", b"{}")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise SetupError(f"generation_config.json is no JSON object ({error}). Copy it again.") from error
    if not isinstance(ids, list) or len(ids) < 2:
        return []
    return [f"generation_config.json ends texts at the tokens {ids}; an engine ends them at eos_token only."]


def _stored_dtype(directory: Path, found: Mapping[str, TensorType]) -> DtypeName:
    """The type of the matrices; float32, which holds all, where they differ."""
    for name, kind in found.items():
        if kind.dtype not in BY_NAME.values():
            raise SetupError(f'{directory}: tensor "{name}" is {kind}; weights must be F16, BF16 or F32.')
    dtypes = {kind.dtype for kind in found.values() if len(kind.shape) == 2}
    named: dict[object, DtypeName] = {FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT32: "float32"}
    return named[dtypes.pop()] if len(dtypes) == 1 else "float32"


def _rounded(found: Mapping[str, TensorType], dtype: DtypeName) -> list[str]:
    """A notice where norms or biases are stored in another type, which a checkpoint cannot keep."""
    other = Counter(str(kind.dtype) for kind in found.values() if kind.dtype != BY_NAME[dtype])
    if dtype == "float32" or not other:
        return []
    counted = ", ".join(f"{count} as {name}" for name, count in other.items())
    return [f"a checkpoint rounds all tensors to {dtype}, of which norms or biases are stored otherwise: {counted}."]
