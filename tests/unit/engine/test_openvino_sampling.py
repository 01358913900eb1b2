"""Sampling on the real executor, next to transformers on the same weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.engine.sampling import SamplingParameters, SamplingState, TokenDetails
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import Sequence
from tests import tiny_llama
from tests.reference_model import ReferenceModel

PROMPTS = [list(range(20, 20 + 5 * i)) for i in range(1, 9)]
NEW_TOKENS = 10
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.engine(tmp_path_factory.mktemp("tiny"), quantize_lm_head=True)


@pytest.fixture(scope="module")
def reference(engine_dir: Path) -> ReferenceModel:
    return ReferenceModel(engine_dir.parent / "checkpoint", quantize_lm_head=True)


@pytest.fixture(scope="module")
def executor(engine_dir: Path) -> OpenVinoExecutor:
    return OpenVinoExecutor(engine_dir, max_kv_cache_tokens=2048, mode=ExecutionMode.EXACT)


def generate(
    executor: OpenVinoExecutor, said: Many[SamplingParameters | None]
) -> tuple[list[list[int]], list[list[TokenDetails]]]:
    """The prompts, each with its parameters, in one batch; contexts in chunks."""
    tokens: defaultdict[str, list[int]] = defaultdict(list)
    details: defaultdict[str, list[TokenDetails]] = defaultdict(list)

    def listen(report: StepReport) -> None:
        for sequence, new, _ in report.progress:
            tokens[sequence.id] += new
        for sequence, found in report.details.items():
            details[sequence.id].append(found)

    engine = Engine(executor, SchedulerConfig(max_batch_size=8, max_num_tokens=32, max_seq_len=256), listen)
    for i, one in enumerate(said):
        state = None if one is None else SamplingState(one)
        engine.submit(Sequence(id=str(i), prompt=np.array(PROMPTS[i]), max_new_tokens=NEW_TOKENS, sampling=state))
    while engine.step():
        pass
    names = [str(i) for i in range(len(said))]
    return [tokens[name] for name in names], [details[name] for name in names]


def test_logits_and_log_probs_are_those_of_transformers(executor: OpenVinoExecutor, reference: ReferenceModel) -> None:
    ways: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"top_p": 0.95, "seed": 3}, {"top_k": 20, "seed": 4})
    asked: dict[str, Any] = {"return_log_probs": True, "return_generation_logits": True, "return_context_logits": True}
    said = [SamplingParameters(**ways[i % 3], **asked) for i in range(len(PROMPTS))]
    answers, details = generate(executor, said)
    for prompt, tokens, found in zip(PROMPTS, answers, details, strict=True):
        logits = reference.logits(prompt + tokens)
        log_probs = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
        places = range(len(prompt) - 1, len(prompt) + NEW_TOKENS - 1)
        context = [one.context_logits for one in found if one.context_logits is not None]
        generation = [one.generation_logits for one in found if one.generation_logits is not None]
        ours = [one.log_probs for one in found if one.log_probs is not None]
        np.testing.assert_allclose(np.concatenate(context), logits[: len(prompt)], atol=TOLERANCE)
        np.testing.assert_allclose(np.concatenate(generation), logits[places], atol=TOLERANCE)
        np.testing.assert_allclose(np.concatenate(ours), log_probs[places, tokens], atol=TOLERANCE)
        assert found[-1].cum_log_prob == pytest.approx(log_probs[places, tokens].sum(), abs=10 * TOLERANCE)


def test_the_sampler_chooses_greedily_what_the_graph_chooses(executor: OpenVinoExecutor) -> None:
    plain, nothing = generate(executor, [None] * len(PROMPTS))
    by_hand, _ = generate(executor, [SamplingParameters(return_log_probs=True)] * len(PROMPTS))
    assert plain == by_hand
    assert not any(nothing)


def test_the_vocabulary_is_the_model_s(executor: OpenVinoExecutor) -> None:
    assert executor.vocab_size == tiny_llama.VOCAB_SIZE


def test_same_seed_same_text_in_another_batch(executor: OpenVinoExecutor) -> None:
    said = [SamplingParameters(temperature=1.5, top_p=0.9, seed=i, repetition_penalty=1.1) for i in range(len(PROMPTS))]
    together, _ = generate(executor, said)
    assert together == generate(executor, said)[0]
    assert together[0] == generate(executor, [said[0]])[0][0]
    assert together != generate(executor, [SamplingParameters(temperature=1.5, top_p=0.9)] * len(PROMPTS))[0]
