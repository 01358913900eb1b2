"""What is recommended, and what is said when nothing fits: every change is tried, and one step less is not enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines.planning.changes import changes
from build_engines.planning.formats import FORMATS
from build_engines.planning.gpus import GPUS
from build_engines.planning.plan import Plan, Workload
from build_engines.planning.recommend import Choices, recommend
from python_backend.errors import SetupError
from tests.unit.build_engines.planning.published import model


def plan(name: str, gpu: str, count: int = 1, work: Workload | None = None, choices: Choices | None = None) -> Plan:
    return recommend(model(name), GPUS[gpu], count, work or Workload(), choices or Choices())


def what(
    name: str, gpu: str, count: int = 1, work: Workload | None = None, choices: Choices | None = None
) -> list[str]:
    found = changes(model(name), GPUS[gpu], count, work or Workload(), choices or Choices())
    assert all(change.plan.fits for change in found)
    return [change.what for change in found]


@pytest.mark.parametrize(
    ("name", "gpu", "count", "form", "ranks"),
    [
        ("Llama-3.1-8B", "A100 SXM 80GB", 1, "none", (1, 1)),
        ("Llama-3.1-8B", "RTX 4090", 1, "none", (1, 1)),
        ("Llama-3.1-70B", "A100 SXM 80GB", 1, "int8_wo", (1, 1)),
        ("Llama-3.1-70B", "A100 SXM 80GB", 2, "none", (2, 1)),
        ("Llama-3.1-70B", "H100 SXM", 4, "none", (4, 1)),
        ("Llama-3.1-70B", "RTX 4090", 4, "fp8", (4, 1)),
        ("Llama-3.1-70B", "RTX 3090", 2, "int4_awq", (2, 1)),
        ("Llama-3.1-70B", "L40S", 1, "int4_awq", (1, 1)),
        ("Llama-3.1-70B", "RTX PRO 6000 Blackwell", 1, "fp8", (1, 1)),
        ("Llama-3.1-70B", "RTX 5090", 2, "nvfp4", (2, 1)),
    ],
)
def test_the_highest_precision_that_fits(name: str, gpu: str, count: int, form: str, ranks: tuple[int, int]) -> None:
    best = plan(name, gpu, count)
    assert best.fits
    assert (best.form.name, (best.config.mapping.tp_size, best.config.mapping.pp_size)) == (form, ranks)


def test_a_higher_precision_would_not_fit() -> None:
    best = plan("Llama-3.1-70B", "RTX 4090", 4)
    assert best.form.name == "fp8"
    assert not plan("Llama-3.1-70B", "RTX 4090", 4, choices=Choices(form=FORMATS["none"])).fits


def test_a_short_kv_cache_comes_before_fewer_bits_a_weight() -> None:
    work = Workload(concurrency=72)
    best = plan("Llama-3.1-8B", "RTX 4090", work=work)
    assert (best.form.name, best.kv_cache, best.fits) == ("none", "fp8", True)
    on_ampere = plan("Llama-3.1-8B", "RTX 3090", work=work)
    assert (on_ampere.form.name, on_ampere.kv_cache) == ("none", "int8")


@pytest.mark.parametrize(("count", "ranks"), [(3, (2, 1)), (5, (4, 1)), (7, (7, 1))])
def test_as_many_gpus_as_the_model_divides_by(count: int, ranks: tuple[int, int]) -> None:
    """Llama has 32 heads and layers; Qwen2.5-7B has 28 heads over 4 KV heads, so 7 ranks are 7 stages."""
    best = plan("Qwen2.5-7B" if count == 7 else "Llama-3.1-8B", "A100 SXM 80GB", count)
    mapping = best.config.mapping
    assert (mapping.tp_size, mapping.pp_size) == (ranks if count != 7 else (1, 7))


def test_choices_are_kept() -> None:
    choices = Choices(FORMATS["int8_sq"], ("int8",), 2, 2, max_batch_size=16, max_num_tokens=1024)
    best = plan("Llama-3.1-8B", "A100 PCIe 80GB", 4, choices=choices)
    mapping = best.config.mapping
    assert (best.form.name, best.kv_cache, mapping.tp_size, mapping.pp_size) == ("int8_sq", "int8", 2, 2)
    assert (best.limits.max_batch_size, best.limits.max_num_tokens) == (16, 1024)


def test_the_batch_is_the_largest_that_the_kv_cache_can_fill() -> None:
    best = plan("Llama-3.1-8B", "RTX 4090")
    size = best.limits.max_batch_size
    assert best.requests >= size
    larger = plan(
        "Llama-3.1-8B", "RTX 4090", choices=Choices(max_batch_size=size + 8, form=best.form, kv_caches=(None,))
    )
    assert larger.requests < size + 8


def test_70b_does_not_fit_one_4090() -> None:
    missed = plan("Llama-3.1-70B", "RTX 4090")
    assert not missed.fits
    assert missed.ranks[0].missing_bytes > 10 * 2**30
    assert what("Llama-3.1-70B", "RTX 4090") == ["2 x RTX 4090 (in int4_awq, tp 2, pp 1)"]


def test_a_decided_precision_can_be_given_up() -> None:
    choices = Choices(form=FORMATS["none"])
    assert what("Llama-3.1-70B", "A100 SXM 80GB", choices=choices) == [
        "format int8_wo",
        "2 x A100 SXM 80GB (unquantized, tp 2, pp 1)",
    ]


def test_a_decided_kv_cache_comes_first() -> None:
    work = Workload(concurrency=72)
    first, *_ = what("Llama-3.1-8B", "RTX 4090", work=work, choices=Choices(FORMATS["none"], (None,)))
    assert first == "FP8 KV cache"


def test_decided_ranks_can_be_given_up() -> None:
    first, *_ = what("Llama-3.1-70B", "A100 SXM 80GB", 4, choices=Choices(FORMATS["none"], tp_size=1, pp_size=1))
    assert first == "tp_size 4, pp_size 1"


def test_a_shorter_context_is_the_longest_that_fits() -> None:
    choices = Choices(FORMATS["none"], (None,))
    work = Workload(max_seq_len=131072)
    found = changes(model("Llama-3.1-8B"), GPUS["RTX 4090"], 1, work, choices)
    (shorter,) = (change for change in found if change.what.startswith("max_seq_len"))
    longest = shorter.plan.workload.longest_tokens
    assert shorter.what == f"max_seq_len {longest} instead of 131072"
    assert not plan("Llama-3.1-8B", "RTX 4090", work=replace(work, max_seq_len=longest + 32), choices=choices).fits


def test_fewer_requests_are_the_most_that_fit() -> None:
    choices, work = Choices(FORMATS["none"], (None,)), Workload(concurrency=500)
    found = changes(model("Llama-3.1-8B"), GPUS["RTX 4090"], 1, work, choices)
    (fewer,) = (change for change in found if change.what.endswith("requests at once"))
    count = fewer.plan.workload.concurrency
    assert fewer.what == f"{count} instead of 500 requests at once"
    assert not plan("Llama-3.1-8B", "RTX 4090", work=Workload(concurrency=count + 1), choices=choices).fits


def test_nothing_may_help() -> None:
    choices = Choices(FORMATS["none"], (None,))
    assert what("Llama-3.1-8B", "L4", work=Workload(input_tokens=100_000, concurrency=4000), choices=choices) == []


@pytest.mark.parametrize(
    ("gpu", "count", "work", "choices", "message"),
    [
        ("T4", 1, Workload(), Choices(), "compute capability 7.5"),
        ("A10", 1, Workload(), Choices(form=FORMATS["fp8"]), "format fp8 needs compute capability 8.9; A10 has 8.6"),
        ("H100 SXM", 1, Workload(), Choices(form=FORMATS["nvfp4"]), "format nvfp4 needs compute capability 10.0"),
        ("A10", 1, Workload(), Choices(kv_caches=("fp8",)), "Use int8 or none"),
        ("A10", 2, Workload(), Choices(tp_size=2, pp_size=2), "needs 4 GPUs; 2 named"),
        ("A10", 9, Workload(), Choices(), "9 GPUs cannot be planned for"),
        ("A10", 3, Workload(), Choices(tp_size=3), "num_attention_heads 32 cannot be divided by tp_size 3"),
        ("A10", 1, Workload(input_tokens=200_000), Choices(), "longer than the model's max_position_embeddings 131072"),
        ("A10", 1, Workload(max_seq_len=100), Choices(), "more than max_seq_len 100"),
        ("A10", 1, Workload(concurrency=64), Choices(max_batch_size=8), "cannot run in an engine of max_batch_size 8"),
    ],
)
def test_what_cannot_be_is_refused(gpu: str, count: int, work: Workload, choices: Choices, message: str) -> None:
    with pytest.raises(SetupError) as refused:
        plan("Llama-3.1-8B", gpu, count, work, choices)
    assert message in str(refused.value)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["Llama-3.1-8B", "Qwen2.5-7B", "Qwen3-8B"]),
    st.sampled_from([gpu.name for gpu in GPUS.values() if gpu.sm >= 80]),
    st.integers(1, 4),
    st.integers(1, 100),
    st.integers(1, 16_000),
)
def test_what_fits_serves_the_workload(name: str, gpu: str, count: int, concurrency: int, input_tokens: int) -> None:
    work = Workload(input_tokens, 100, concurrency)
    best = plan(name, gpu, count, work)
    if not best.fits:
        return
    assert best.batch_size >= concurrency
    assert best.kv_cache_tokens >= concurrency * work.request_tokens
    assert best.world_size <= count
    assert work.request_tokens <= best.max_seq_len <= best.config.max_position_embeddings
    for rank in best.ranks:
        assert rank.fixed_bytes + best.kv_cache_tokens * best.kv_bytes_per_token <= rank.usable_bytes
