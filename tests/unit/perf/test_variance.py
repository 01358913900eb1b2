"""The variance of the fast mode, measured on a tiny engine."""

from __future__ import annotations

from pathlib import Path

from perf.variance import measure
from tests import tiny_llama


def test_every_difference_has_its_place_and_its_gap(tmp_path: Path) -> None:
    engine = tiny_llama.engine(tmp_path)
    found = measure(engine, batch_sizes=(1, 4), num_prompts=6, max_tokens=12, seed=1)
    assert [(variance.batch_size, variance.answers) for variance in found] == [(1, 6), (4, 6)]
    for variance in found:
        assert variance.differing == len(variance.first_difference) == len(variance.logit_gap) <= 6
        assert all(0 <= first < 12 for first in variance.first_difference)
        # The reference chose the largest exact logit, so whatever else was chosen lies below it.
        assert all(gap >= 0 for gap in variance.logit_gap)
