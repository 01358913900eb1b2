"""From a target to a trained draft: text, vocabulary, distillation, evaluation, each kept once it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from build_engines.content_hash import sha256_of
from build_engines.draft.acceptance import measure_acceptance
from build_engines.draft.distillation import Distillation
from build_engines.draft.prompts import Prompt, passages_of, prompts, read_requests
from build_engines.draft.settings import DraftSettings, TextSettings
from build_engines.draft.source import draft_config
from build_engines.draft.student import Student
from build_engines.draft.target_texts import TargetTexts, TextWriter
from build_engines.draft.weights_file import EVALUATION_FILE, WEIGHTS_FILE, DraftEvaluation, DraftWeights
from build_engines.progress import BuildDisplay
from build_engines.publish import publishing, workplace
from build_engines.quantization.settings import CalibrationSettings
from build_engines.sources.model_source import ModelSource
from build_engines.sources.special_tokens import SpecialTokens

_STATE_FILE = "training.pt"


def make_draft(
    target: ModelSource,
    settings: DraftSettings,
    state_dir: Path,
    *,
    minutes: float | None = None,
    display: BuildDisplay | None = None,
) -> DraftEvaluation | None:
    """Train a draft for ``target`` and write its layers and evaluation to ``settings.weights``.

    Text and training are kept in ``state_dir``: after an interruption, or when ``minutes`` have passed, the same call
    goes on from there. What was trained within ``minutes`` is evaluated and written, too; None when they have passed
    while the target still wrote. What was made with other settings is made again. Raises SetupError when the target
    has no such layers or tokens, or a file cannot be read or written.
    """
    display = display or BuildDisplay()
    deadline_s = time.monotonic() + 60 * minutes if minutes is not None else float("inf")

    def expired() -> bool:
        return time.monotonic() >= deadline_s

    draft_config(target.config, settings)
    prompt_texts = _prompt_texts(settings.text)
    state_dir.mkdir(parents=True, exist_ok=True)
    with workplace(state_dir, "draft"):
        _forget_what_differs(target, settings, state_dir)
        texts = _texts(target, settings, prompt_texts, state_dir, display, expired)
        if texts is None:
            return None
        learned, held_out = texts
        vocabulary = draft_vocabulary(learned.expected_counts, settings.vocab_size, _end_id(state_dir))
        student = Student(target, settings.layers, vocabulary)
        untrained = measure_acceptance(student, held_out)
        training = Distillation(student, learned.texts, settings.training, state_dir / _STATE_FILE, seed=settings.seed)
        with display.step("distill") as report:
            training.run(report=report, expired=expired)
        weights = DraftWeights.quantized(student.tensors(), vocabulary.numpy() if settings.vocab_size else None)
        student.load({name: weights.tensor(name) for name in weights.weights})
        evaluation = DraftEvaluation(
            target_sha256=target.sha256(),
            layers=settings.layers,
            steps=training.step,
            training_tokens=learned.tokens,
            acceptance=measure_acceptance(student, held_out),
            untrained=untrained,
        )
        with publishing(settings.weights, known_by=WEIGHTS_FILE) as draft:
            weights.write(draft)
            (draft / EVALUATION_FILE).write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return evaluation


def draft_vocabulary(expected_counts: torch.Tensor, size: int | None, end_id: int) -> torch.Tensor:
    """The ids i32 of the ``size`` tokens that the target expects most often, ascending; the end is one of them."""
    if size is None:
        return torch.arange(len(expected_counts), dtype=torch.int32)
    counts = expected_counts.clone()
    counts[end_id] = torch.inf
    return counts.topk(size).indices.sort().values.int()


def _texts(
    target: ModelSource,
    settings: DraftSettings,
    prompt_texts: tuple[list[str], list[str]],
    state_dir: Path,
    display: BuildDisplay,
    expired: Callable[[], bool],
) -> tuple[TargetTexts, TargetTexts] | None:
    """To learn from, and held out."""
    writer = TextWriter(target, settings.text, state_dir, seed=settings.seed)
    found = []
    for held_out in (False, True):
        tokens = settings.text.held_out_tokens if held_out else settings.text.tokens

        def draw(count: int, random: np.random.Generator, held_out: bool = held_out) -> list[Prompt]:
            return prompts(count, *prompt_texts, random, held_out=held_out)

        with display.step("text by the target") as report:
            found.append(writer.write(tokens, draw, held_out=held_out, report=report, expired=expired))
    learned, reserved = found
    return None if learned is None or reserved is None else (learned, reserved)


def _prompt_texts(settings: TextSettings) -> tuple[list[str], list[str]]:
    """Requests, or none for the built-in ones, and passages."""
    if settings.prompts:
        return read_requests(settings.prompts), []
    [built_in] = CalibrationSettings().text_files
    return [], passages_of(built_in.read_text(encoding="utf-8"))


def _end_id(state_dir: Path) -> int:
    return SpecialTokens.read(state_dir).end_id


def _forget_what_differs(target: ModelSource, settings: DraftSettings, state_dir: Path) -> None:
    text: dict[str, Any] = {
        "target_sha256": target.sha256(),
        "seed": settings.seed,
        "text": settings.text.model_dump(mode="json", exclude={"prompts", "tokens", "held_out_tokens"}),
        "prompts_sha256": sha256_of(*settings.text.prompts),
    }
    training = {
        **text,
        "tokens": settings.text.tokens,
        "layers": settings.layers,
        "vocab_size": settings.vocab_size,
        "training": settings.training.model_dump(),
    }
    for keys, stamp, pattern in ((text, "text.json", "*-[0-9]*.safetensors"), (training, "training.json", _STATE_FILE)):
        content = json.dumps(keys, indent=2) + "\n"
        path = state_dir / stamp
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            for old in state_dir.glob(pattern):
                old.unlink()
            path.write_text(content, encoding="utf-8")
