from __future__ import annotations

from pathlib import Path

import pytest

from python_backend.engine.graph_copies import affordable_copies
from python_backend.engine.manifest import MODEL_FILE

MIB = 2**20


@pytest.mark.parametrize(("weights_mib", "copies"), [(0, 3), (1, 3), (170, 3), (171, 2), (256, 2), (257, 1), (4000, 1)])
def test_all_copies_together_stay_small(tmp_path: Path, weights_mib: int, copies: int) -> None:
    with (tmp_path / MODEL_FILE).with_suffix(".bin").open("wb") as file:
        file.truncate(weights_mib * MIB)
    assert affordable_copies(tmp_path) == copies


def test_missing_weights_are_for_others_to_complain_about(tmp_path: Path) -> None:
    assert affordable_copies(tmp_path) >= 1
