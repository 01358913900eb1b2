"""`tensorrt_llm_bls` over a stand-in for TensorRT-LLM that answers as the C++ backend documents, in the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.conftest import serving
from tests.integration.over_tensorrt_llm.doors import DRAFT, DRAFTED, NGRAM, PLAIN, SCRIPTS
from tests.integration.stand_in.repository import StandInRepository, tokenizer_dir


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_dir(tmp_path_factory.mktemp("stand_in") / "engine", SCRIPTS)


@pytest.fixture(scope="module")
def server(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Several front doors, each with settings of its own, over engines of several kinds."""
    repository = StandInRepository(tmp_path_factory.mktemp("stand_in"), tokenizer_folder)
    # A step is slow beside what a call takes, so that drafts pay, also on a busy machine.
    repository.add_engine("tensorrt_llm", max_draft_len="6", step_ms="15")
    repository.add_engine("quick", step_ms="2")
    repository.add_engine("tensorrt_llm_draft", step_ms="0.5", wrong_every="5", decoupled="False")
    repository.add_engine("undrafted")
    repository.add_engine("unary", step_ms="15", max_draft_len="6", decoupled="False", exclude_input_in_output="false")
    drafting = {"drafter": "draft_model", "tensorrt_llm_draft_model_name": "tensorrt_llm_draft", **DRAFTED}
    repository.add_front_door(PLAIN, tensorrt_llm_model_name="quick")
    repository.add_front_door(NGRAM, drafter="ngram", **DRAFTED)
    repository.add_front_door(DRAFT, **drafting)
    accumulating = {"accumulate_tokens": "true", "exclude_input_in_output": "false"}
    repository.add_front_door("bls_accumulating", tensorrt_llm_model_name="quick", **accumulating)
    repository.add_front_door("bls_undrafted", tensorrt_llm_model_name="undrafted", **drafting)
    repository.add_front_door("bls_without_draft", **drafting | {"tensorrt_llm_draft_model_name": "nowhere"})
    repository.add_front_door("bls_unary", tensorrt_llm_model_name="unary", decoupled="False", **drafting)
    with serving(repository.path, tokenizer_folder, "tensorrt_llm") as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)
