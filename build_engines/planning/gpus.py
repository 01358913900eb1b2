"""The GPUs that a plan can be made for: what their data sheets say that memory and speed depend on.

TFLOPS and TOPS are dense (without sparsity) and with FP32 accumulation, as TensorRT-LLM multiplies; where a data
sheet gives only the figure with sparsity, half of it. ``link_gbs`` is one direction between two GPUs, half of what
NVIDIA advertises. NVLink bridges for pairs of PCIe cards are optional, so these count with PCIe. Memory is what
nvidia-smi reports as total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from python_backend.errors import SetupError

Arithmetic = Literal["fp16", "int8", "fp8", "fp4"]

#: Ampere: the oldest in TensorRT-LLM's support matrix (nvidia.github.io/TensorRT-LLM/reference/support-matrix.html).
OLDEST_SM = 80

#: The first with FP8 arithmetic, Ada, and with FP4, Blackwell (ModelOpt's support matrix,
#: nvidia.github.io/Model-Optimizer/guides/0_support_matrix.html).
FP8_SM, FP4_SM = 89, 100

#: CUDA sees less than nvidia-smi reports. The smallest share of these, total of an out-of-memory message over total of
#: nvidia-smi: A30 23.53 GiB of 24576 MiB (98.0 %), RTX 4090 23.64 of 24564 (98.5 %), L40 44.40 of 46068 (98.7 %),
#: A100 81251 MiB of 81920 (99.2 %), H100 79.10 GiB of 81559 (99.3 %).
_VISIBLE = 0.98

PCIE_3, PCIE_4, PCIE_5 = 16.0, 32.0, 64.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. A speed that is None is unknown, or the arithmetic is not there."""

    name: str
    sm: int
    memory_mib: int
    bandwidth_gbs: float
    fp16_tflops: float | None
    int8_tops: float | None = None
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    link: Literal["NVLink", "PCIe"] = "PCIe"
    link_gbs: float = PCIE_4
    source: str = ""

    @property
    def usable_bytes(self) -> int:
        """What CUDA can allocate, context and all."""
        return int(self.memory_mib * 2**20 * _VISIBLE)

    @property
    def bandwidth_bytes_s(self) -> float:
        return self.bandwidth_gbs * 1e9

    @property
    def link_bytes_s(self) -> float:
        return self.link_gbs * 1e9

    @property
    def has_fp8(self) -> bool:
        return self.sm >= FP8_SM

    @property
    def has_fp4(self) -> bool:
        return self.sm >= FP4_SM

    def flops(self, arithmetic: Arithmetic) -> float | None:
        """Operations a second; None when unknown."""
        tera = {"fp16": self.fp16_tflops, "int8": self.int8_tops, "fp8": self.fp8_tflops, "fp4": self.fp4_tflops}
        speed = tera[arithmetic]
        return None if speed is None else speed * 1e12

    def check_supported(self) -> None:
        """Raises SetupError for what TensorRT-LLM 1.2 has no kernels for."""
        check_supported(self.sm, self.name)


def check_supported(sm: int, name: str) -> None:
    """Raises SetupError when TensorRT-LLM 1.2 has no kernels for GPUs called ``name``."""
    if sm < OLDEST_SM:
        raise SetupError(
            f"{name} has {capability(sm)}; TensorRT-LLM 1.2 supports 8.0 (Ampere) and newer. "
            "Choose another GPU, or build the CPU engine."
        )


def capability(sm: int) -> str:
    """As NVIDIA writes it."""
    return f"compute capability {sm // 10}.{sm % 10}"


def _ampere(name: str, sm: int, mib: int, gbs: float, fp16: float, source: str, nvlink_gbs: float | None = None) -> Gpu:
    """Ampere multiplies INT8 twice as fast as FP16, and has no FP8."""
    if nvlink_gbs:
        return Gpu(name, sm, mib, gbs, fp16, 2 * fp16, link="NVLink", link_gbs=nvlink_gbs, source=source)
    return Gpu(name, sm, mib, gbs, fp16, 2 * fp16, source=source)


_GPUS = (
    Gpu("T4", 75, 15360, 320, 65, 130, link_gbs=PCIE_3, source="NVIDIA T4 data sheet"),
    Gpu("V100 SXM 16GB", 70, 16384, 900, 125, link="NVLink", link_gbs=150, source="NVIDIA V100 data sheet"),
    Gpu("V100 SXM 32GB", 70, 32768, 900, 125, link="NVLink", link_gbs=150, source="NVIDIA V100 data sheet"),
    _ampere("RTX 3090", 86, 24576, 936, 71, "NVIDIA Ampere GA102 whitepaper"),
    _ampere("RTX A6000", 86, 49140, 768, 154.8, "NVIDIA RTX A6000 data sheet"),
    _ampere("A10", 86, 23028, 600, 125, "NVIDIA A10 data sheet"),
    _ampere("A10G", 86, 23028, 600, 70, "NVIDIA A10G data sheet (AWS)"),
    _ampere("A30", 80, 24576, 933, 165, "NVIDIA A30 data sheet"),
    _ampere("A40", 86, 46068, 696, 149.7, "NVIDIA A40 data sheet"),
    _ampere("A100 PCIe 40GB", 80, 40960, 1555, 312, "NVIDIA A100 data sheet"),
    _ampere("A100 PCIe 80GB", 80, 81920, 1935, 312, "NVIDIA A100 data sheet"),
    _ampere("A100 SXM 40GB", 80, 40960, 1555, 312, "NVIDIA A100 data sheet", nvlink_gbs=300),
    _ampere("A100 SXM 80GB", 80, 81920, 2039, 312, "NVIDIA A100 data sheet", nvlink_gbs=300),
    Gpu("L4", 89, 23034, 300, 121, 242.5, 242.5, source="NVIDIA L4 data sheet"),
    Gpu("L40S", 89, 46068, 864, 362, 733, 733, source="NVIDIA L40S data sheet"),
    Gpu("RTX 4090", 89, 24564, 1008, 165.2, 660.6, 330.3, source="NVIDIA Ada GPU architecture whitepaper"),
    Gpu("RTX 6000 Ada", 89, 49140, 960, 364.2, 1457, 728.5, source="NVIDIA RTX 6000 Ada data sheet"),
    Gpu("H100 PCIe", 90, 81559, 2039, 756, 1513, 1513, link_gbs=PCIE_5, source="NVIDIA H100 data sheet"),
    Gpu("H100 SXM", 90, 81559, 3350, 989, 1979, 1979, None, "NVLink", 450, "NVIDIA H100 data sheet"),
    Gpu("H200 SXM", 90, 143771, 4800, 989, 1979, 1979, None, "NVLink", 450, "NVIDIA H200 data sheet"),
    Gpu("GH200 96GB", 90, 97871, 4000, 990, 1979, 1979, None, "NVLink", 450, "NVIDIA GH200 data sheet"),
    Gpu("B200", 100, 183359, 8000, 2250, 4500, 4500, 9000, "NVLink", 900, "NVIDIA HGX B200 data sheet"),
    Gpu("RTX 5090", 120, 32607, 1792, 209.5, 838, 419, 1676, "PCIe", PCIE_5, "NVIDIA RTX Blackwell whitepaper"),
    Gpu(
        "RTX PRO 6000 Blackwell", 120, 97887, 1792, 503.8, 1007.6, 1007.6, 2015, "PCIe", PCIE_5,
        "NVIDIA RTX PRO 6000 Blackwell data sheet",
    ),
)  # fmt: skip

GPUS = {gpu.name: gpu for gpu in _GPUS}
