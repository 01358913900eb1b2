"""Engines that may propose some tokens only: the best of these, and -inf for all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.draft_vocabulary import DRAFT_VOCABULARY_FILE, draft_vocabulary_bytes
from build_engines.checkpoint.reader import Checkpoint
from build_engines.cpu.compile import compile_cpu_engine
from python_backend.engine.manifest import CpuManifest
from python_backend.errors import SetupError
from tests import tiny_llama
from tests.unit.build_engines.cpu.paged_steps import PagedSequence, PagedSteps

TOKENS = np.random.default_rng(1).integers(0, tiny_llama.VOCAB_SIZE, 90).tolist()
IDS = np.sort(np.random.default_rng(2).permutation(tiny_llama.VOCAB_SIZE)[:70]).astype(np.int32)


@pytest.mark.parametrize(
    "config",
    [tiny_llama.config(), tiny_llama.config(tied=False), tiny_llama.config(quant_algo=None, dtype="float32")],
    ids=["tied, INT8", "untied, INT8", "tied, float32"],
)
def test_the_best_of_the_draft_vocabulary_is_proposed(tmp_path: Path, config: CheckpointConfig) -> None:
    whole = tiny_llama.engine(tmp_path, config)
    (tmp_path / "checkpoint" / DRAFT_VOCABULARY_FILE).write_bytes(draft_vocabulary_bytes(IDS))
    compile_cpu_engine(tmp_path / "checkpoint", tmp_path / "reduced")
    expected = logits(whole)
    assert np.isfinite(expected).all()

    found = logits(tmp_path / "reduced")
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, IDS], expected[:, IDS], rtol=1e-5, atol=1e-4)
    assert (np.delete(found, IDS, axis=1) == -np.inf).all()

    steps = PagedSteps(tmp_path / "reduced")
    chosen = steps.infer([(PagedSequence(TOKENS, list(range(6))), len(TOKENS))], range(len(TOKENS)), "token_ids")
    assert chosen.dtype == np.int32
    np.testing.assert_array_equal(chosen, IDS[found[:, IDS].argmax(axis=1)])
    assert CpuManifest.load(tmp_path / "reduced").draft_vocab_size == len(IDS)


def test_a_step_may_sample_no_row(tmp_path: Path) -> None:
    checkpoint = tiny_llama.checkpoint(tmp_path)
    (checkpoint / DRAFT_VOCABULARY_FILE).write_bytes(draft_vocabulary_bytes(IDS))
    compile_cpu_engine(checkpoint, tmp_path / "engine")
    steps = PagedSteps(tmp_path / "engine", outputs=["token_ids", "logits"])
    assert steps.infer([(PagedSequence(TOKENS, list(range(6))), 5)], [], "logits").shape == (0, tiny_llama.VOCAB_SIZE)


def test_another_draft_vocabulary_is_another_engine(tmp_path: Path) -> None:
    tiny_llama.engine(tmp_path)
    compiled = CpuManifest.load(tmp_path / "engine")
    assert compiled.draft_vocab_size is None
    assert not compile_cpu_engine(tmp_path / "checkpoint", tmp_path / "engine")
    (tmp_path / "checkpoint" / DRAFT_VOCABULARY_FILE).write_bytes(draft_vocabulary_bytes(IDS))
    assert compile_cpu_engine(tmp_path / "checkpoint", tmp_path / "engine")
    assert not compile_cpu_engine(tmp_path / "checkpoint", tmp_path / "engine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "is no .npy file"),
        (draft_vocabulary_bytes(IDS.astype(np.int64)), "int32"),
        (draft_vocabulary_bytes(IDS[::-1].copy()), "ascending"),
        (draft_vocabulary_bytes(IDS[:0]), "at least one"),
        (draft_vocabulary_bytes(np.array([1, 320], np.int32)), "from 1 to 320; the model has 320 tokens"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    checkpoint = tiny_llama.checkpoint(tmp_path)
    (checkpoint / DRAFT_VOCABULARY_FILE).write_bytes(content)
    with pytest.raises(SetupError, match=message):
        Checkpoint.open(checkpoint).draft_vocabulary()


def logits(engine: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    steps = PagedSteps(engine, outputs=["token_ids", "logits"])
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = steps.infer(
        [(PagedSequence(TOKENS, list(range(6))), len(TOKENS))], range(len(TOKENS)), "logits"
    )
    return found
