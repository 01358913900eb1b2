"""The proof that a checkpoint still computes its source, or what speaks against it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from build_engines.verification.thresholds import Thresholds
from build_engines.verification.weight_comparison import WeightComparison
from python_backend.errors import SetupError

if TYPE_CHECKING:
    from build_engines.verification.text_comparison import TextComparison


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, the limit that it must keep, and the recipe's key for that."""

    name: str
    value: float
    limit: float
    key: str
    where: str = ""

    @property
    def is_lower_limit(self) -> bool:
        return self.key.startswith("min_")

    @property
    def is_kept(self) -> bool:
        """Never, for a value that is not a number."""
        return self.value >= self.limit if self.is_lower_limit else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What was measured, and the limits. ``text`` is None where only weights were compared."""

    checkpoint_dir: Path
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    weights: WeightComparison
    text: TextComparison | None
    thresholds: Thresholds

    def measures(self) -> tuple[Measure, ...]:
        limits, worst = self.thresholds, self.weights.worst
        found = [Measure("weight error", worst.scaled_error, limits.max_weight_error, "max_weight_error", worst.name)]
        if self.text:
            text = self.text
            found += [
                Measure("KL divergence", text.kl_divergence, limits.max_kl_divergence, "max_kl_divergence"),
                Measure("top-1 agreement", text.top1_agreement, limits.min_top1_agreement, "min_top1_agreement"),
                Measure("perplexity ratio", text.perplexity_ratio, limits.max_perplexity_ratio, "max_perplexity_ratio"),
            ]
        return tuple(found)

    def check(self) -> None:
        """Raises SetupError that names all that is not as it must be."""
        problems = [_problem(measure) for measure in self.measures() if not measure.is_kept]
        changed = self.weights.changed_tensors
        if changed:
            problems.append(
                f'{len(changed)} tensors that are not quantized differ from the source, "{changed[0]}" first; '
                "delete the checkpoint and make it again from this source"
            )
        if problems:
            raise SetupError(f"{self.checkpoint_dir} is not its source any more: {'. '.join(problems)}.")

    @property
    def passed(self) -> bool:
        """Whether ``check`` has nothing to say."""
        return all(measure.is_kept for measure in self.measures()) and not self.weights.changed_tensors

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON. That has no infinity: a value that is no finite number is None."""
        keys: dict[str, Any] = {
            "checkpoint_dir": str(self.checkpoint_dir),
            "quant_algo": self.quant_algo,
            "kv_cache_quant_algo": self.kv_cache_quant_algo,
            "weights": {
                "mean_relative_error": self.weights.mean_relative_error,
                "lowest_cosine": self.weights.lowest_cosine,
                "worst_layer": asdict(self.weights.worst),
                "layers": [asdict(layer) for layer in self.weights.layers],
                "identical_tensors": self.weights.identical_tensors,
                "changed_tensors": list(self.weights.changed_tensors),
            },
            "text": asdict(self.text) | {"perplexity_ratio": self.text.perplexity_ratio} if self.text else None,
            "thresholds": asdict(self.thresholds),
            "passed": self.passed,
        }
        finite: dict[str, Any] = _finite(keys)
        return finite

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def table(self) -> Table:
        """For a terminal."""
        form = self.quant_algo or "not quantized"
        table = Table("measure", "value", "limit", "", title=f"{self.checkpoint_dir.name}: {form}")
        for measure in self.measures():
            limit = f"{'at least' if measure.is_lower_limit else 'at most'} {measure.limit:.4f}"
            verdict = "[green]kept[/green]" if measure.is_kept else "[red]broken[/red]"
            where = f" ({measure.where})" if measure.where else ""
            table.add_row(measure.name + where, f"{measure.value:.4f}", limit, verdict)
        same, changed = self.weights.identical_tensors, len(self.weights.changed_tensors)
        verdict = "[red]broken[/red]" if changed else "[green]kept[/green]"
        table.add_row("unquantized tensors", f"{same} identical, {changed} changed", "0 changed", verdict)
        if self.text:
            perplexities = f"{self.text.source_perplexity:.3f} to {self.text.perplexity:.3f}"
            table.add_row(f"perplexity, {self.text.predicted_tokens} tokens", perplexities, "", "")
        return table


def _problem(measure: Measure) -> str:
    relation = "below" if measure.is_lower_limit else "above"
    where = f" of {measure.where}" if measure.where else ""
    return (
        f"{measure.name}{where} is {measure.value:.4g}, {relation} the limit {measure.limit:.4g}; choose a finer "
        f"format, calibrate on more text like yours, or set verification.thresholds.{measure.key} if that will do"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
