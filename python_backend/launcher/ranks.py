"""Engines of several ranks: TensorRT-LLM wants one server a rank, started together by mpirun.

This is the leader mode of NVIDIA's launch_triton_server.py: rank 0 serves; the others load the engine and obey it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

from python_backend.engine.tensorrt_llm_checks import ENGINE_PARAMETER
from python_backend.engine.tensorrt_llm_engine import TensorRtLlmEngine
from python_backend.errors import SetupError
from python_backend.finding import Finding
from python_backend.launcher.command import MPIRUN, ServerOptions
from python_backend.launcher.model_repository import ModelRepository


def with_ranks(options: ServerOptions, repository: ModelRepository) -> ServerOptions:
    """``options`` for as many ranks as the engines of ``repository`` have.

    Raises SetupError when an engine cannot be read, or engines have different numbers of ranks.
    """
    sizes = {model.name: _engine(repository, model.parameters).world_size for model in repository.engine_models}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise SetupError(
            f"engines with different numbers of ranks cannot share a server: {listed}. Build them with the same "
            "parallel, or serve them apart with --models."
        )
    return replace(options, world_size=max(sizes.values(), default=1), engine_models=tuple(sizes))


def check_ranks(repository: ModelRepository) -> Iterator[Finding]:
    """Several ranks can be started. Silent where there is one, or where ``check_engines`` has told what is wrong."""
    for model in repository.engine_models:
        try:
            ranks = _engine(repository, model.parameters).world_size
        except SetupError:
            return
        if ranks > 1 and shutil.which(MPIRUN) is None:
            seen = f"{MPIRUN} is not on PATH; the engine of {model.name} has {ranks} ranks"
            yield Finding("ranks", seen, "Serve it in NVIDIA's image, which has it.")
            return
    try:
        with_ranks(ServerOptions(model_repository=repository.path), repository)
    except SetupError as error:
        yield Finding("ranks", str(error), "See --models in `serve --help`.")


def _engine(repository: ModelRepository, parameters: dict[str, str]) -> TensorRtLlmEngine:
    if ENGINE_PARAMETER not in parameters:
        raise SetupError(f"a model of {repository.path} runs on tensorrtllm and has no {ENGINE_PARAMETER}: add it.")
    return TensorRtLlmEngine.read(repository.resolve(parameters[ENGINE_PARAMETER]))
