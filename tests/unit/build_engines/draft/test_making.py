"""A draft of a tiny random target: it learns, interruptions change nothing, its checkpoint is an ordinary one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from build_engines.checkpoint.config import Architecture
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import layer_tensor
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.draft.acceptance import accepted_tokens
from build_engines.draft.distillation import Distillation
from build_engines.draft.making import draft_vocabulary, make_draft
from build_engines.draft.prompts import Prompt, prompts
from build_engines.draft.source import DraftSource
from build_engines.draft.student import Student
from build_engines.draft.target_texts import TargetTexts, TextWriter
from build_engines.draft.weights_file import DraftWeights
from build_engines.progress import silent
from build_engines.verification.decoder import Decoder
from tests import tiny_models
from tests.unit.build_engines.draft import tiny_drafts


def after(calls: int) -> Callable[[], bool]:
    """False so often, then True."""
    answers = iter([False] * calls)
    return lambda: next(answers, True)


def written(folder: Path, *limits: int) -> TargetTexts:
    """Text of the tiny target, by as many runs as there are ``limits`` on their batches, and one to the end."""
    folder.mkdir()
    text = tiny_drafts.settings(folder).text

    def draw(count: int, random: np.random.Generator) -> list[Prompt]:
        return prompts(count, [], ["a passage"] * 10, random, held_out=False)

    for limit in limits:
        writer = TextWriter(tiny_drafts.target(), text, folder, seed=1)
        assert writer.write(2500, draw, held_out=False, report=silent, expired=after(limit)) is None
    writer = TextWriter(tiny_drafts.target(), text, folder, seed=1)
    texts = writer.write(2500, draw, held_out=False, report=silent, expired=lambda: False)
    assert texts is not None
    return texts


def test_training_raises_acceptance(tmp_path: Path) -> None:
    made = make_draft(tiny_drafts.target(), tiny_drafts.settings(tmp_path), tmp_path / "state")
    assert made is not None
    assert made.steps == 60
    assert made.acceptance.greedy > 2 * made.untrained.greedy
    assert made.acceptance.accepted_tokens[4] > 2 * made.untrained.accepted_tokens[4]
    assert made.acceptance.sampled is not None
    assert made.untrained.sampled is not None
    assert made.acceptance.sampled > made.untrained.sampled


def test_text_is_the_same_after_an_interruption(tmp_path: Path) -> None:
    whole, resumed = written(tmp_path / "whole"), written(tmp_path / "resumed", 1, 0, 1)
    assert whole.tokens >= 2500
    assert torch.equal(whole.expected_counts, resumed.expected_counts)
    for one, other in zip(whole.texts, resumed.texts, strict=True):
        assert torch.equal(one.token_ids, other.token_ids)
        assert torch.equal(one.states, other.states)


def test_training_is_the_same_after_an_interruption(tmp_path: Path) -> None:
    texts = written(tmp_path / "texts").texts
    settings = tiny_drafts.settings(tmp_path, training={"steps": 12}).training

    def trained(name: str, *limits: int) -> dict[str, torch.Tensor]:
        for limit in (*limits, 99):
            student = Student(tiny_drafts.target(), [1], torch.arange(320, dtype=torch.int32))
            training = Distillation(student, texts, settings, tmp_path / name, seed=7)
            assert training.run(report=silent, expired=after(limit)) == (limit == 99)
        return student.trained

    whole, resumed = trained("whole.pt"), trained("resumed.pt", 5, 0, 3)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_time_that_is_over_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    settings = tiny_drafts.settings(tmp_path)
    assert make_draft(tiny_drafts.target(), settings, tmp_path / "state", minutes=0) is None
    assert not settings.weights.exists()
    assert make_draft(tiny_drafts.target(), settings, tmp_path / "state") is not None
    texts = sorted((tmp_path / "state").glob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in texts]
    other = tiny_drafts.settings(tmp_path, layers=[1], training={"steps": 3})
    made = make_draft(tiny_drafts.target(), other, tmp_path / "state", minutes=1)
    assert made is not None
    assert (made.steps, made.layers) == (3, [1])
    assert [path.stat().st_mtime_ns for path in texts] == times, "text does not depend on what learns from it"


def test_the_checkpoint_computes_what_the_student_does(tmp_path: Path) -> None:
    target, settings = tiny_drafts.target(), tiny_drafts.settings(tmp_path, training={"steps": 5})
    made = make_draft(target, settings, tmp_path / "state")
    assert made is not None
    source = DraftSource(target, settings)
    write_checkpoint(tmp_path / "checkpoint", source.config, source.tensor, source.files)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    vocabulary = checkpoint.draft_vocabulary()
    assert vocabulary is not None
    assert len(vocabulary) == 200

    student = Student(target, settings.layers, torch.from_numpy(vocabulary))
    weights = DraftWeights.read(settings.weights, source.config)
    student.load({name: weights.tensor(name) for name in weights.weights})
    ids = torch.arange(3, 60)
    with torch.no_grad():
        expected = student.model(ids[None]).logits[0]
        torch.testing.assert_close(Decoder(checkpoint.config, checkpoint.tensor)(ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_an_untrained_student_is_the_targets_layers(architecture: Architecture) -> None:
    target = tiny_drafts.target(tiny_models.config(architecture, dtype="float32", num_hidden_layers=3))
    student = Student(target, [2, 0], torch.arange(10, dtype=torch.int32))
    for name, found in student.tensors().items():
        there = name.replace(layer_tensor(0, ""), layer_tensor(9, "")).replace(layer_tensor(1, ""), layer_tensor(0, ""))
        np.testing.assert_allclose(found, target.tensor(there.replace(layer_tensor(9, ""), layer_tensor(2, ""))), 1e-6)
    before = student.tensors()
    student.load({name: 2 * tensor for name, tensor in before.items()})
    assert all(np.allclose(after, 2 * before[name]) for name, after in student.tensors().items())


def test_the_draft_vocabulary_is_what_is_expected_most_often() -> None:
    counts = torch.tensor([5.0, 0.0, 7.0, 1.0, 3.0], dtype=torch.float64)
    assert draft_vocabulary(counts, 3, end_id=1).tolist() == [0, 1, 2]
    assert draft_vocabulary(counts, None, end_id=1).tolist() == [0, 1, 2, 3, 4]


@given(st.lists(st.lists(st.booleans(), min_size=1), min_size=1), st.integers(1, 4))
def test_rounds_accept_up_to_the_first_wrong_token(texts: list[list[bool]], draft_length: int) -> None:
    accepted = rounds = 0
    for text in texts:
        rest = list(text)
        while rest:
            rounds += 1
            for _ in range(draft_length):
                if not rest or not rest[0]:
                    break
                rest.pop(0)
                accepted += 1
            rest = rest[1:]  # The target's own token.
    assert accepted_tokens([torch.tensor(text) for text in texts], draft_length) == accepted / rounds


def test_held_out_prompts_share_no_topic_and_no_passage() -> None:
    passages = [f"passage {index}." for index in range(30)]
    random = np.random.default_rng(0)
    learned, reserved = (
        {prompt.text for prompt in prompts(2000, [], passages, random, held_out=held_out)} for held_out in (False, True)
    )
    assert not learned & reserved
    for passage in passages:
        assert not (any(passage in text for text in learned) and any(passage in text for text in reserved))
