"""``python -m build_engines draft``: train a small draft model for a target that has no small sibling."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.draft.settings import DraftSettings
from build_engines.draft.source import draft_config
from build_engines.draft.weights_file import Acceptance, DraftEvaluation, trained_tensors
from build_engines.progress import BuildDisplay
from build_engines.recipe import Recipe
from build_engines.sources.model_source import ModelSource
from build_engines.sources.open_source import open_source
from python_backend.errors import SetupError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_draft_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``python -m build_engines``."""
    draft = commands.add_parser("draft", help="train the draft model of a recipe; needs PyTorch and transformers")
    draft.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML file with a draft: section")
    draft.add_argument("--source", type=Path, metavar="MODEL", help="the target, if it is not where the recipe says")
    draft.add_argument(
        "--minutes", type=minutes, metavar="N", help="stop then; the same command goes on (default: to the end)"
    )
    draft.add_argument("--dry-run", action="store_true", help="say what would be made")
    draft.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    recipe = Recipe.read(options.recipe)
    settings = recipe.draft
    if settings is None:
        raise SetupError(f"{options.recipe} has no draft: section. Name a recipe like recipes/smollm2-135m-draft.yaml.")
    target = open_source(options.source or recipe.source_path())
    state_dir = recipe.checkpoint_dir.with_name(f"{recipe.name}-training")
    if options.dry_run:
        for line in _describe(target, settings, state_dir):
            print(line)
        return
    _need_torch()
    from build_engines.draft.making import make_draft

    display = BuildDisplay()
    evaluation = make_draft(target, settings, state_dir, minutes=options.minutes, display=display)
    if evaluation is None:
        display.note(f"{options.minutes:g} minutes are over, the target's text is not complete. Run it again to go on.")
        return
    display.console.print(_table(evaluation))
    if evaluation.steps < settings.training.steps:
        display.note(f"stopped after step {evaluation.steps} of {settings.training.steps}. Run it again to go on.")
    display.note(f"build it with {shlex.join(['python', '-m', 'build_engines', 'build', str(options.recipe)])}")


def _describe(target: ModelSource, settings: DraftSettings, state_dir: Path) -> Iterator[str]:
    config = draft_config(target.config, settings)
    table = tensor_table(config)
    weights = sum(int(np.prod(table[name].whole.shape)) for name in trained_tensors(config))
    text, training = settings.text, settings.training
    tokens = settings.vocab_size or config.vocab_size
    layers = f"layers {settings.layers} of {target.config.num_hidden_layers}"
    yield f"draft     {layers}, {weights / 1e6:.1f} M weights to train"
    yield f"proposes  {tokens} of {config.vocab_size} tokens"
    yield f"text      {text.tokens} tokens by the target, {text.held_out_tokens} more for the evaluation"
    yield f"training  {training.steps} steps of {training.batch_size} texts"
    yield f"state     {state_dir}"
    yield f"weights   {settings.weights}"


def _table(evaluation: DraftEvaluation) -> Table:
    table = Table("acceptance", "untrained", "trained")

    def row(what: str, figures: tuple[str, str]) -> None:
        table.add_row(what, *figures)

    both = (evaluation.untrained, evaluation.acceptance)
    row("greedy, of all tokens", _percentages(both, "greedy"))
    row("temperature 1, of all tokens", _percentages(both, "sampled"))
    row("in the draft's vocabulary", _percentages(both, "coverage"))
    for length in evaluation.acceptance.accepted_tokens:
        first, second = (f"{of.accepted_tokens[length]:.2f}" for of in both)
        row(f"accepted of {length} greedy", (first, second))
    return table


def _percentages(both: tuple[Acceptance, Acceptance], name: str) -> tuple[str, str]:
    first, second = ("" if (value := getattr(of, name)) is None else f"{value:.1%}" for of in both)
    return first, second


def _need_torch() -> None:
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(f"training a draft needs {module}, which is not installed. Run `make quantize`.")


def minutes(text: str) -> float:
    """For argparse, which names the type in its message."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number
