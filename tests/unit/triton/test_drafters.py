"""Who drafts inside the engine, by what config.pbtxt says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from python_backend.errors import SetupError
from python_backend.metrics import Recorder
from python_backend.triton.drafters import make_drafter
from python_backend.triton.settings import CpuEngineSettings
from tests.unit.engine.block_reading_executor import BlockReadingExecutor


def settings(**said: Any) -> CpuEngineSettings:
    return CpuEngineSettings(gpt_model_path=Path("target"), tokenizer_dir=Path("target"), **said)


@pytest.mark.parametrize("said", [{}, {"drafter": "none"}, {"drafter": "ngram", "max_draft_len": 0}])
def test_where_nobody_drafts_nothing_is_measured(said: dict[str, Any]) -> None:
    executor = BlockReadingExecutor()
    assert make_drafter(settings(**said), executor, Recorder()) is None
    assert (executor.cells == -1).all()


def test_look_up_needs_no_second_engine() -> None:
    executor = BlockReadingExecutor()
    drafter = make_drafter(settings(drafter="ngram"), executor, Recorder())
    assert drafter is not None
    assert drafter.statistics.speedup == 1.0
    assert (executor.cells != -1).any()


def test_a_draft_model_needs_its_engine() -> None:
    with pytest.raises(ValidationError, match='drafter "draft_model" needs draft_engine_dir'):
        settings(drafter="draft_model")


def test_an_unknown_drafter_is_refused() -> None:
    with pytest.raises(ValidationError, match="'none', 'ngram' or 'draft_model'"):
        settings(drafter="n-gram")


def test_a_draft_engine_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=str(tmp_path)):
        make_drafter(
            settings(drafter="draft_model", draft_engine_dir=tmp_path / "draft"), BlockReadingExecutor(), Recorder()
        )
