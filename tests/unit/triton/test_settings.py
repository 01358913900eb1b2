"""Parameters of config.pbtxt, as the models read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from python_backend.errors import SetupError
from python_backend.triton.settings import CpuEngineSettings


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPSTREAM_ENGINE_DIR", raising=False)


def read(base: Path, **parameters: str) -> CpuEngineSettings:
    """The settings of a ``tensorrt_llm`` in ``base``/model_repository."""
    named = {"gpt_model_path": "engines/target", "tokenizer_dir": "engines/target", **parameters}
    config = {"parameters": {key: {"string_value": value} for key, value in named.items()}}
    folder = str(base / "model_repository/tensorrt_llm")
    return CpuEngineSettings.of(
        {"model_name": "tensorrt_llm", "model_repository": folder, "model_config": json.dumps(config)}
    )


def test_relative_paths_start_at_the_folder_that_holds_the_repository(tmp_path: Path) -> None:
    assert read(tmp_path, draft_engine_dir="engines/draft").draft_engine_dir == tmp_path / "engines/draft"
    assert read(tmp_path, draft_engine_dir="/engines/draft").draft_engine_dir == Path("/engines/draft")


def test_the_engine_named_on_the_command_line_replaces_the_target_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPSTREAM_ENGINE_DIR", "/other")
    settings = read(tmp_path, draft_engine_dir="engines/draft")
    assert (settings.gpt_model_path, settings.draft_engine_dir) == (Path("/other"), tmp_path / "engines/draft")


def test_an_empty_path_names_none(tmp_path: Path) -> None:
    assert read(tmp_path, draft_engine_dir="").draft_engine_dir is None


def test_a_misspelt_parameter_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match='"draft_engine_dri" that nothing reads; did you mean "draft_engine_dir"'):
        read(tmp_path, draft_engine_dri="engines/draft")


def test_a_cache_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="max_tokens_in_draft_kv_cache"):
        read(tmp_path, max_tokens_in_draft_kv_cache="0")
