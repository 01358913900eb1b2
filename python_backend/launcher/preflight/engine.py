"""The engines and tokenizers that the models will load, and the backends they run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from python_backend.contract import TENSORRT_LLM_DRAFT
from python_backend.engine.gpus import Gpu
from python_backend.engine.manifest import ENGINE_DIR_VARIABLE, CpuManifest
from python_backend.engine.tensorrt_llm_checks import (
    ENGINE_PARAMETER,
    check_engine_files,
    check_engine_runs_here,
    check_model_config,
)
from python_backend.errors import SetupError
from python_backend.finding import Finding
from python_backend.launcher.model_repository import ModelRepository, RepositoryModel
from python_backend.speculative.draft_vocabulary import check_vocabulary

TOKENIZER_PARAMETER = "tokenizer_dir"
DRAFT_PARAMETER = "draft_engine_dir"


def check_backends(repository: ModelRepository, available: frozenset[str], installation: str) -> Finding:
    """Every model runs on a backend that the installation has."""
    for model in repository.models.values():
        if model.backend and model.backend not in available:
            return Finding(
                "models",
                f"{model.config_path} asks for backend {model.backend!r}; {installation} has "
                f"{', '.join(sorted(available))}",
                "Choose another --profile (`cpu` needs no GPU), or start inside NVIDIA's image.",
            )
    return Finding("models", f"{', '.join(sorted(repository.models))} in {repository.path}")


def check_engines(
    repository: ModelRepository,
    engine_dir: Path | None,
    tensorrt_llm_version: str | None,
    gpus: Sequence[Gpu] | None = None,
) -> Iterator[Finding]:
    """Each engine and tokenizer is there. ``engine_dir``, if given, replaces what the Python models name.

    ``tensorrt_llm_version`` and ``gpus`` are what would run a TensorRT-LLM engine; None: nothing would, not looked.
    """
    engines: list[Finding] = []
    tokenizers: list[Finding] = []
    for model in repository.models.values():
        override = None if model.name == TENSORRT_LLM_DRAFT.name else engine_dir
        if (named := model.parameters.get(ENGINE_PARAMETER)) is not None:
            directory = repository.resolve(named)
            if model.backend != "python":
                engines += _tensorrt_llm_engine(model, directory, override, tensorrt_llm_version, gpus)
            else:
                engines.append(_cpu_engine(override or directory))
                if draft := model.parameters.get(DRAFT_PARAMETER):
                    engines.append(_draft_engine(repository.resolve(draft), override or directory, engines[-1].ok))
        if (named := model.parameters.get(TOKENIZER_PARAMETER)) is not None:
            tokenizers.append(_tokenizer(override or repository.resolve(named)))
    yield from dict.fromkeys(engines + tokenizers)  # models may share an engine


def _cpu_engine(directory: Path) -> Finding:
    try:
        CpuManifest.load(directory)
    except SetupError as error:
        return Finding("engine", str(error), f"Or name another one with --engine-dir ({ENGINE_DIR_VARIABLE}).")
    return Finding("engine", str(directory))


def _draft_engine(directory: Path, target: Path, target_is_there: bool) -> Finding:
    try:
        CpuManifest.load(directory)
        if target_is_there:
            check_vocabulary(directory, target)
    except SetupError as error:
        without = f'Or set {DRAFT_PARAMETER} to "" and drafter to "ngram": answers are the same without it.'
        return Finding("draft engine", str(error), without)
    return Finding("draft engine", str(directory))


def _tensorrt_llm_engine(
    model: RepositoryModel,
    directory: Path,
    engine_dir: Path | None,
    runtime_version: str | None,
    gpus: Sequence[Gpu] | None,
) -> Iterator[Finding]:
    if engine_dir is not None and engine_dir.absolute() != directory.absolute():
        yield Finding(
            "engine",
            f"{model.config_path} names {directory}, --engine-dir names {engine_dir}",
            f"TensorRT-LLM reads config.pbtxt only: change {ENGINE_PARAMETER} there.",
        )
        return
    findings, engine, manifest = check_engine_files(directory)
    yield from findings
    if engine is not None:
        yield from check_engine_runs_here(engine, manifest, runtime_version, gpus)
        yield from check_model_config(engine, model.config_path, model.max_batch_size, model.parameters)


def _tokenizer(directory: Path) -> Finding:
    if (directory / "tokenizer.json").is_file():
        return Finding("tokenizer", str(directory / "tokenizer.json"))
    return Finding(
        "tokenizer",
        f"{directory} has no tokenizer.json",
        "Copy it from the checkpoint, or build the engine again: `python -m build_engines --help`.",
    )
