"""How many bytes of weights each rank of a TensorRT-LLM engine holds, by the table of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME
from build_engines.checkpoint.sharding import holds, rank_type
from build_engines.checkpoint.tensor_table import EMBEDDING, LINEAR_LAYERS, LM_HEAD, Entry, tensor_table


@dataclass(frozen=True, slots=True)
class StageWeights:
    """One rank of a pipeline stage; all tensor-parallel ranks of a stage hold as much.

    ``read_bytes`` are read for every step: all but the embedding, of which a step reads a row a token. ``linears`` and
    ``lm_head`` count elements, two operations each a token.
    """

    held_bytes: int
    read_bytes: int
    linears: int
    lm_head: int


def stage_weights(config: CheckpointConfig) -> tuple[StageWeights, ...]:
    """For each pipeline stage, the weights of one of its ranks.

    Exact for what an engine stores. A tied lm_head counts as a copy: engines hold both (an INT8 engine of
    Qwen2.5-Coder-0.5B, which is tied, has 875 MiB; with one copy it would be 600).
    """
    stages = []
    entries = tensor_table(config).values()
    for stage in range(config.mapping.pp_size):
        here = [entry for entry in entries if holds(config, entry, stage)]
        held = {entry.name: engine_bytes(config, entry) for entry in here}
        elements = {entry.name: prod(rank_type(config, entry).shape) for entry in here}
        stages.append(
            StageWeights(
                held_bytes=sum(held.values()),
                read_bytes=sum(held.values()) - held.get(EMBEDDING, 0),
                linears=sum(_plain_elements(config, entry, elements[entry.name]) for entry in here),
                lm_head=elements.get(LM_HEAD, 0),
            )
        )
    return tuple(stages)


def engine_bytes(config: CheckpointConfig, entry: Entry) -> int:
    """What a rank's engine holds of a tensor.

    That is what the checkpoint stores, but for weight-only formats, whose plain weights the engine build quantizes
    (one byte or half a byte a weight, and a scale an output in the model's type), and for AWQ's scales, which it
    casts to the model's type.
    """
    part = rank_type(config, entry)
    elements, plain_bytes = prod(part.shape), BY_NAME[config.dtype].itemsize
    algo = config.quantization.quant_algo
    if algo in ("W8A16", "W4A16") and _is_linear_weight(entry):
        return elements // (1 if algo == "W8A16" else 2) + part.shape[0] * plain_bytes
    if algo in ("W4A16_AWQ", "W4A8_AWQ") and entry.name.endswith(".weights_scaling_factor"):
        return elements * plain_bytes
    return elements * part.dtype.itemsize


def _is_linear_weight(entry: Entry) -> bool:
    return any(entry.name.endswith(f".{linear}.weight") for linear in LINEAR_LAYERS)


def _plain_elements(config: CheckpointConfig, entry: Entry, stored: int) -> int:
    """Weights of a linear layer; two share a byte in the packed formats."""
    if not _is_linear_weight(entry):
        return 0
    packed = config.quantization.quant_algo in ("W4A16_AWQ", "W4A8_AWQ", "NVFP4")
    return 2 * stored if packed else stored
