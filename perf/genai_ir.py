"""An engine's own weights as the model that openvino-genai wants, so that a comparison with it is fair.

openvino-genai reads a stateful graph, whose layers keep keys and values in variables, and puts paged attention in the
place of its attention itself. Everything outside attention is built by the same code as our engine.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino
from openvino import Model, Node, PartialShape, Type
from openvino import opset16 as ops
from openvino.op import Parameter
from openvino.op.util import Variable, VariableInfo

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.cpu.graph import decoder_logits
from build_engines.cpu.openvino_ops import integers, named, parameter, reshape, rows
from build_engines.cpu.weights import DecoderWeights
from build_engines.publish import publishing
from build_engines.sources.special_tokens import SpecialTokens


def write_genai_model(checkpoint_dir: Path, model_dir: Path, *, quantize_lm_head: bool = True) -> None:
    """Write what ``openvino_genai.ContinuousBatchingPipeline`` needs to take and give token ids; no tokenizer.

    Raises SetupError when the checkpoint cannot be read.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    model = build_stateful_model(DecoderWeights(checkpoint, quantize_lm_head=quantize_lm_head))
    with publishing(model_dir, known_by="openvino_model.xml") as draft:
        openvino.save_model(model, draft / "openvino_model.xml", compress_to_fp16=False)
        # Without tokenizer it does not know the end token, and refuses requests, even those that ignore it.
        generation = {"eos_token_id": SpecialTokens.read(checkpoint_dir).end_id}
        (draft / "generation_config.json").write_text(json.dumps(generation) + "\n", encoding="utf-8")


def build_stateful_model(weights: DecoderWeights) -> Model:
    """The graph from ``StatefulAttention``'s inputs to ``logits`` f32 [batch, length, vocabulary]."""
    attention = StatefulAttention(weights.config)
    logits = named("logits", decoder_logits(weights, attention, max_seq_len=weights.config.max_position_embeddings))
    return Model([ops.result(logits)], attention.assignments, attention.parameters, "decoder")


class StatefulAttention:
    """Attention whose keys and values are variables of the model: [batch, kv heads, tokens so far, head_size].

    Inputs: input_ids, attention_mask and position_ids i64 [batch, length], and beam_idx i32 [batch], which says whose
    past each sequence goes on from.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        names = ("input_ids", "attention_mask", "position_ids")
        self._input_ids, self._attention_mask, self._position_ids = (
            parameter(name, [-1, -1], Type.i64) for name in names
        )
        self._beam_idx = parameter("beam_idx", [-1], Type.i32)
        self.assignments: list[Node] = []

    @property
    def parameters(self) -> list[Parameter]:
        return [self._input_ids, self._attention_mask, self._position_ids, self._beam_idx]

    @property
    def token_ids(self) -> Node:
        return self._input_ids

    @property
    def positions(self) -> Node:
        return self._position_ids

    def split_heads(self, x: Node, heads: int) -> Node:
        """[batch, length, heads * head_size] to [batch, heads, length, head_size]."""
        return ops.transpose(reshape(x, 0, 0, heads, self._config.head_size), integers(0, 2, 1, 3))

    def attend(self, layer: int, query: Node, key: Node, value: Node) -> Node:
        """Returns [batch, length, query heads * head_size]."""
        value = self.split_heads(value, self._config.num_key_value_heads)
        keys, values = self._extended(f"key.{layer}", key), self._extended(f"value.{layer}", value)
        attended = ops.scaled_dot_product_attention(
            query, self._for_each_query_head(keys), self._for_each_query_head(values), self._visible(keys)
        )
        return reshape(ops.transpose(attended, integers(0, 2, 1, 3)), 0, 0, self._config.q_rows)

    def _extended(self, name: str, new: Node) -> Node:
        """All keys or values up to now, which are what the next step finds."""
        shape = [-1, self._config.num_key_value_heads, -1, self._config.head_size]
        info = VariableInfo()
        info.variable_id, info.data_type, info.data_shape = name, Type.f32, PartialShape(shape)
        variable = Variable(info)
        batch = rows(ops.shape_of(self._input_ids), integers(0))
        empty = ops.concat([batch, integers(shape[1], 0, shape[3])], 0)
        past = ops.read_value(ops.broadcast(ops.constant(np.float32(0)), empty), variable)
        past = rows(past, self._beam_idx)
        extended = ops.concat([past, new], 2)
        self.assignments.append(ops.assign(extended, variable))
        return extended

    def _for_each_query_head(self, x: Node) -> Node:
        """Keys or values repeated for the query heads that share them."""
        config = self._config
        group = config.num_attention_heads // config.num_key_value_heads
        repeated = ops.broadcast(
            ops.unsqueeze(x, integers(2)), integers(1, 1, group, 1, 1), broadcast_spec="bidirectional"
        )
        return reshape(repeated, 0, config.num_attention_heads, -1, config.head_size)

    def _visible(self, keys: Node) -> Node:
        """bool [batch, 1, length, tokens so far]: not in the future, and not masked out."""
        zero, one, two = (ops.constant(np.int64(value)) for value in range(3))
        length, total = rows(ops.shape_of(self._input_ids), one), rows(ops.shape_of(keys), two)
        seen_by = ops.range(ops.subtract(total, length), total, one, "i64")
        not_future = ops.less_equal(ops.range(zero, total, one, "i64"), ops.unsqueeze(seen_by, integers(1)))
        present = ops.unsqueeze(ops.convert(self._attention_mask, "boolean"), integers(1, 2))
        return ops.logical_and(present, not_future)
