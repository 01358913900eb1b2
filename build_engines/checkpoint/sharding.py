"""Cutting a whole tensor into the parts of tensor-parallel ranks, and putting them together again.

``merge`` undoes ``shard`` bit for bit. The rules are Megatron-LM's (Shoeybi et al., 2019) as TensorRT-LLM applies them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.safetensors_file import TensorType
from build_engines.checkpoint.tensor_table import EMBEDDING, FINAL_NORM, LM_HEAD, Entry, Split
from python_backend.errors import SetupError


def holds(config: CheckpointConfig, entry: Entry, pp_rank: int) -> bool:
    """Whether pipeline stage ``pp_rank`` has the tensor: the embedding is in the first, the lm_head in the last."""
    stages = config.mapping.pp_size
    if entry.layer is not None:
        return entry.layer // (config.num_hidden_layers // stages) == pp_rank
    return pp_rank == {EMBEDDING: 0, FINAL_NORM: stages - 1, LM_HEAD: stages - 1}[entry.name]


def rank_name(config: CheckpointConfig, entry: Entry) -> str:
    """The tensor's name in a rank's file, where layers count from 0 in each stage."""
    if entry.layer is None:
        return entry.name
    local = entry.layer % (config.num_hidden_layers // config.mapping.pp_size)
    return entry.name.replace(f"layers.{entry.layer}.", f"layers.{local}.", 1)


def rank_type(config: CheckpointConfig, entry: Entry) -> TensorType:
    """Type and shape of every rank's part."""
    shape = list(entry.whole.shape)
    match entry.split:
        case Split.COLUMN:
            shape[0] //= config.mapping.tp_size
        case Split.ROW:
            shape[-1] //= config.mapping.tp_size
        case Split.VOCABULARY:
            shape[0] = -(-shape[0] // config.mapping.tp_size)
        case Split.HEADS:
            q, kv = _heads_a_rank(config)
            shape[0] = (q + 2 * kv) * _rows_a_head(config, entry.whole.shape[0])
    return TensorType(entry.whole.dtype, tuple(shape))


def shard(config: CheckpointConfig, entry: Entry, whole: Array, tp_rank: int) -> Array:
    """The part of ``whole`` that rank ``tp_rank`` of each stage holds."""
    tp = config.mapping.tp_size
    if tp == 1 or entry.split is Split.REPLICATED:
        return whole
    match entry.split:
        case Split.COLUMN:
            return _part(whole, 0, tp_rank, tp)
        case Split.ROW:
            return _part(whole, whole.ndim - 1, tp_rank, tp)
        case Split.VOCABULARY:
            rows = -(-whole.shape[0] // tp)
            part = whole[tp_rank * rows : (tp_rank + 1) * rows]
            missing = np.zeros((rows - len(part), *whole.shape[1:]), whole.dtype)
            return np.concatenate([part, missing]) if len(missing) else part
        case Split.HEADS:
            query, key, value = _queries_keys_values(config, whole)
            copies = max(1, tp // config.num_key_value_heads)
            source, ranks = tp_rank // copies, tp // copies
            parts = [_part(query, 0, tp_rank, tp), _part(key, 0, source, ranks), _part(value, 0, source, ranks)]
            return np.concatenate(parts)


def merge(config: CheckpointConfig, entry: Entry, parts: Sequence[Array]) -> Array:
    """The whole tensor from the parts of all tensor-parallel ranks.

    Raises SetupError when ranks disagree about what they all should hold.
    """
    tp = len(parts)
    if tp == 1:
        return parts[0][: entry.whole.shape[0]] if entry.split is Split.VOCABULARY else parts[0]
    match entry.split:
        case Split.REPLICATED:
            return _agreed(entry, parts)
        case Split.COLUMN:
            return np.concatenate(parts)
        case Split.ROW:
            return np.concatenate(parts, axis=-1)
        case Split.VOCABULARY:
            return np.concatenate(parts)[: entry.whole.shape[0]]
        case Split.HEADS:
            q, kv = (heads * _rows_a_head(config, entry.whole.shape[0]) for heads in _heads_a_rank(config))
            copies = max(1, tp // config.num_key_value_heads)
            queries = [part[:q] for part in parts]
            keys = [_agreed(entry, [p[q : q + kv] for p in parts[i : i + copies]]) for i in range(0, tp, copies)]
            values = [_agreed(entry, [p[q + kv :] for p in parts[i : i + copies]]) for i in range(0, tp, copies)]
            return np.concatenate([*queries, *keys, *values])


def _heads_a_rank(config: CheckpointConfig) -> tuple[int, int]:
    """Query heads, and key/value heads."""
    tp = config.mapping.tp_size
    return config.num_attention_heads // tp, max(1, config.num_key_value_heads // tp)


def _rows_a_head(config: CheckpointConfig, rows: int) -> int:
    """head_size, or half of it where two rows share a byte."""
    return rows // (config.num_attention_heads + 2 * config.num_key_value_heads)


def _queries_keys_values(config: CheckpointConfig, whole: Array) -> list[Array]:
    head = _rows_a_head(config, whole.shape[0])
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return np.split(whole, [queries, queries + keys])


def _part(whole: Array, axis: int, index: int, count: int) -> Array:
    size = whole.shape[axis] // count
    here = slice(index * size, (index + 1) * size)
    return whole[here] if axis == 0 else whole[..., here]


def _agreed(entry: Entry, parts: Sequence[Array]) -> Array:
    first = parts[0]
    if any(part.tobytes() != first.tobytes() for part in parts[1:]):
        raise SetupError(
            f'ranks disagree about tensor "{entry.name}", which is the same on all. Make the checkpoint again.'
        )
    return first
