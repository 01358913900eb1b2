"""`tensorrt_llm_bls` and the models it calls: what each says of the other is true, and drafts can be verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from python_backend.contract import TENSORRT_LLM_BLS, TENSORRT_LLM_DRAFT
from python_backend.engine.manifest import CpuManifest
from python_backend.engine.tensorrt_llm_checks import ENGINE_PARAMETER
from python_backend.engine.tensorrt_llm_engine import TensorRtLlmEngine
from python_backend.errors import SetupError
from python_backend.finding import Finding
from python_backend.launcher.model_repository import ModelRepository, RepositoryModel

_CHECK = "front door"
_MAX_DRAFT_LEN = "max_draft_len"


@dataclass(frozen=True, slots=True)
class _Engine:
    """What of an engine matters here."""

    vocab_size: int | None
    max_seq_len: int | None
    max_draft_len: int
    remedy: str  # where more draft tokens are wanted


def check_front_door(repository: ModelRepository, engine_dir: Path | None) -> Iterator[Finding]:
    """Silent about engines that cannot be read: ``check_engines`` has told what is wrong with them."""
    front = repository.models.get(TENSORRT_LLM_BLS.name)
    if front is None:
        return
    target = repository.models[front.parameters["tensorrt_llm_model_name"]]
    said = front.parameters.get("target_backend", "tensorrtllm")
    if said != target.backend:
        seen = f"{front.config_path} says target_backend {said!r}; {target.name} runs on {target.backend!r}"
        yield Finding(_CHECK, seen, f'Set target_backend to "{target.backend}".')
        return
    wanted = int(front.parameters.get(_MAX_DRAFT_LEN, "0"))
    draft_name = front.parameters.get("tensorrt_llm_draft_model_name", "")
    try:
        engine = _engine(repository, target, engine_dir)
        draft = _engine(repository, repository.models[draft_name], engine_dir) if draft_name else None
    except SetupError:
        return
    if wanted > engine.max_draft_len:
        seen = f"{front.config_path} says {_MAX_DRAFT_LEN} {wanted}; {target.name} verifies {engine.max_draft_len}"
        yield Finding(_CHECK, seen, f"Lower it there, or {engine.remedy}.")
    sizes = (engine.vocab_size, draft.vocab_size if draft else None)
    if None not in sizes and sizes[0] != sizes[1]:
        seen = f"{target.name} has a vocabulary of {sizes[0]} tokens, {draft_name} one of {sizes[1]}"
        yield Finding(_CHECK, seen, "Name a draft engine that was made for this target.")
    lengths = (engine.max_seq_len, draft.max_seq_len if draft else None)
    if lengths[0] is not None and lengths[1] is not None and lengths[1] < lengths[0]:
        seen = f"{target.name} takes {lengths[0]} tokens of prompt and answer, {draft_name} only {lengths[1]}"
        yield Finding(_CHECK, seen, f"Build the draft engine with max_seq_len {lengths[0]}.")


def _engine(repository: ModelRepository, model: RepositoryModel, engine_dir: Path | None) -> _Engine:
    directory = repository.resolve(model.parameters.get(ENGINE_PARAMETER, ""))
    if model.backend != "python":
        engine = TensorRtLlmEngine.read(directory)
        return _Engine(
            engine.vocab_size,
            engine.max_seq_len,
            engine.max_draft_len,
            "build the engine with `draft: {max_draft_len: ...}` in its recipe",
        )
    override = None if model.name == TENSORRT_LLM_DRAFT.name else engine_dir
    most = int(model.parameters.get(_MAX_DRAFT_LEN, "0"))
    manifest = CpuManifest.load(override or directory)
    return _Engine(manifest.vocab_size, manifest.max_seq_len, most, f"raise it in {model.config_path}")
