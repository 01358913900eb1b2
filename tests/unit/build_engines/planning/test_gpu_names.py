"""Names of GPUs: read as people write them, never guessed."""

from __future__ import annotations

import pytest

from build_engines.planning.gpu_names import read_gpus
from build_engines.planning.gpus import GPUS, OLDEST_SM, Gpu
from python_backend.errors import SetupError


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("RTX 4090", "RTX 4090", 1),
        ("4 x RTX 4090", "RTX 4090", 4),
        ("4xRTX4090", "RTX 4090", 4),
        ("4 \u00d7 NVIDIA GeForce RTX 4090", "RTX 4090", 4),
        ("RTX 4090 x2", "RTX 4090", 2),
        ("4090", "RTX 4090", 1),
        ("2 H100 SXM", "H100 SXM", 2),
        ("8x NVIDIA H100 SXM5 80 GB", "H100 SXM", 8),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB", 1),
        ("A100-PCIE-40GB", "A100 PCIe 40GB", 1),
        ("h200", "H200 SXM", 1),
        ("GH200", "GH200 96GB", 1),
        ("a10", "A10", 1),
        ("A10G", "A10G", 1),
        ("RTX 6000 Ada Generation", "RTX 6000 Ada", 1),
        ("RTX A6000", "RTX A6000", 1),
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell", 1),
    ],
)
def test_reads_what_people_write(text: str, name: str, count: int) -> None:
    gpus = read_gpus(text)
    assert (gpus.gpu.name, gpus.count, gpus.notice) == (name, count, None)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_is_found_by_its_name(name: str) -> None:
    assert read_gpus(f"3 x {name}").gpu is GPUS[name]


@pytest.mark.parametrize(
    ("text", "slower"), [("2x A100 80GB", "A100 PCIe 80GB"), ("H100", "H100 PCIe"), ("A100 40GB", "A100 PCIe 40GB")]
)
def test_variants_that_differ_in_speed_only_are_taken_for_the_slower(text: str, slower: str) -> None:
    gpus = read_gpus(text)
    assert gpus.gpu.name == slower
    assert gpus.notice is not None
    assert f"planned for {slower}" in gpus.notice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A100", '"A100" can be A100 PCIe 40GB, A100 PCIe 80GB, A100 SXM 40GB or A100 SXM 80GB. Name one.'),
        ("RTX 6000", '"RTX 6000" can be RTX 6000 Ada or RTX PRO 6000 Blackwell. Name one.'),
        ("RTX 4009", 'did you mean "RTX 4090"?'),
        ("H100 SMX", 'did you mean "H100 SXM"?'),
        ("MI300X", '"MI300X" is no GPU of the table. Known: T4, '),
        ("A100 60GB", "is no GPU of the table"),
        ("nvidia gpu", "is no GPU of the table"),
        ("", "is no GPU of the table"),
        ("0 x H100", "Name at least one"),
    ],
)
def test_refuses_what_it_would_have_to_guess(text: str, message: str) -> None:
    with pytest.raises(SetupError) as refused:
        read_gpus(text)
    assert message in str(refused.value)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_the_table_is_consistent(gpu: Gpu) -> None:
    """8-bit arithmetic is at least as fast as 16-bit, and there where the hardware has it."""
    assert gpu.source
    assert gpu.fp16_tflops is not None
    if gpu.sm >= OLDEST_SM:
        assert gpu.int8_tops is not None
        assert gpu.int8_tops >= 1.9 * gpu.fp16_tflops
    assert (gpu.fp8_tflops is not None) == gpu.has_fp8
    assert (gpu.fp4_tflops is not None) == gpu.has_fp4


@pytest.mark.parametrize("name", ["T4", "V100 SXM 32GB"])
def test_gpus_without_kernels_are_refused(name: str) -> None:
    with pytest.raises(SetupError, match=r"TensorRT-LLM 1\.2 supports 8\.0"):
        GPUS[name].check_supported()
