"""docker-compose.yml and the Dockerfiles: well-formed, pinned where they should be, and in step with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from build_engines.recipe import Recipe
from python_backend.launcher.cli import parse
from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.server import KILL_MARGIN_S
from python_backend.launcher.settings import ServeSettings, read_settings
from python_backend.pins import NEWEST_PYTHON, NUMPY_BELOW, OLDEST_PYTHON, PYTRITON, TRITON_IMAGE

ROOT = Path(__file__).parents[2]
INSTALLED_AT = "/opt/slipstream"


class Strict(BaseModel):
    """The part of the Compose specification that the file uses; a key outside it is a typing error, or belongs here."""

    model_config = ConfigDict(extra="forbid")


class Build(Strict):
    context: str
    dockerfile: str
    args: dict[str, str] = {}


class Device(Strict):
    driver: Literal["nvidia"]
    count: Literal["all"]
    capabilities: list[Literal["gpu"]]


class Reservations(Strict):
    devices: list[Device]


class Resources(Strict):
    reservations: Reservations


class Deploy(Strict):
    resources: Resources


class Service(Strict):
    image: str
    build: Build
    command: str = ""
    profiles: list[str] = []
    environment: dict[str, str] | list[str] = {}
    init: bool
    restart: Literal["unless-stopped"]
    shm_size: str
    ulimits: dict[str, int]
    stop_grace_period: str
    security_opt: list[str]
    ports: list[str]
    volumes: list[str]
    deploy: Deploy | None = None


class Compose(Strict):
    name: str
    services: dict[str, Service]
    x_server: dict[str, Any] = Field(alias="x-server")


@pytest.fixture(scope="module")
def compose() -> Compose:
    return Compose.model_validate(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def settings_of(command: list[str]) -> ServeSettings:
    assert command[:4] == ["python3", "-m", "python_backend", "serve"]
    return read_settings(parse(command[3:]).flags, {})


def instruction(dockerfile: str, name: str) -> list[str]:
    text = (ROOT / dockerfile).read_text().replace("\\\n", "")
    return [line.removeprefix(name).strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def test_gpu_is_the_default_and_cpu_is_asked_for(compose: Compose) -> None:
    assert {name for name, service in compose.services.items() if not service.profiles} == {"gpu"}
    assert compose.services["cpu"].profiles == ["cpu"]


def test_image_is_the_pinned_one_unless_the_operator_says_otherwise(compose: Compose) -> None:
    assert compose.services["gpu"].build.args == {"TRITON_IMAGE": f"${{TRITON_IMAGE:-{TRITON_IMAGE}}}"}
    assert instruction("deploy/Dockerfile.gpu", "FROM") == ["${TRITON_IMAGE}"]


def test_gpu_service_reserves_gpus_and_what_tensorrt_llm_needs(compose: Compose) -> None:
    service = compose.services["gpu"]
    assert service.deploy is not None
    assert service.deploy.resources.reservations.devices[0].capabilities == ["gpu"]
    assert service.shm_size == "2g"
    assert service.ulimits == {"memlock": -1, "stack": 67108864}


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_only_this_machine_reaches_the_ports_and_nothing_is_written_to_volumes(compose: Compose, name: str) -> None:
    service, defaults = compose.services[name], ServeSettings()
    ports = (defaults.http_port, defaults.grpc_port, defaults.metrics_port)
    assert service.ports == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert {volume.rpartition(":")[2] for volume in service.volumes} == {"ro"}


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_health_is_asked_without_a_proxy_and_only_after_the_longest_start(compose: Compose, name: str) -> None:
    service = compose.services[name]
    [check] = instruction(service.build.dockerfile, "HEALTHCHECK")
    options, _, command = check.partition("CMD ")
    code = yaml.safe_load(command)[-1]
    compile(code, "healthcheck", "exec")
    assert f"127.0.0.1:{ServeSettings().http_port}/v2/health/ready" in code
    assert "ProxyHandler({})" in code  # Docker gives containers the proxy of its own configuration
    start_period = re.search(r"--start-period=(\d+)s", options)
    assert start_period is not None
    assert int(start_period[1]) >= settings_of(command_of(service)).startup_timeout_s


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_docker_waits_until_running_requests_have_finished(compose: Compose, name: str) -> None:
    service = compose.services[name]
    exit_timeout_s = settings_of(command_of(service)).exit_timeout_s
    assert int(service.stop_grace_period.removesuffix("s")) > exit_timeout_s + KILL_MARGIN_S


def command_of(service: Service) -> list[str]:
    """What runs in the container."""
    if service.command:
        return service.command.split()
    [entrypoint] = instruction(service.build.dockerfile, "ENTRYPOINT")
    program, *arguments = yaml.safe_load(entrypoint)
    assert program == "python"
    return ["python3", *arguments]


def test_containers_listen_to_the_outside(compose: Compose) -> None:
    for service in compose.services.values():
        assert settings_of(command_of(service)).host == "0.0.0.0"
    [command] = instruction("deploy/Dockerfile.gpu", "CMD")
    assert settings_of(yaml.safe_load(command)).profile == "tensorrt_llm"


def test_gpu_service_serves_the_engine_that_config_pbtxt_names(compose: Compose) -> None:
    service = compose.services["gpu"]
    settings = settings_of(command_of(service))
    model = ModelRepository.load(ROOT / "model_repository", settings.profile).models["tensorrt_llm"]
    assert service.environment == {"SLIPSTREAM_ENGINE_DIR": model.parameters["gpt_model_path"]}
    assert "./engines:/engines:ro" in service.volumes


def test_repository_is_mounted_where_the_launcher_looks(compose: Compose) -> None:
    for service in compose.services.values():
        assert f"./model_repository:{INSTALLED_AT}/{ServeSettings().model_repository}:ro" in service.volumes
        assert instruction(service.build.dockerfile, "WORKDIR")[-1] == INSTALLED_AT


def test_cpu_image_has_a_supported_python_the_same_in_both_stages() -> None:
    bases = {base.removesuffix(" AS build") for base in instruction("deploy/Dockerfile.cpu", "FROM")}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-bookworm", bases.pop())
    assert version is not None
    assert OLDEST_PYTHON <= (int(version[1]), int(version[2])) <= NEWEST_PYTHON


def test_cpu_image_does_not_run_as_root() -> None:
    assert instruction("deploy/Dockerfile.cpu", "USER") == ["slipstream"]


def test_cpu_image_builds_the_engine_that_config_pbtxt_names() -> None:
    model = ModelRepository.load(ROOT / "model_repository", "cpu").models["tensorrt_llm"]
    recipe = "recipes/smollm2-135m-int8.yaml"
    assert model.parameters["gpt_model_path"] == str(Recipe.read(ROOT / recipe).cpu_engine_dir)
    assert any(f"build_engines build {recipe}" in run for run in instruction("deploy/Dockerfile.cpu", "RUN"))


def test_what_the_dockerfiles_copy_is_let_through_to_the_builder() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / path).exists() for path in let_through)
    for needed in (
        "python_backend",
        "build_engines",
        "model_repository",
        "requirements",
        "pyproject.toml",
        "README.md",
    ):
        assert needed in let_through


def test_versions_are_those_of_the_locks_and_the_project() -> None:
    lock = (ROOT / "requirements/serve.txt").read_text().splitlines()
    project = (ROOT / "pyproject.toml").read_text()
    assert f"nvidia-pytriton=={PYTRITON}" in lock
    [numpy] = [line for line in lock if line.startswith("numpy==")]
    assert int(numpy.removeprefix("numpy==").partition(".")[0]) < NUMPY_BELOW
    after_newest = f"{NEWEST_PYTHON[0]}.{NEWEST_PYTHON[1] + 1}"
    assert f'requires-python = ">={OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]},<{after_newest}"' in project
