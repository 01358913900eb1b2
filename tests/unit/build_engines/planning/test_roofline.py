"""Speed bounds: no published figure may beat them, and they follow the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.planning.engine_weights import stage_weights
from build_engines.planning.formats import FORMATS, KvCache
from build_engines.planning.gpus import GPUS, Gpu
from build_engines.planning.roofline import Roofline
from tests.unit.build_engines.planning.published import model, parameters, spread

A100, H100 = GPUS["A100 SXM 80GB"], GPUS["H100 SXM"]


def roofline(config: CheckpointConfig, gpu: Gpu, form: str) -> Roofline:
    return Roofline(config, stage_weights(config), gpu, FORMATS[form].arithmetic)


@pytest.mark.parametrize(
    ("name", "form", "gpu", "tp", "tokens", "published_ms"),
    [
        # NVIDIA, "Performance of TensorRT-LLM" (v0.6.1, docs/source/performance.md), first token at batch size 1.
        # The 70B is Llama 2's there, which differs in its vocabulary only.
        ("Llama-2-7b-hf", "none", "A100 SXM 80GB", 1, 128, 16),
        ("Llama-2-7b-hf", "none", "A100 SXM 80GB", 1, 2048, 133),
        ("Llama-3.1-70B", "none", "A100 SXM 80GB", 4, 128, 47),
        ("Llama-3.1-70B", "none", "A100 SXM 80GB", 4, 2048, 377),
        ("Llama-2-7b-hf", "fp8", "H100 SXM", 1, 128, 7),
        ("Llama-2-7b-hf", "fp8", "H100 SXM", 1, 2048, 36),
        ("Llama-3.1-70B", "fp8", "H100 SXM", 4, 2048, 109),
        ("Llama-2-7b-hf", "fp8", "L40S", 1, 128, 14),
        ("Llama-2-7b-hf", "fp8", "L40S", 1, 2048, 73),
    ],
)
def test_no_published_first_token_was_sooner(
    name: str, form: str, gpu: str, tp: int, tokens: int, published_ms: float
) -> None:
    bound_ms = 1e3 * roofline(spread(name, form, tp=tp), GPUS[gpu], form).time_to_first_token_s(tokens)
    assert published_ms / 3.5 < bound_ms < published_ms


@pytest.mark.parametrize(
    ("form", "kv_cache", "gpu", "batch_size", "published_tokens_per_s"),
    [
        # The same page: LLaMA 7B, 128 input and 2048 output tokens, so 1152 tokens of context on average.
        ("none", None, "A100 SXM 80GB", 60, 1928),
        ("fp8", "fp8", "H100 SXM", 112, 6818),
        ("fp8", "fp8", "L40S", 64, 1622),
    ],
)
def test_no_published_throughput_was_greater(
    form: str, kv_cache: KvCache | None, gpu: str, batch_size: int, published_tokens_per_s: float
) -> None:
    step = roofline(spread("Llama-2-7b-hf", form, kv_cache), GPUS[gpu], form).decode(batch_size, 1152)
    assert published_tokens_per_s < step.tokens_per_s < 1.5 * published_tokens_per_s
    assert step.bound == "memory"


def test_one_request_reads_all_weights_for_each_token() -> None:
    config = model("Llama-2-7b-hf")
    step = roofline(config, A100, "none").decode(1, 1000)
    read = 2 * (parameters(config) - 32000 * 4096) + 1000 * 512 * 1024
    assert step.time_per_output_token_s == pytest.approx(read / 2.039e12)
    assert step.link_share == 0


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    config, tokens = model("Llama-2-7b-hf"), 2048
    linears = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    attention = 32 * sum(4 * 4096 * seen for seen in range(1, tokens + 1))
    operations = 2 * tokens * linears + attention + 2 * 32000 * 4096
    bound_s = roofline(config, A100, "none").time_to_first_token_s(tokens)
    assert bound_s == pytest.approx(operations / 312e12, rel=1e-3)


def test_large_batches_become_bound_by_arithmetic() -> None:
    bounds = [roofline(spread("Llama-3.1-8B"), A100, "none").decode(size, 16).bound for size in (1, 64, 1024)]
    assert bounds == ["memory", "memory", "compute"]


def test_an_all_reduce_moves_a_ring_of_the_hidden_state_twice_a_layer() -> None:
    config = spread("Llama-3.1-8B", tp=4)
    step = roofline(config, A100, "none").decode(8, 100)
    ring_bytes = 2 * 3 / 4 * 8 * 4096 * 2
    assert step.link_share * step.time_per_output_token_s == pytest.approx(2 * 32 * ring_bytes / 300e9)


def test_stages_take_turns() -> None:
    """A token of one request goes through both stages; with two and more, each stage works on half of them."""
    one, two = (roofline(spread("Llama-3.1-8B", pp=pp), A100, "none") for pp in (1, 2))
    alone, staged = one.decode(1, 100), two.decode(1, 100)
    assert staged.time_per_output_token_s == pytest.approx(alone.time_per_output_token_s, rel=1e-3)
    last = stage_weights(two.config)[-1]
    turn_s = (last.read_bytes + 32 * 2000 * 64 * 1024) / 2.039e12
    assert two.decode(64, 2000).time_per_output_token_s == pytest.approx(2 * turn_s, rel=1e-3)
    assert two.decode(64, 2000).tokens_per_s > one.decode(64, 2000).tokens_per_s


def test_an_unknown_speed_bounds_nothing() -> None:
    unknown = replace(A100, fp16_tflops=None, int8_tops=None)
    bound_s = roofline(model("Llama-2-7b-hf"), unknown, "none").time_to_first_token_s(4096)
    assert bound_s == pytest.approx(2 * (parameters(model("Llama-2-7b-hf")) - 32000 * 4096) / 2.039e12)


@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 8192), st.sampled_from([(1, 1), (2, 1), (4, 2)]))
def test_more_requests_are_answered_slower_each_and_faster_together(
    batch_size: int, more: int, context: int, ranks: tuple[int, int]
) -> None:
    line = roofline(spread("Llama-3.1-8B", tp=ranks[0], pp=ranks[1]), H100, "none")
    stages = ranks[1]
    few, many = line.decode(batch_size * stages, context), line.decode((batch_size + more) * stages, context)
    assert few.time_per_output_token_s <= many.time_per_output_token_s
    assert few.tokens_per_s <= many.tokens_per_s * (1 + 1e-9)
