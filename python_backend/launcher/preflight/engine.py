"""The engines and tokenizers that the models will load, and the backends they run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from python_backend.engine.manifest import ENGINE_DIR_VARIABLE, EngineManifest
from python_backend.errors import SetupError
from python_backend.launcher.model_repository import ModelRepository, RepositoryModel
from python_backend.launcher.preflight.finding import Finding

ENGINE_PARAMETER = "gpt_model_path"
TOKENIZER_PARAMETER = "tokenizer_dir"


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
    repository: ModelRepository, engine_dir: Path | None, tensorrt_llm_version: str | None
) -> Iterator[Finding]:
    """Each engine and tokenizer is there. ``engine_dir``, if given, replaces what the Python models name.

    ``tensorrt_llm_version`` is what would run a TensorRT-LLM engine; None: nothing would.
    """
    engines: dict[Path, Finding] = {}
    tokenizers: dict[Path, Finding] = {}
    for model in repository.models.values():
        if (named := model.parameters.get(ENGINE_PARAMETER)) is not None:
            directory = repository.resolve(named)
            if model.backend != "python":
                engines[directory] = _tensorrt_llm_engine(model, directory, engine_dir, tensorrt_llm_version)
            else:
                engines[engine_dir or directory] = _cpu_engine(engine_dir or directory)
        if (named := model.parameters.get(TOKENIZER_PARAMETER)) is not None:
            directory = engine_dir or repository.resolve(named)
            tokenizers[directory] = _tokenizer(directory)
    yield from engines.values()
    yield from tokenizers.values()


def _cpu_engine(directory: Path) -> Finding:
    try:
        EngineManifest.load(directory)
    except SetupError as error:
        return Finding("engine", str(error), f"Or name another one with --engine-dir ({ENGINE_DIR_VARIABLE}).")
    return Finding("engine", str(directory))


def _tensorrt_llm_engine(
    model: RepositoryModel, directory: Path, engine_dir: Path | None, runtime_version: str | None
) -> Finding:
    """What ``trtllm-build`` writes: config.json and one file a rank, all of the version that runs them."""
    if engine_dir is not None and engine_dir.absolute() != directory.absolute():
        return Finding(
            "engine",
            f"{model.config_path} names {directory}, --engine-dir names {engine_dir}",
            f"TensorRT-LLM reads config.pbtxt only: change {ENGINE_PARAMETER} there.",
        )
    build = "Build it with trtllm-build, in the same image that serves it."
    try:
        config = json.loads((directory / "config.json").read_text())
        ranks = int(config["pretrained_config"]["mapping"]["world_size"])
        version = str(config["version"])
    except OSError as error:
        return Finding("engine", f"{directory / 'config.json'} cannot be read: {error.strerror}", build)
    except (ValueError, KeyError, TypeError) as error:
        return Finding("engine", f"{directory / 'config.json'} is not that of an engine ({error!r})", build)
    for rank in range(ranks):
        if not (directory / f"rank{rank}.engine").is_file():
            return Finding("engine", f"{directory} has no rank{rank}.engine, of {ranks} ranks", build)
    if runtime_version is not None and version != runtime_version:
        return Finding("engine", f"{directory} was built with TensorRT-LLM {version}, this is {runtime_version}", build)
    return Finding("engine", f"{directory}, TensorRT-LLM {version}, {ranks} ranks")


def _tokenizer(directory: Path) -> Finding:
    if (directory / "tokenizer.json").is_file():
        return Finding("tokenizer", str(directory / "tokenizer.json"))
    return Finding(
        "tokenizer",
        f"{directory} has no tokenizer.json",
        "Copy it from the checkpoint, or build the engine again: `python -m build_engines --help`.",
    )
