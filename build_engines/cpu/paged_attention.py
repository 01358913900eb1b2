"""OpenVINO's paged attention: the operation, and the inputs that describe a step's sequences and their blocks.

The operation appends a step's keys and values to the blocks of its sequences, then attends causally to everything
that they hold. openvino-genai's continuous batching runs on it; its Python name is private, and its list of inputs
has grown with OpenVINO's versions.
"""

from __future__ import annotations

import numpy as np
from openvino import Node, PartialShape, Type
from openvino import opset16 as ops
from openvino.op import Parameter, _PagedAttentionExtension

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.cpu.openvino_ops import named, only, parameter, reshape


class PagedAttention:
    """Attention over a paged KV cache, for all the tokens of a step at once.

    Inputs of the model, for T tokens of S sequences whose block tables have B entries together:

    ==================== ========= =====================================================================
    input_ids            i64 [T]   the sequences' new tokens, one sequence after the other
    position_ids         i64 [T]   each token's position in its sequence
    past_lens            i32 [S]   tokens of each sequence that are in the cache already
    subsequence_begins   i32 [S+1] where each sequence's tokens begin among the T
    block_indices        i32 [B]   the sequences' block tables, one after the other
    block_indices_begins i32 [S+1] where each table begins among the B
    max_context_len      i32       the longest of past length + new tokens
    key_cache.N          dynamic   layer N's blocks; the plugin decides type and layout when it compiles
    value_cache.N        dynamic   the same for values: [blocks, kv heads, tokens_per_block, ...]
    ==================== ========= =====================================================================
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        self._input_ids = parameter("input_ids", [-1], Type.i64)
        self._position_ids = parameter("position_ids", [-1], Type.i64)
        self._step = [
            parameter(name, [-1], Type.i32)
            for name in ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
        ]
        self._max_context_len = parameter("max_context_len", [], Type.i32)
        self._caches: list[Parameter] = []

    @property
    def parameters(self) -> list[Parameter]:
        """The model's inputs, complete once every layer has attended."""
        return [self._input_ids, self._position_ids, *self._step, self._max_context_len, *self._caches]

    @property
    def token_ids(self) -> Node:
        return self._input_ids

    @property
    def positions(self) -> Node:
        """[T, 1]: outside the operation, each token is a sequence of length 1."""
        return reshape(self._position_ids, -1, 1)

    def split_heads(self, x: Node, heads: int) -> Node:
        """[T, heads * head_size] to [T, heads, 1, head_size]."""
        return reshape(x, -1, heads, 1, self._config.head_size)

    def attend(self, layer: int, query: Node, key: Node, value: Node) -> Node:
        """Returns [T, query heads * head_size]."""
        config = self._config
        inputs = [
            reshape(query, -1, config.q_rows),
            reshape(key, -1, config.kv_rows),
            reshape(value, -1, config.kv_rows),
            self._cache(f"key_cache.{layer}"),
            self._cache(f"value_cache.{layer}"),
            *self._step,
            ops.constant(np.float32(config.head_size**-0.5)),
            ops.constant(np.int32(0)),  # sliding_window: none
            _none(np.float32),  # alibi_slopes
            self._max_context_len,
            *_unused(),
        ]
        attention = _PagedAttentionExtension([node.output(0) for node in inputs])
        return only(attention.output(0))

    def _cache(self, name: str) -> Parameter:
        cache = ops.parameter(PartialShape([-1, -1, -1, -1]), Type.dynamic, name=name)
        named(name, cache)
        self._caches.append(cache)
        return cache


def _none(dtype: type[np.generic], rank: int = 1) -> Node:
    return ops.constant(np.zeros([0] * rank, dtype))


def _unused() -> list[Node]:
    """Inputs 13 to 27: scores, cache rotation, sparse attention, sinks, eviction, token types, query bias; all off."""
    zero = ops.constant(np.int32(0))
    return [
        _none(np.int32),  # score_aggregation_window
        _none(np.int32),  # rotated_block_indices
        _none(np.int32),  # rotation_deltas
        _none(np.float32),  # rotation_trig_lut
        _none(np.float32),  # xattention_threshold
        zero,  # xattention_block_size
        zero,  # xattention_stride
        _none(np.float32, rank=4),  # sinks
        zero,  # adaptive_rkv_start_size
        _none(np.int32),  # adaptive_rkv_evictable_sizes
        _none(np.int32),  # adaptive_rkv_diversity_block_set_indices
        _none(np.int32),  # adaptive_rkv_diversity_block_set_indices_begins
        _none(np.int32),  # token_type_ids
        _none(np.uint8),  # qq_bias
        _none(np.int32),  # qq_bias_begins
    ]
