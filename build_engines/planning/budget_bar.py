"""The memory of a GPU as a bar: what fills it, in proportion, readable with and without colours."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from build_engines.planning.memory import RankBudget


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the bar."""

    name: str
    size_bytes: int
    glyph: str
    style: str


def parts(rank: RankBudget) -> tuple[Part, ...]:
    """In the order of the bar. What is missing lies beyond the GPU's memory."""
    free = (
        ("missing", rank.missing_bytes, "!", "bold red")
        if rank.missing_bytes
        else ("free", rank.free_bytes, "·", "dim")
    )
    return (
        Part("weights", rank.weights_bytes, "█", "blue"),
        Part("activations, buffers", rank.activation_bytes + rank.buffer_bytes, "▓", "magenta"),
        Part("CUDA, NCCL", rank.overhead_bytes, "▒", "yellow"),
        Part("KV cache", rank.kv_cache_bytes, "░", "green"),
        Part(*free),
    )


def bar(rank: RankBudget, width: int) -> Text:
    """``width`` characters for the GPU's memory; if it is too small, for what the engine needs.

    Then a mark stands where the memory ends, and all beyond it is shown as missing.
    """
    if rank.missing_bytes:
        fitting = round(width * rank.usable_bytes / rank.fixed_bytes)
        shown = parts(rank)[:-1]
        cells = Text.assemble(
            *((part.glyph * size, part.style) for part, size in zip(shown, _sizes(shown, width), strict=True))
        )
        return Text.assemble(cells[:fitting], ("!" * (width - fitting), "bold red"))
    shown = parts(rank)
    return Text.assemble(
        *((part.glyph * size, part.style) for part, size in zip(shown, _sizes(shown, width), strict=True))
    )


def legend(rank: RankBudget) -> Text:
    """What the glyphs stand for."""
    names = [(f"{part.glyph} ", part.style, f"{part.name}   ") for part in parts(rank)]
    return Text.assemble(*(piece for glyph, style, name in names for piece in ((glyph, style), name)))


def _sizes(shown: tuple[Part, ...], width: int) -> list[int]:
    """Whole characters that add up to ``width``; what is there at all has one at least."""
    total = sum(part.size_bytes for part in shown)
    exact = [part.size_bytes * width / total for part in shown]
    sizes = [max(int(size), 1 if size else 0) for size in exact]
    while (left := width - sum(sizes)) != 0:
        step = 1 if left > 0 else -1
        # The part that is furthest from its exact size; a part with one character cannot give it away.
        candidates = [i for i in range(len(sizes)) if step > 0 or sizes[i] > 1]
        sizes[max(candidates, key=lambda i: (exact[i] - sizes[i]) * step)] += step
    return sizes
