"""From what people write to a GPU of the table: "2x A100 80GB", "4 × RTX4090", "NVIDIA H100 SXM5 80 GB"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from build_engines.planning.gpus import GPUS, Gpu
from python_backend.errors import SetupError, did_you_mean

_BEFORE = re.compile(r"\s*(?P<count>\d+)(?:\s*[x\u00d7*]\s*|\s+(?=[a-z]))(?P<name>.+)", re.IGNORECASE)
#: The x after a name stands alone, or RTX 4090 would be 4090 of something.
_AFTER = re.compile(r"(?P<name>.+?)(?:\s+x|\s*[\u00d7*])\s*(?P<count>\d{1,2})\s*", re.IGNORECASE)
_NOISE = {"nvidia", "geforce", "tesla", "gpu", "gpus", "graphics", "generation"}


@dataclass(frozen=True, slots=True)
class GpuSet:
    """Some equal GPUs in one machine. ``notice`` says what was taken where the name left something open."""

    gpu: Gpu
    count: int
    notice: str | None = None


def read_gpus(text: str) -> GpuSet:
    """Upper and lower case, spaces, "NVIDIA" and "GeForce" do not matter, nor words that only one GPU would add.

    A name that fits variants of one memory size and compute capability ("A100 80GB": PCIe and SXM) means the slower,
    and the notice says so. Raises SetupError when a name is unknown (near names are suggested) or fits GPUs that
    differ in more.
    """
    count, name = _split(text)
    wanted = _words(name)
    found = [gpu for gpu in GPUS.values() if wanted and wanted <= _all_words(gpu)]
    exact = [gpu for gpu in found if wanted in (_words(gpu.name), _all_words(gpu))]
    found = exact or found
    if not found:
        near = did_you_mean(" ".join(sorted(wanted)), [" ".join(sorted(_words(known))) for known in GPUS])
        known = ", ".join(GPUS)
        raise SetupError(f'"{name.strip()}" is no GPU of the table{_as_named(near)}. Known: {known}. {_BY_NUMBERS}')
    if len({(gpu.memory_mib, gpu.sm) for gpu in found}) > 1:
        raise SetupError(f'"{name.strip()}" can be {_either(found)}. Name one.')
    slower = min(found, key=lambda gpu: gpu.bandwidth_gbs)
    if len(found) == 1:
        return GpuSet(slower, count)
    return GpuSet(slower, count, f'"{name.strip()}" can be {_either(found)}; planned for {slower.name}, the slower')


_BY_NUMBERS = "Any other is described by --gpu-memory-gb, --gpu-bandwidth-gbs and --sm."


def _split(text: str) -> tuple[int, str]:
    match = _BEFORE.fullmatch(text) or _AFTER.fullmatch(text)
    if match is None:
        return 1, text
    if int(match["count"]) < 1:
        raise SetupError(f'"{text}" names no GPU. Name at least one.')
    return int(match["count"]), match["name"]


def _words(name: str) -> frozenset[str]:
    """The parts of a name that tell GPUs apart: "RTX4090" gives rtx and 4090, "SXM4-80 GB" gives sxm and 80gb."""
    text = re.sub(r"(\d+)\s*gi?b\b", r"\1gb", name.lower())
    text = re.sub(r"\b(rtx|pro|pcie|ada)(?=\d)", r"\1 ", text)
    text = re.sub(r"\bsxm\d\b", "sxm", text)
    return frozenset(re.findall(r"[a-z0-9]+", text)) - _NOISE


def _all_words(gpu: Gpu) -> frozenset[str]:
    """With the memory, which many write though the name is clear without."""
    return _words(gpu.name) | {f"{_nominal_gb(gpu)}gb"}


def _nominal_gb(gpu: Gpu) -> int:
    """The size that it is sold by: nvidia-smi's total, rounded to what memory comes in."""
    gib = gpu.memory_mib / 1024
    return min((16, 24, 32, 40, 48, 80, 96, 141, 180), key=lambda size: abs(size - gib))


def _either(gpus: Sequence[Gpu]) -> str:
    names = [gpu.name for gpu in gpus]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _as_named(suggestion: str) -> str:
    """``suggestion`` with the words of the name in the table's order."""
    for known in GPUS:
        suggestion = suggestion.replace(f'"{" ".join(sorted(_words(known)))}"', f'"{known}"')
    return suggestion
