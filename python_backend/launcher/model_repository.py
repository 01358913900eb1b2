"""What a model repository holds, read from its config.pbtxt files the way Triton will read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from python_backend.contract import PREPROCESSING, TENSORRT_LLM_BLS, TENSORRT_LLM_DRAFT
from python_backend.engine.model_config import read_model_config, string_parameters
from python_backend.errors import SetupError, did_you_mean
from python_backend.launcher.command import MAIN_PROFILE, ServerOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryModel:
    """One model, as the chosen profile configures it."""

    name: str
    config_path: Path
    backend: str  # empty for an ensemble
    max_batch_size: int
    instances: int
    parameters: dict[str, str]
    inputs: frozenset[str]
    steps: tuple[str, ...]  # models of an ensemble

    @property
    def stubs(self) -> int:
        """Processes that run its Python code."""
        return self.instances if self.backend == "python" else 0

    @property
    def calls(self) -> tuple[str, ...]:
        """Models that it cannot do without."""
        if self.name != TENSORRT_LLM_BLS.name:
            return self.steps
        named = (self.parameters.get(f"{model}_model_name", "") for model in ("tensorrt_llm", "tensorrt_llm_draft"))
        return (PREPROCESSING.name, *filter(None, named))


@dataclass(frozen=True, slots=True)
class ModelRepository:
    """The models that a server would load."""

    path: Path
    models: dict[str, RepositoryModel]
    is_whole: bool = True
    """These are all there are."""

    @classmethod
    def load(cls, path: Path, profile: str, only: Collection[str] = ()) -> ModelRepository:
        """Reads the models of ``path``, or ``only`` those named; and what they call.

        A draft engine is for those who call it: with nobody to do so it is left out, unless it is named.

        SetupError when the folder, a model, the profile or a well-formed config.pbtxt is missing.
        """
        found = sorted(entry.parent for entry in path.glob("*/config.pbtxt"))
        if not found:
            raise SetupError(
                f"{path} holds no model: a model repository has <model>/config.pbtxt files. "
                "Name one with --model-repository."
            )
        profiles = {MAIN_PROFILE} | {config.stem for config in path.glob("*/configs/*.pbtxt")}
        if profile not in profiles:
            raise SetupError(
                f"the profiles of {path} are {', '.join(sorted(profiles))}, not {profile!r}"
                f"{did_you_mean(profile, profiles)}"
            )
        models = {directory.name: _read(directory, profile) for directory in found}
        chosen = _closure(models, only or [name for name in models if name != TENSORRT_LLM_DRAFT.name])
        return cls(path, chosen, is_whole=len(chosen) == len(models))

    @property
    def stubs(self) -> int:
        """Processes that will run Python models."""
        return sum(model.stubs for model in self.models.values())

    @property
    def engine_models(self) -> tuple[RepositoryModel, ...]:
        """Those that TensorRT-LLM's own backend runs."""
        return tuple(model for model in self.models.values() if model.backend == "tensorrtllm")

    def resolve(self, value: str) -> Path:
        """A path of a config.pbtxt: relative ones start at the folder that holds the repository."""
        return self.path.absolute().parent / value


def with_models(options: ServerOptions) -> ServerOptions:
    """``options`` that name the models to load, where those are not all that the repository holds.

    Raises SetupError as ``ModelRepository.load`` does.
    """
    if not (options.model_repository / TENSORRT_LLM_DRAFT.name).is_dir():
        return options
    repository = ModelRepository.load(options.model_repository, options.profile, options.models)
    return options if repository.is_whole else replace(options, models=tuple(repository.models))


def _read(directory: Path, profile: str) -> RepositoryModel:
    named = directory / "configs" / f"{profile}.pbtxt"
    path = named if profile != MAIN_PROFILE and named.exists() else directory / "config.pbtxt"
    config = read_model_config(path)
    return RepositoryModel(
        name=directory.name,
        config_path=path,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        instances=sum(max(group.count, 1) for group in config.instance_group) or 1,
        parameters=dict(string_parameters(config)),
        inputs=frozenset(tensor.name for tensor in config.input),
        steps=tuple(step.model_name for step in config.ensemble_scheduling.step),
    )


def _closure(models: dict[str, RepositoryModel], names: Iterable[str]) -> dict[str, RepositoryModel]:
    chosen: dict[str, RepositoryModel] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in models:
            raise SetupError(f"the models are {', '.join(models)}, not {name!r}{did_you_mean(name, models)}")
        if name not in chosen:
            chosen[name] = models[name]
            waiting.extend(models[name].calls)
    return chosen
