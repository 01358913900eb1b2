"""Bytes of weights: against counting by hand, against published sizes, and over the ranks of any division."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines.checkpoint.config import Architecture, ParallelMapping
from build_engines.checkpoint.sharding import holds
from build_engines.checkpoint.tensor_table import Split, tensor_table
from build_engines.planning.engine_weights import engine_bytes, stage_weights
from build_engines.planning.formats import FORMATS, apply_format
from tests import tiny_models
from tests.unit.build_engines.planning.published import GIB, MIB, MODELS, model, parameters, spread

NAMES = sorted(path.name for path in MODELS.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_an_unquantized_engine_holds_two_bytes_a_parameter(name: str) -> None:
    (weights,) = stage_weights(model(name))
    assert weights.held_bytes == 2 * parameters(model(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_format_multiplies_by_the_same_weights(name: str) -> None:
    config = model(name)
    norms_and_biases = sum(
        prod(entry.whole.shape)
        for entry in tensor_table(config).values()
        if entry.layer is not None and len(entry.whole.shape) == 1
    )
    expected = parameters(config) - 2 * config.vocab_size * config.hidden_size - config.hidden_size - norms_and_biases
    for form in FORMATS:
        (weights,) = stage_weights(spread(name, form))
        assert weights.linears == expected, form


@pytest.mark.parametrize(
    ("name", "form", "gigabytes"),
    [
        # huggingface.co/blog/llama31: "8B: FP16 16 GB, FP8 8 GB, INT4 4 GB; 70B: 140 GB, 70 GB, 35 GB". The blog counts
        # all weights as quantized; engines keep embedding and lm_head in 16 bits (8B: 2.1 GB), which is taken off.
        ("Llama-3.1-8B", "none", 16),
        ("Llama-3.1-8B", "fp8", 8),
        ("Llama-3.1-8B", "int4_awq", 4),
        ("Llama-3.1-70B", "none", 140),
        ("Llama-3.1-70B", "fp8", 70),
        ("Llama-3.1-70B", "int4_awq", 35),
    ],
)
def test_llama_3_1_is_as_large_as_its_makers_say(name: str, form: str, gigabytes: float) -> None:
    config = model(name)
    (weights,) = stage_weights(spread(name, form))
    kept = 2 * config.vocab_size * config.hidden_size * (2 - FORMATS[form].bits / 8)
    assert (weights.held_bytes - kept) / 1e9 == pytest.approx(gigabytes, rel=0.06)


def test_llama_2_7b_is_as_large_as_is_said() -> None:
    """6.74 B parameters are 13.5 GB in FP16 (huggingface.co/meta-llama/Llama-2-7b-hf), and about 3.5 GB in 4 bits."""
    (half,), (four_bits,) = stage_weights(spread("Llama-2-7b-hf")), stage_weights(spread("Llama-2-7b-hf", "int4_wo"))
    assert half.held_bytes / 1e9 == pytest.approx(2 * 6.74, rel=0.001)
    assert four_bits.held_bytes / GIB == pytest.approx(3.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "form", "published_mib"),
    [
        # nvidia.github.io/TensorRT-LLM/reference/memory.html: "TensorRT-managed allocation ... now: CPU 0, GPU 6678"
        ("Llama-2-7b-hf", "fp8", 6678),
        # github.com/NVIDIA/TensorRT-LLM/issues/3636: "GPU 15380 (MiB)"
        ("Llama-3.1-8B", "none", 15380),
        # github.com/NVIDIA/TensorRT-LLM/issues/1188: "GPU 869 (MiB)"; tied, and both copies are there
        ("Qwen2.5-Coder-0.5B", "int8_wo", 869),
    ],
)
def test_engines_that_were_loaded_had_as_much(name: str, form: str, published_mib: int) -> None:
    (weights,) = stage_weights(spread(name, form))
    assert weights.held_bytes / MIB == pytest.approx(published_mib, rel=0.01)


def test_weight_only_formats_keep_a_scale_an_output() -> None:
    plain, (eight,) = model("Llama-3.1-8B"), stage_weights(spread("Llama-3.1-8B", "int8_wo"))
    outputs = 4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096
    (unquantized,) = stage_weights(plain)
    assert unquantized.held_bytes - eight.held_bytes == unquantized.linears - 2 * 32 * outputs


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(tiny_models.ARCHITECTURES),
    st.sampled_from(sorted(set(FORMATS) - {"int4_awq", "w4a8_awq"})),
    st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2)]),
)
def test_the_ranks_together_hold_the_model(architecture: Architecture, form: str, ranks: tuple[int, int]) -> None:
    """What is divided adds up to the whole; what is replicated, and heads that are repeated, count once a rank."""
    whole = apply_format(tiny_models.config(architecture), FORMATS[form], None, ParallelMapping())
    parts = apply_format(tiny_models.config(architecture), FORMATS[form], None, ParallelMapping.of(*ranks))
    tp, pp = ranks
    one, held = tensor_table(whole), stage_weights(parts)
    repeats_kv = tp > whole.num_key_value_heads
    for entry in tensor_table(parts).values():
        part, all_of_it = tp * engine_bytes(parts, entry), engine_bytes(whole, one[entry.name])
        if entry.split is Split.REPLICATED:
            assert part == tp * all_of_it
        elif not (entry.split is Split.HEADS and repeats_kv):
            # Scales of outputs stay whole on ranks that divide the inputs; a padded vocabulary adds rows.
            assert all_of_it <= part <= all_of_it + 2 * tp * max(entry.whole.shape) + tp * 2 * whole.hidden_size
        else:
            assert part > all_of_it
    table = tensor_table(parts).values()
    for stage in range(pp):
        assert held[stage].held_bytes == sum(
            engine_bytes(parts, entry) for entry in table if holds(parts, entry, stage)
        )


def test_only_the_embedding_is_not_read_for_each_token() -> None:
    first, last = stage_weights(spread("Llama-3.1-8B", pp=2))
    assert first.held_bytes - first.read_bytes == 2 * 128256 * 4096
    assert last.held_bytes == last.read_bytes
    assert (first.lm_head, last.lm_head) == (0, 128256 * 4096)
