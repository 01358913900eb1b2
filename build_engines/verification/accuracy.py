"""What each format costs in accuracy and saves in bytes: the table of docs/accuracy.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import LINEAR_LAYERS, linear_shape, tensor_table
from build_engines.progress import Report, silent
from build_engines.quantization.token_pieces import TokenIds
from build_engines.verification.same_model import Model
from build_engines.verification.text_comparison import Candidate, TextComparison, compare_text
from build_engines.verification.weight_comparison import WeightComparison, compare_weights


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One checkpoint. ``simulated`` is None where an engine rounds nothing but weights."""

    name: str
    linear_bytes: int
    mean_weight_error: float
    worst_weight_error: float
    weights_only: TextComparison
    simulated: TextComparison | None


@dataclass(frozen=True, slots=True)
class AccuracyTable:
    rows: tuple[AccuracyRow, ...]

    def to_json(self) -> str:
        return json.dumps([asdict(row) for row in self.rows], indent=2) + "\n"

    def to_markdown(self) -> str:
        """Two rows for a format that also rounds activations or the KV cache: without and with that."""
        text = self.rows[0].weights_only
        lines = [
            f"{text.predicted_tokens} predicted tokens; the source's perplexity is {text.source_perplexity:.2f}.",
            "",
            "| format | rounded | linear layers, MB | weight error, mean (worst) | perplexity | KL, nats | top-1 |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            lines.append(
                f"| {row.name} | weights | {row.linear_bytes / 1e6:.1f} | {row.mean_weight_error:.2%} "
                f"({row.worst_weight_error:.2%}) | {_figures(row.weights_only)} |"
            )
            if row.simulated:
                lines.append(f"| | all | | | {_figures(row.simulated)} |")
        return "\n".join(lines) + "\n"


def accuracy_table(
    source: Model, checkpoint_dirs: Mapping[str, Path], token_ids: TokenIds, *, report: Report = silent
) -> AccuracyTable:
    """Compare checkpoints, by the names that the table shall give them, with the source that they were made from."""
    checkpoints = {name: Checkpoint.open(path) for name, path in checkpoint_dirs.items()}
    weights = {name: compare_weights(source, checkpoint, report=report) for name, checkpoint in checkpoints.items()}
    runs = [
        (name, simulate)
        for name, checkpoint in checkpoints.items()
        for simulate in ((False, True) if rounds_at_run_time(checkpoint.config) else (False,))
    ]
    candidates = [Candidate(checkpoints[name], simulate) for name, simulate in runs]
    texts = dict(zip(runs, compare_text(source, candidates, token_ids, report=report), strict=True))
    return AccuracyTable(tuple(_row(name, checkpoints[name], weights[name], texts) for name in checkpoints))


def rounds_at_run_time(config: CheckpointConfig) -> bool:
    """Whether an engine rounds more than weights."""
    rounding = config.quantization.quant_algo in ("FP8", "W8A8_SQ_PER_CHANNEL", "W4A8_AWQ", "NVFP4")
    return rounding or config.quantization.kv_cache_quant_algo is not None


def linear_bytes(config: CheckpointConfig) -> int:
    """What the linear layers' weights and scales take in an engine of one rank.

    W8A16 and W4A16, which checkpoints hold as plain weights, are counted as the engine build makes them.
    """
    bits = {"W8A16": 8, "W4A16": 4}.get(config.quantization.quant_algo or "")
    if bits is None:
        entries = tensor_table(config).items()
        return sum(
            entry.whole.size_bytes for name, entry in entries if any(f".{linear}." in name for linear in LINEAR_LAYERS)
        )
    scale_bytes = 4 if config.dtype == "float32" else 2
    shapes = [linear_shape(config, linear) for linear in LINEAR_LAYERS]
    return config.num_hidden_layers * sum(out * into * bits // 8 + out * scale_bytes for out, into in shapes)


def _row(
    name: str,
    checkpoint: Checkpoint,
    weights: WeightComparison,
    texts: Mapping[tuple[str, bool], TextComparison],
) -> AccuracyRow:
    return AccuracyRow(
        name,
        linear_bytes(checkpoint.config),
        weights.mean_relative_error,
        max(layer.relative_error for layer in weights.layers),
        texts[name, False],
        texts.get((name, True)),
    )


def _figures(text: TextComparison) -> str:
    return f"{text.perplexity:.2f} | {text.kl_divergence:.4f} | {text.top1_agreement:.1%}"
