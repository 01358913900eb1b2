"""Reading a model repository the way Triton will."""

from __future__ import annotations

from pathlib import Path

import pytest

from python_backend.errors import SetupError
from python_backend.launcher.command import ServerOptions
from python_backend.launcher.model_repository import ModelRepository, with_models


def write(repository: Path, model: str, config: str, profile: str | None = None) -> None:
    path = repository / model / (f"configs/{profile}.pbtxt" if profile else "config.pbtxt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    step = 'ensemble_scheduling { step { model_name: "a" } step { model_name: "b" } }'
    write(path, "front", f'platform: "ensemble" {step} input {{ name: "priority" }}')
    write(path, "a", 'backend: "python" instance_group { count: 3 } instance_group { kind: KIND_CPU }')
    write(path, "b", 'backend: "tensorrtllm" parameters { key: "k" value { string_value: "v" } }')
    write(path, "b", 'backend: "python"', profile="cpu")
    write(path, "other", 'backend: "python"')
    return path


def test_profile_replaces_config_pbtxt_where_it_exists(repository: Path) -> None:
    cpu, gpu = ModelRepository.load(repository, "cpu"), ModelRepository.load(repository, "tensorrt_llm")
    assert (cpu.models["b"].backend, cpu.models["b"].parameters) == ("python", {})
    assert (gpu.models["b"].backend, gpu.models["b"].parameters) == ("tensorrtllm", {"k": "v"})
    assert cpu.models["a"].config_path == repository / "a/config.pbtxt"
    assert cpu.models["front"].inputs == {"priority"}


def test_stubs_are_the_instances_of_python_models(repository: Path) -> None:
    assert ModelRepository.load(repository, "cpu").stubs == 4 + 1 + 1
    assert ModelRepository.load(repository, "tensorrt_llm").stubs == 4 + 1


def test_only_some_models_and_what_their_ensembles_need(repository: Path) -> None:
    assert set(ModelRepository.load(repository, "cpu", ["front"]).models) == {"front", "a", "b"}
    assert set(ModelRepository.load(repository, "cpu", ["other"]).models) == {"other"}


def test_a_draft_engine_is_served_where_somebody_calls_it(repository: Path) -> None:
    for model in ("preprocessing", "tensorrt_llm", "tensorrt_llm_draft"):
        write(repository, model, 'backend: "python"')
    write(repository, "tensorrt_llm_bls", bls(draft=""))
    options = ServerOptions(model_repository=repository)
    without = {"front", "a", "b", "other", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls"}
    assert set(ModelRepository.load(repository, "cpu").models) == without
    assert set(with_models(options).models) == without
    assert set(ModelRepository.load(repository, "cpu", ["tensorrt_llm_draft"]).models) == {"tensorrt_llm_draft"}
    write(repository, "tensorrt_llm_bls", bls(draft="tensorrt_llm_draft"))
    assert set(ModelRepository.load(repository, "cpu").models) == {*without, "tensorrt_llm_draft"}
    assert with_models(options).models == (), "all there are: Triton finds them by itself"


def test_the_front_door_needs_the_models_that_it_calls(repository: Path) -> None:
    for model in ("preprocessing", "tensorrt_llm"):
        write(repository, model, 'backend: "python"')
    write(repository, "tensorrt_llm_bls", bls(draft="a"))
    needed = {"tensorrt_llm_bls", "preprocessing", "tensorrt_llm", "a"}
    assert set(ModelRepository.load(repository, "cpu", ["tensorrt_llm_bls"]).models) == needed
    write(repository, "tensorrt_llm_bls", bls(draft="ab"))
    with pytest.raises(SetupError, match=r"the models are .*, not 'ab'"):
        ModelRepository.load(repository, "cpu")


def bls(draft: str) -> str:
    names = {"tensorrt_llm_model_name": "tensorrt_llm", "tensorrt_llm_draft_model_name": draft}
    parameters = (f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in names.items())
    return 'backend: "python"' + "".join(parameters)


def test_relative_paths_start_at_the_parent(repository: Path) -> None:
    loaded = ModelRepository.load(repository, "cpu")
    assert loaded.resolve("engines/x") == repository.parent / "engines/x"
    assert loaded.resolve("/engines/x") == Path("/engines/x")


@pytest.mark.parametrize(
    ("profile", "only", "said"),
    [
        ("cup", [], "the profiles of .* are cpu, tensorrt_llm, not 'cup'; did you mean \"cpu\""),
        ("cpu", ["othr"], "the models are a, b, front, other, not 'othr'; did you mean \"other\""),
    ],
)
def test_unknown_names_are_refused(repository: Path, profile: str, only: list[str], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        ModelRepository.load(repository, profile, only)


def test_broken_config_is_named_with_its_line(repository: Path) -> None:
    write(repository, "a", 'backend: "python"\nbackand: "x"\n')
    with pytest.raises(SetupError, match=r"a/config\.pbtxt cannot be read, line:column 2:1"):
        ModelRepository.load(repository, "cpu")


def test_empty_folder_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no model"):
        ModelRepository.load(tmp_path, "cpu")
