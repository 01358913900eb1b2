from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console
from safetensors.numpy import load_file, save_file

from build_engines.checkpoint.config import QuantAlgo
from build_engines.checkpoint.reader import Checkpoint
from build_engines.verification.settings import ThresholdSettings, VerificationSettings
from build_engines.verification.thresholds import thresholds_for
from build_engines.verification.verify import measure, verify
from python_backend.errors import SetupError
from tests.unit.build_engines.verification import tiny_quantized

LOOSE = ThresholdSettings(max_weight_error=1, max_kl_divergence=100, min_top1_agreement=0, max_perplexity_ratio=1e9)
WEIGHTS_ONLY = VerificationSettings(text="none")


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None))


def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return tmp_path / "text.txt"


def int8(tmp_path: Path, source: Checkpoint) -> Checkpoint:
    return tiny_quantized.quantized(tmp_path / "int8", tiny_quantized.config("W8A16"), source)


def test_a_faithful_checkpoint_passes(tmp_path: Path, source: Checkpoint) -> None:
    few = ThresholdSettings(min_top1_agreement=0.8)  # Random logits are closer to each other than a real model's.
    settings = VerificationSettings(text=[text(tmp_path)], max_tokens=200, sequence_tokens=50, thresholds=few)
    report = verify(source, int8(tmp_path, source), settings)
    assert report.text
    assert report.text.predicted_tokens == 4 * 49
    assert 0 < report.text.kl_divergence < report.thresholds.max_kl_divergence
    assert report.passed
    found = json.loads(report.to_json())
    assert list(found) == [
        "checkpoint_dir",
        "quant_algo",
        "kv_cache_quant_algo",
        "weights",
        "text",
        "thresholds",
        "passed",
    ]
    assert found == report.to_dict()
    assert found["quant_algo"] == "W8A16"
    assert found["passed"] is True
    assert found["text"]["perplexity_ratio"] == report.text.perplexity_ratio
    assert found["weights"]["worst_layer"]["name"] == report.weights.worst.name
    assert len(found["weights"]["layers"]) == 10


def test_the_default_text_is_evaluated(tmp_path: Path, source: Checkpoint) -> None:
    settings = VerificationSettings(max_tokens=64, sequence_tokens=32, thresholds=LOOSE)
    report = verify(source, int8(tmp_path, source), settings)
    assert report.text
    assert report.text.predicted_tokens == 2 * 31


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (
            {"max_weight_error": 1e-3},
            r"weight error of transformer\.layers\.\d\.\S+ is 0\.1\d+, above the limit 0\.001;",
        ),
        ({"max_kl_divergence": 1e-9}, r"KL divergence is \S+, above the limit 1e-09;"),
        ({"min_top1_agreement": 1.0}, r"top-1 agreement is 0\.\d+, below the limit 1;"),
        ({"max_perplexity_ratio": 0.5}, r"perplexity ratio is \S+, above the limit 0\.5;"),
    ],
)
def test_a_broken_threshold_stops(
    tmp_path: Path, source: Checkpoint, threshold: dict[str, float], message: str
) -> None:
    thresholds = ThresholdSettings(**LOOSE.model_dump() | threshold)
    settings = VerificationSettings(text=[text(tmp_path)], max_tokens=256, sequence_tokens=64, thresholds=thresholds)
    checkpoint = tiny_quantized.quantized(tmp_path / "int4", tiny_quantized.config("W4A16_AWQ"), source)
    with pytest.raises(SetupError, match=message + rf".* set verification\.thresholds\.{next(iter(threshold))} "):
        verify(source, checkpoint, settings)


def test_a_wrong_scale_stops_by_default(tmp_path: Path, source: Checkpoint) -> None:
    checkpoint = tiny_quantized.quantized(tmp_path / "sq", tiny_quantized.config("W8A8_SQ_PER_CHANNEL"), source)
    verify(source, checkpoint, WEIGHTS_ONLY)
    path = checkpoint.directory / "rank0.safetensors"
    name = "transformer.layers.1.mlp.fc.weights_scaling_factor"
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name] * np.float32(1.2)}, path)
    broken = Checkpoint.open(checkpoint.directory)
    with pytest.raises(
        SetupError, match=r"weight error of transformer\.layers\.1\.mlp\.fc is 0\.2\d*, above the limit"
    ):
        verify(source, broken, WEIGHTS_ONLY)
    save_file(tensors | {name: tensors[name] * np.float32(np.nan)}, path)
    with pytest.raises(SetupError, match=r"mlp\.fc is nan, above the limit"):
        verify(source, Checkpoint.open(checkpoint.directory), WEIGHTS_ONLY)
    report = measure(source, Checkpoint.open(checkpoint.directory), WEIGHTS_ONLY)
    assert not report.passed
    assert report.to_dict()["weights"]["worst_layer"]["scaled_error"] is None
    json.loads(report.to_json())


def test_a_changed_norm_stops_whatever_the_thresholds(tmp_path: Path, source: Checkpoint) -> None:
    checkpoint = int8(tmp_path, source)
    path = checkpoint.directory / "rank0.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"transformer.ln_f.weight": tensors["transformer.ln_f.weight"] * np.float16(1.01)}, path)
    settings = VerificationSettings(text="none", thresholds=LOOSE)
    with pytest.raises(SetupError, match=r'1 tensors that are not quantized differ .*"transformer\.ln_f\.weight"'):
        verify(source, Checkpoint.open(checkpoint.directory), settings)


def test_ranks_that_disagree_stop(tmp_path: Path, source: Checkpoint) -> None:
    config = tiny_quantized.config("W8A8_SQ_PER_CHANNEL").sharded(2, 1)
    checkpoint = tiny_quantized.quantized(tmp_path / "sq", config, source)
    path = checkpoint.directory / "rank1.safetensors"
    tensors = load_file(path)
    name = "transformer.layers.0.mlp.proj.weights_scaling_factor"
    save_file(tensors | {name: tensors[name] * 2}, path)
    with pytest.raises(SetupError, match=r"ranks disagree about tensor .*mlp\.proj\.weights_scaling_factor"):
        verify(source, Checkpoint.open(checkpoint.directory), WEIGHTS_ONLY)


def test_without_torch_weights_can_be_compared(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert verify(source, int8(tmp_path, source), WEIGHTS_ONLY).text is None
    with pytest.raises(SetupError, match=r"make quantize.*verification\.text to none"):
        verify(source, int8(tmp_path, source), VerificationSettings())


@pytest.mark.parametrize("kv_cache", [None, "FP8", "INT8"])
@pytest.mark.parametrize("quant_algo", tiny_quantized.QUANT_ALGOS)
def test_every_format_has_thresholds(
    tmp_path: Path, source: Checkpoint, quant_algo: QuantAlgo | None, kv_cache: str | None
) -> None:
    config = tiny_quantized.config(quant_algo, kv_cache=kv_cache)
    checkpoint = tiny_quantized.quantized(tmp_path / "quantized", config, source)
    found = thresholds_for(checkpoint, ThresholdSettings())
    assert 0 < found.max_weight_error < 1
    assert found.max_kl_divergence > 0
    assert 0 < found.min_top1_agreement < 1 < found.max_perplexity_ratio
    chosen = thresholds_for(checkpoint, ThresholdSettings(max_kl_divergence=0.0))
    assert (chosen.max_kl_divergence, chosen.max_weight_error) == (0, found.max_weight_error)


def test_plain_int4_may_be_further_away_than_awq(tmp_path: Path, source: Checkpoint) -> None:
    config = tiny_quantized.config("W4A16_AWQ")
    awq, plain = (
        thresholds_for(
            tiny_quantized.quantized(tmp_path / f"{smoothed}", config, source, smoothed=smoothed), ThresholdSettings()
        )
        for smoothed in (True, False)
    )
    assert plain.max_kl_divergence > awq.max_kl_divergence


def test_the_table_shows_what_is_broken(tmp_path: Path, source: Checkpoint) -> None:
    settings = VerificationSettings(text="none", thresholds=ThresholdSettings(max_weight_error=0.0001))
    terminal = io.StringIO()
    Console(file=terminal, width=140).print(measure(source, int8(tmp_path, source), settings).table())
    shown = terminal.getvalue()
    assert "W8A16" in shown
    assert "at most 0.0001" in shown
    assert shown.count("broken") == 1
    assert "identical, 0 changed" in shown


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="max_kl"):
        ThresholdSettings.model_validate({"max_kl": 1})
    with pytest.raises(ValidationError, match="text"):
        VerificationSettings.model_validate({"text": "wikipedia"})
    assert VerificationSettings.model_validate({"text": ["a.txt"]}).text == [Path("a.txt")]
