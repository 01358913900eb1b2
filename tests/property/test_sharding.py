"""Cutting a checkpoint into ranks and reading it back changes nothing, whatever the model, the format and the ranks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from build_engines.checkpoint.config import CheckpointConfig, ParallelMapping, QuantAlgo
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.safetensors_file import TensorType
from build_engines.checkpoint.sharding import shard
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, tensor_table
from build_engines.checkpoint.writer import write_checkpoint
from tests import tiny_llama, tiny_models


@st.composite
def configs(draw: st.DrawFn) -> CheckpointConfig:
    """Any architecture and format, on any ranks that can be had of it."""
    quant_algo = draw(st.sampled_from([None, *get_args(QuantAlgo)]))
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    quantization: dict[str, Any] = {
        "quant_algo": quant_algo,
        "kv_cache_quant_algo": draw(st.sampled_from([None, "FP8"])),
    }
    if quant_algo in ("W4A16_AWQ", "W4A8_AWQ", "NVFP4"):
        quantization["group_size"] = 16
    config = tiny_models.config(
        draw(st.sampled_from(tiny_models.ARCHITECTURES)),
        vocab_size=draw(st.integers(1, 40)),
        hidden_size=32,
        num_hidden_layers=draw(st.sampled_from([1, 2, 4, 6])),
        num_attention_heads=8,
        num_key_value_heads=kv_heads,
        head_size=draw(st.sampled_from([16, 32])),
        quantization=quantization,
    )
    mapping = ParallelMapping.of(draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 3])))
    assume(config.indivisible(mapping) is None)
    return config.sharded(mapping.tp_size, mapping.pp_size)


def random_bits(kind: TensorType, random: np.random.Generator) -> Array:
    """Any bits at all: what is stored need not be a number for it to be kept."""
    return np.frombuffer(random.bytes(kind.size_bytes), kind.dtype).reshape(kind.shape)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(config=configs(), seed=st.integers(0, 2**32 - 1))
def test_what_is_cut_into_ranks_is_read_back_bit_for_bit(config: CheckpointConfig, seed: int) -> None:
    random = np.random.default_rng(seed)
    tensors = {name: random_bits(entry.whole, random) for name, entry in tensor_table(config).items()}
    if config.tie_word_embeddings:
        tensors[LM_HEAD] = tensors[EMBEDDING]
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "checkpoint"
        write_checkpoint(directory, config, tensors.__getitem__, tiny_llama.tokenizer_files())
        checkpoint = Checkpoint.open(directory)
        assert checkpoint.config == config
        for name, tensor in tensors.items():
            assert checkpoint.tensor(name).tobytes() == tensor.tobytes(), name


@settings(deadline=None)
@given(config=configs(), seed=st.integers(0, 2**32 - 1))
def test_ranks_compute_what_the_whole_layer_computes(config: CheckpointConfig, seed: int) -> None:
    """Megatron's promise: outputs of column-parallel layers joined, those of row-parallel layers summed."""
    tp = config.mapping.tp_size
    config = config.changed(quantization={}, dtype="float32")
    random = np.random.default_rng(seed)
    table = tensor_table(config)

    def whole_and_parts(name: str) -> tuple[Array, list[Array]]:
        entry = table[f"transformer.layers.0.{name}"]
        whole = random.normal(size=entry.whole.shape).astype(np.float32)
        return whole, [shard(config, entry, whole, rank) for rank in range(tp)]

    x = random.normal(size=(3, config.hidden_size)).astype(np.float32)
    fc, fc_parts = whole_and_parts("mlp.fc.weight")
    proj, proj_parts = whole_and_parts("mlp.proj.weight")
    assert np.allclose(
        (x @ fc.T) @ proj.T, sum((x @ f.T) @ p.T for f, p in zip(fc_parts, proj_parts, strict=True)), atol=1e-2
    )
    qkv, qkv_parts = whole_and_parts("attention.qkv.weight")
    groups = config.num_attention_heads // config.num_key_value_heads
    query, key, value = np.split(x @ qkv.T, [config.q_rows, config.q_rows + config.kv_rows], axis=1)
    for rank, part in enumerate(qkv_parts):
        heads = config.num_attention_heads // tp
        kv_heads = max(1, config.num_key_value_heads // tp)
        sizes = np.cumsum([heads * config.head_size, kv_heads * config.head_size])
        q, k, v = np.split(x @ part.T, sizes, axis=1)
        for local in range(heads):
            head = rank * heads + local  # Each query head must sit with the key and value head that it belongs to.
            mine, theirs = local // (heads // kv_heads), head // groups
            at, here, there = (slice(h * config.head_size, (h + 1) * config.head_size) for h in (head, mine, theirs))
            own = slice(local * config.head_size, (local + 1) * config.head_size)
            assert np.allclose(q[:, own], query[:, at], atol=1e-4)
            assert np.allclose(k[:, here], key[:, there], atol=1e-4)
            assert np.allclose(v[:, here], value[:, there], atol=1e-4)
