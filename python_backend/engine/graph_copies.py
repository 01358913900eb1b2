"""How many compiled copies of a model are worth their memory.

When a step has another number of tokens than the one before, OpenVINO prepares every node of the graph anew: about
10 µs a node, which for small models is half of a short step. Each further copy keeps the size that it computed last, so
that steps without drafts, with short ones and with long ones may take turns.
"""

from __future__ import annotations

from pathlib import Path

from python_backend.engine.manifest import MODEL_FILE

_MOST_COPIES = 3
#: Of all copies together. Reading larger weights takes so long that preparing a graph hardly counts.
_MOST_BYTES = 512 * 2**20


def affordable_copies(engine_dir: Path) -> int:
    """1 to 3, since each copy holds the weights of the engine. Whoever reads them says so when they are missing."""
    weights = (engine_dir / MODEL_FILE).with_suffix(".bin")
    weights_bytes = weights.stat().st_size if weights.is_file() else 0
    return max(1, min(_MOST_COPIES, _MOST_BYTES // max(weights_bytes, 1)))
