"""Characters by the byte that they begin with in UTF-8, which is all that the lexer sees of the next one."""

from __future__ import annotations

from python_backend.engine.guided.ebnf.expressions import Ranges

#: Code points, first and last, with the bits that the first byte adds to those of the code point from a place on.
_FORMS = ((0, 0x7F, 0, 0), (0x80, 0x7FF, 0xC0, 6), (0x800, 0xFFFF, 0xE0, 12), (0x10000, 0x10FFFF, 0xF0, 18))


def lead_bytes(ranges: Ranges) -> int:
    """The first bytes of these characters: bit b of the result stands for byte b."""
    found = 0
    for first, last in ranges:
        for low, high, mark, shift in _FORMS:
            begin, end = max(first, low), min(last, high)
            if begin <= end:
                found |= (2 << (mark | end >> shift)) - (1 << (mark | begin >> shift))
    return found
