"""Verification: whether a checkpoint still computes its source."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from build_engines.checkpoint.reader import Checkpoint
from build_engines.progress import Report, silent
from build_engines.verification.evaluation_text import default_text, read_text, token_sequences
from build_engines.verification.report import VerificationReport
from build_engines.verification.same_model import Model
from build_engines.verification.settings import VerificationSettings
from build_engines.verification.thresholds import thresholds_for
from build_engines.verification.weight_comparison import compare_weights
from python_backend.errors import SetupError

if TYPE_CHECKING:
    from build_engines.verification.text_comparison import TextComparison

__all__ = ["VerificationReport", "measure", "verify"]


def measure(
    source: Model, checkpoint: Checkpoint, settings: VerificationSettings, *, report: Report = silent
) -> VerificationReport:
    """Compare weights, and predictions on ``settings.text``, which needs PyTorch.

    Raises SetupError when both cannot be compared: they describe different models, a text file cannot be read, or
    PyTorch is not installed.
    """
    need_torch(settings)
    weights = compare_weights(source, checkpoint, report=report)
    return VerificationReport(
        checkpoint_dir=checkpoint.directory,
        quant_algo=checkpoint.config.quantization.quant_algo,
        kv_cache_quant_algo=checkpoint.config.quantization.kv_cache_quant_algo,
        weights=weights,
        text=None if settings.text == "none" else _compare_text(source, checkpoint, settings, report),
        thresholds=thresholds_for(checkpoint, settings.thresholds),
    )


def verify(
    source: Model, checkpoint: Checkpoint, settings: VerificationSettings, *, report: Report = silent
) -> VerificationReport:
    """``measure`` and ``check``: raises SetupError too when a threshold is not kept."""
    found = measure(source, checkpoint, settings, report=report)
    found.check()
    return found


def _compare_text(
    source: Model, checkpoint: Checkpoint, settings: VerificationSettings, report: Report
) -> TextComparison:
    from build_engines.verification.text_comparison import Candidate, compare_text

    token_ids = token_sequences(
        read_text(settings.text) if isinstance(settings.text, list) else default_text(),
        checkpoint.directory / "tokenizer.json",
        max_tokens=settings.max_tokens,
        sequence_tokens=min(settings.sequence_tokens, source.config.max_position_embeddings),
    )
    return compare_text(source, [Candidate(checkpoint, settings.simulate)], token_ids, report=report)[0]


def need_torch(settings: VerificationSettings) -> None:
    """Raises SetupError when predictions are to be compared and PyTorch is not installed."""
    if settings.text != "none" and importlib.util.find_spec("torch") is None:
        raise SetupError(
            "comparing predictions on text needs PyTorch, which is not installed. Run `make quantize`, or set "
            " verification.text to none to compare weights only."
        )
