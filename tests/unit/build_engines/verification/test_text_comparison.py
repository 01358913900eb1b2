from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines.checkpoint.reader import Checkpoint
from build_engines.quantization.token_pieces import TokenIds
from build_engines.quantization.transformers_model import transformers_model
from build_engines.verification.text_comparison import Candidate, TextComparison, compare_text
from python_backend.errors import SetupError
from tests import tiny_llama, tiny_models
from tests.unit.build_engines.verification import tiny_quantized


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return tiny_quantized.source(tmp_path / "source", tiny_models.config("Qwen2ForCausalLM"))


@pytest.fixture
def token_ids() -> TokenIds:
    return np.random.default_rng(0).integers(0, tiny_llama.VOCAB_SIZE, (3, 40))


def log_probabilities(checkpoint: Checkpoint, token_ids: TokenIds) -> torch.Tensor:
    """[sequences, tokens - 1, vocabulary] in float64, of transformers."""
    model = transformers_model(checkpoint.config, checkpoint.tensor)
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.from_numpy(token_ids)).logits
    return logits[:, :-1].double().log_softmax(dim=-1)


def test_figures_are_those_of_transformers(tmp_path: Path, source: Checkpoint, token_ids: TokenIds) -> None:
    other = Checkpoint.open(tiny_llama.checkpoint(tmp_path / "other", source.config, seed=1))
    [found] = compare_text(source, [Candidate(other)], token_ids)
    expected, ours = log_probabilities(source, token_ids), log_probabilities(other, token_ids)
    losses = [-torch.mean(x.gather(2, torch.from_numpy(token_ids)[:, 1:, None])).item() for x in (expected, ours)]
    assert found.predicted_tokens == 3 * 39
    assert found.source_perplexity == pytest.approx(np.exp(losses[0]), rel=1e-5)
    assert found.perplexity == pytest.approx(np.exp(losses[1]), rel=1e-5)
    assert found.perplexity_ratio == pytest.approx(np.exp(losses[1] - losses[0]), rel=1e-5)
    divergence = torch.nn.functional.kl_div(ours, expected, reduction="sum", log_target=True).item() / (3 * 39)
    assert found.kl_divergence == pytest.approx(divergence, rel=1e-5)
    assert found.top1_agreement == (expected.argmax(-1) == ours.argmax(-1)).double().mean().item()


def test_a_model_is_itself(source: Checkpoint, token_ids: TokenIds) -> None:
    [found] = compare_text(source, [Candidate(source)], token_ids)
    assert found == TextComparison(3 * 39, found.perplexity, found.perplexity, 0.0, 1.0, simulated=True)


def test_candidates_do_not_touch_each_other(tmp_path: Path, token_ids: TokenIds) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None))
    checkpoints = [
        tiny_quantized.quantized(tmp_path / algo, tiny_quantized.config(algo, kv_cache="FP8").sharded(2, 1), source)
        for algo in ("FP8", "W4A8_AWQ")
    ]
    candidates = [Candidate(checkpoint, simulate) for checkpoint in checkpoints for simulate in (False, True)]
    together = compare_text(source, candidates, token_ids)
    assert together == [compare_text(source, [candidate], token_ids)[0] for candidate in candidates]
    weights_only, simulated = together[:2]
    assert 0 < weights_only.kl_divergence < simulated.kl_divergence


def test_a_foreign_tokenizer_is_refused(source: Checkpoint, token_ids: TokenIds) -> None:
    token_ids[1, 3] = 4000
    with pytest.raises(SetupError, match="token id 4000; the model has 320 tokens"):
        compare_text(source, [Candidate(source)], token_ids)


def test_sequences_beyond_the_model_are_refused(source: Checkpoint) -> None:
    with pytest.raises(SetupError, match=r"2000 tokens; the model takes at most 1024.*sequence_tokens to 1024"):
        compare_text(source, [Candidate(source)], np.zeros((1, 2000), np.int64))
