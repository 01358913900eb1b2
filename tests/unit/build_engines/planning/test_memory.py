"""The memory of a rank: against what NVIDIA and users of TensorRT-LLM have published, and how it must move."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.planning.engine_weights import stage_weights
from build_engines.planning.formats import FORMATS, KvCache
from build_engines.planning.gpus import GPUS
from build_engines.planning.memory import (
    EngineLimits,
    RankBudget,
    activation_bytes,
    budgets,
    buffer_bytes,
    kv_bytes_per_token,
    kv_cache_tokens,
)
from tests.unit.build_engines.planning.published import MIB, model, spread

A100 = GPUS["A100 SXM 80GB"]


def ranks_of(config: CheckpointConfig, limits: EngineLimits, gpu_name: str = A100.name) -> tuple[RankBudget, ...]:
    return budgets(config, stage_weights(config), GPUS[gpu_name], limits)


@pytest.mark.parametrize(
    ("name", "kv_cache", "published_bytes"),
    [
        ("Llama-2-7b-hf", None, 512 * 1024),
        # The KV cache of NVIDIA's memory page: "63.44 GiB for max tokens in paged KV cache (259840)".
        ("Llama-2-7b-hf", "fp8", round(63.44 * 2**30 / 259840, -2)),
        # canitrun.dev, context of 8192 tokens: Llama 3.1 8B 1.07 GB, 70B 2.68 GB.
        ("Llama-3.1-8B", None, 1.07e9 / 8192),
        ("Llama-3.1-70B", None, 2.68e9 / 8192),
        ("Qwen2.5-7B", None, 56 * 1024),
    ],
)
def test_a_token_takes_as_much_of_the_kv_cache_as_is_published(
    name: str, kv_cache: KvCache | None, published_bytes: float
) -> None:
    assert kv_bytes_per_token(spread(name, kv_cache=kv_cache)) == pytest.approx(published_bytes, rel=0.005)


def test_the_example_of_the_paged_attention_paper() -> None:
    """Kwon et al. 2023, section 3: OPT-13B, "800 KB: 2 (key and value) x 5120 x 40 layers x 2 bytes"."""
    heads = {"hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 40, "num_hidden_layers": 40}
    assert kv_bytes_per_token(model("Llama-2-7b-hf").changed(**heads)) == 800 * 1024


def test_ranks_divide_layers_and_heads_but_not_a_head() -> None:
    whole = kv_bytes_per_token(model("Llama-3.1-8B"))
    assert kv_bytes_per_token(spread("Llama-3.1-8B", tp=4, pp=2)) == whole // 8
    assert kv_bytes_per_token(spread("Qwen2.5-7B", tp=4)) == kv_bytes_per_token(model("Qwen2.5-7B")) // 4
    assert kv_bytes_per_token(spread("Llama-3.1-8B", tp=16)) == kv_bytes_per_token(spread("Llama-3.1-8B", tp=8))


@pytest.mark.parametrize(
    ("name", "form", "batch_size", "num_tokens", "logged_mib"),
    [
        # github.com/NVIDIA/TensorRT-LLM/issues/1188, trtllm-build's defaults and then the smallest engine
        ("Qwen2.5-Coder-0.5B", "int8_wo", 2048, 8192, 773.51),
        ("Qwen2.5-Coder-0.5B", "int8_wo", 1, 512, 43.26),
        # A user's notes on TensorRT-LLM 0.17 with trtllm-build's defaults: DeepSeek-R1-Distill-Qwen in INT4 weights
        ("DeepSeek-R1-Distill-Qwen-1.5B", "int4_wo", 2048, 8192, 921.51),
        ("Qwen2.5-7B", "int4_wo", 2048, 8192, 1298.01),
    ],
)
def test_activations_of_weight_only_engines_are_what_was_logged(
    name: str, form: str, batch_size: int, num_tokens: int, logged_mib: float
) -> None:
    estimated = activation_bytes(spread(name, form), EngineLimits(batch_size, num_tokens))
    assert estimated / MIB == pytest.approx(logged_mib, abs=0.02)


@pytest.mark.parametrize(
    ("config", "batch_size", "logged_mib", "at_most"),
    [
        # NVIDIA's memory page, and the same model with TensorRT-LLM 0.11 in a user's notes
        (spread("Llama-2-7b-hf", "fp8", "fp8"), 256, 1134.01, 1.15),
        (spread("Llama-2-7b-hf", "fp8", "fp8"), 256, 1112.00, 1.15),
        # tensorrtllm_backend#577: Llama 3 8B, TP 2; built before trtllm-build fused the MLP of such engines
        (spread("Llama-3.1-8B", tp=2), 8, 480.04, 2.2),
    ],
)
def test_activations_of_other_engines_are_not_underestimated(
    config: CheckpointConfig, batch_size: int, logged_mib: float, at_most: float
) -> None:
    estimated_mib = activation_bytes(config, EngineLimits(batch_size, 8192)) / MIB
    assert logged_mib <= estimated_mib <= at_most * logged_mib


@pytest.mark.parametrize(
    ("name", "batch_size", "logged_mib"),
    [
        ("Llama-2-7b-hf", 256, 43.29 + 180.30),  # NVIDIA's memory page: runtime buffers and decoder
        ("Qwen2.5-Coder-0.5B", 2048, (2.66 + 5.76) * 1024),  # issue 1188
    ],
)
def test_buffers_for_choosing_tokens_are_not_underestimated(name: str, batch_size: int, logged_mib: float) -> None:
    assert logged_mib <= buffer_bytes(model(name), batch_size) / MIB <= 1.1 * logged_mib


def test_nvidias_example_has_as_many_tokens_as_was_logged() -> None:
    """Memory Usage of TensorRT-LLM: Llama-2-7B in FP8 on an H100, "max tokens in paged KV cache (259840)"."""
    config = spread("Llama-2-7b-hf", "fp8", "fp8")
    tokens = kv_cache_tokens(config, ranks_of(config, EngineLimits(256, 8192), "H100 SXM"))
    assert 0.97 * 259840 <= tokens <= 259840


@given(
    st.sampled_from(sorted(set(FORMATS))),
    st.integers(1, 2048),
    st.integers(1, 16384),
    st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    st.integers(0, 200_000),
)
def test_the_parts_fill_the_gpu(form: str, batch_size: int, num_tokens: int, ranks: tuple[int, int], mib: int) -> None:
    config = spread("Llama-3.1-8B", form, tp=ranks[0], pp=ranks[1])
    for rank in budgets(
        config, stage_weights(config), replace(A100, memory_mib=mib), EngineLimits(batch_size, num_tokens)
    ):
        assert rank.fixed_bytes + rank.kv_cache_bytes + rank.free_bytes - rank.missing_bytes == rank.usable_bytes
        assert min(rank.kv_cache_bytes, rank.free_bytes, rank.missing_bytes) >= 0
        assert rank.missing_bytes == 0 or rank.kv_cache_bytes + rank.free_bytes == 0


@given(st.integers(0, 200_000), st.integers(0, 50_000), st.sampled_from(["none", "fp8", "int4_awq"]))
def test_more_memory_never_holds_fewer_tokens(mib: int, more_mib: int, form: str) -> None:
    config, limits = spread("Llama-3.1-8B", form), EngineLimits(64, 8192)
    tokens = [
        kv_cache_tokens(config, budgets(config, stage_weights(config), replace(A100, memory_mib=size), limits))
        for size in (mib, mib + more_mib)
    ]
    assert tokens[0] <= tokens[1]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_more_ranks_never_hold_fewer_tokens(form: str) -> None:
    limits = EngineLimits(64, 8192)
    tokens = [
        kv_cache_tokens(config, ranks_of(config, limits))
        for config in (spread("Llama-3.1-70B", form, tp=tp) for tp in (1, 2, 4, 8))
    ]
    assert tokens == sorted(tokens)
