"""Engines of several ranks: TensorRT-LLM wants one server a rank, started together by mpirun.

One engine: the leader mode of NVIDIA's launch_triton_server.py. Rank 0 serves; the others load the engine and obey it.
Several engines, as a target and its draft: orchestrator mode. One server starts a worker process for each rank; or,
where engines hand logits to each other on the GPU (speculative_decoding_fast_logits), every rank is a server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

from python_backend.engine.tensorrt_llm_checks import ENGINE_PARAMETER
from python_backend.engine.tensorrt_llm_engine import TensorRtLlmEngine
from python_backend.errors import SetupError
from python_backend.finding import Finding
from python_backend.launcher.command import MPIRUN, Orchestrator, ServerOptions
from python_backend.launcher.model_repository import ModelRepository, RepositoryModel

GPUS_PARAMETER = "gpu_device_ids"
PARTICIPANTS_PARAMETER = "participant_ids"
FAST_LOGITS_PARAMETER = "speculative_decoding_fast_logits"
_YES = ("true", "True", "TRUE", "1")


def with_ranks(options: ServerOptions, repository: ModelRepository) -> ServerOptions:
    """``options`` for as many ranks as the engines of ``repository`` have.

    Raises SetupError when an engine cannot be read, or several share a server that cannot.
    """
    sizes = {model.name: _engine(repository, model.parameters).world_size for model in repository.engine_models}
    named = replace(options, engine_models=tuple(sizes))
    if len(sizes) < 2:
        return replace(named, world_size=max(sizes.values(), default=1))
    gpus = frozenset(gpu for model in repository.engine_models for gpu in _numbers(model, GPUS_PARAMETER))
    if not any(model.parameters.get(FAST_LOGITS_PARAMETER) in _YES for model in repository.engine_models):
        return replace(named, orchestrator=Orchestrator.SPAWNS, orchestrated_gpus=tuple(sorted(gpus)))
    _check_participants(repository, sizes)
    return replace(named, orchestrator=Orchestrator.RANKS, world_size=1 + sum(sizes.values()))


def _check_participants(repository: ModelRepository, sizes: dict[str, int]) -> None:
    """Rank 0 is the orchestrator; each other one belongs to one engine."""
    taken = [rank for model in repository.engine_models for rank in _numbers(model, PARTICIPANTS_PARAMETER)]
    counts = {model.name: len(_numbers(model, PARTICIPANTS_PARAMETER)) for model in repository.engine_models}
    if sorted(taken) != list(range(1, 1 + sum(sizes.values()))) or counts != sizes:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise SetupError(
            f"{FAST_LOGITS_PARAMETER} needs {PARTICIPANTS_PARAMETER} in each engine's config.pbtxt: every rank from 1 "
            f"to {sum(sizes.values())} in one of them, as many as its engine has ({listed})."
        )


def _numbers(model: RepositoryModel, key: str) -> list[int]:
    listed = model.parameters.get(key, "").replace(";", ",")
    return [int(part) for part in listed.split(",") if part.strip().isdigit()]


def check_ranks(repository: ModelRepository) -> Iterator[Finding]:
    """Several ranks can be started. Silent where there is one, or where ``check_engines`` has told what is wrong."""
    try:
        ranks = {model.name: _engine(repository, model.parameters).world_size for model in repository.engine_models}
    except SetupError:
        return
    if sum(ranks.values()) > 1 and shutil.which(MPIRUN) is None:
        listed = ", ".join(f"{name} has {size}" for name, size in ranks.items())
        yield Finding("ranks", f"{MPIRUN} is not on PATH; {listed}", "Serve them in NVIDIA's image, which has it.")
        return
    try:
        with_ranks(ServerOptions(model_repository=repository.path), repository)
    except SetupError as error:
        yield Finding("ranks", str(error), "Or serve the engines apart: --models in `serve --help`.")


def _engine(repository: ModelRepository, parameters: dict[str, str]) -> TensorRtLlmEngine:
    if ENGINE_PARAMETER not in parameters:
        raise SetupError(f"a model of {repository.path} runs on tensorrtllm and has no {ENGINE_PARAMETER}: add it.")
    return TensorRtLlmEngine.read(repository.resolve(parameters[ENGINE_PARAMETER]))
