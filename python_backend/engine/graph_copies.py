"""How many compiled copies of a model are worth their memory.

When a step has another number of tokens than the one before, OpenVINO prepares every node of the graph anew: about
10 µs a node, which for small models is half of a short step. A second copy keeps the size that was computed before, so
that steps with drafts and without, or with a context and without, may take turns.
"""

from __future__ import annotations

from pathlib import Path

from python_backend.engine.manifest import MODEL_FILE

#: Reading more takes so long that preparing a graph hardly counts.
_SMALL_WEIGHTS_BYTES = 512 * 2**20


def affordable_copies(engine_dir: Path) -> int:
    """2 where the weights of the engine are small, since each copy holds them all; otherwise 1."""
    return 2 if (engine_dir / MODEL_FILE).with_suffix(".bin").stat().st_size <= _SMALL_WEIGHTS_BYTES else 1
