"""What an operator can set: each setting is a flag and an environment variable, checked before anything starts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from python_backend.errors import SetupError, did_you_mean
from python_backend.launcher.command import ServerOptions
from python_backend.launcher.ports import Ports

PREFIX = "SLIPSTREAM_"


class ServeSettings(BaseModel):
    """All settings of ``serve``. Descriptions are the help texts; times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_repository: Path = Field(default=Path("model_repository"), description="folder of the models")
    engine_dir: Path | None = Field(
        default=None,
        description="engine to serve, with its tokenizer; otherwise the one that each config.pbtxt names",
    )
    profile: str = Field(
        default="cpu",
        description="configs/<profile>.pbtxt of each model; tensorrt_llm is config.pbtxt itself, for GPUs",
    )
    models: tuple[str, ...] = Field(
        default=(), description="serve only these, separated by commas, and what their ensembles need"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 lets other machines in")
    http_port: int = Field(default=Ports().http, ge=1, le=65535, description="port for HTTP")
    grpc_port: int = Field(default=Ports().grpc, ge=1, le=65535, description="port for gRPC")
    metrics_port: int = Field(default=Ports().metrics, ge=1, le=65535, description="port for Prometheus metrics")
    startup_timeout_s: float = Field(default=120.0, gt=0, description="how long loading may take")
    watchdog_interval_s: float = Field(
        default=5.0,
        ge=0,
        description="pause between the one-token requests that show whether the server still serves; 0: none",
    )
    exit_timeout_s: int = Field(default=10, ge=0, description="how long running requests may take to finish at the end")
    log_verbose: bool = Field(default=False, description="show the whole log of the server, with details")
    dry_run: bool = Field(default=False, description="print the command and its environment, start nothing")

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @property
    def server_options(self) -> ServerOptions:
        """The part that the server is started with."""
        return ServerOptions(
            model_repository=self.model_repository,
            profile=self.profile,
            engine_dir=self.engine_dir,
            models=self.models,
            host=self.host,
            ports=Ports(self.http_port, self.grpc_port, self.metrics_port),
            exit_timeout_s=self.exit_timeout_s,
            log_verbose=self.log_verbose,
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, with its default and environment variable in the help."""
    for name, setting in ServeSettings.model_fields.items():
        help_text = f"{setting.description} ({_default(setting)}{_variable(name)})"
        # Without SUPPRESS, a flag that is not given would hide the environment variable.
        if setting.annotation is bool:
            action: Any = argparse.BooleanOptionalAction
            parser.add_argument(_flag(name), dest=name, action=action, default=argparse.SUPPRESS, help=help_text)
        else:
            metavar = _short(name).rpartition("_")[2].upper()
            parser.add_argument(_flag(name), dest=name, metavar=metavar, default=argparse.SUPPRESS, help=help_text)


def read_settings(flags: Mapping[str, object], environment: Mapping[str, str]) -> ServeSettings:
    """Flags win over the environment, which wins over defaults. SetupError names the flag or variable that is wrong."""
    variables = {_variable(name): name for name in ServeSettings.model_fields}
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    for name in given:
        if name not in variables:
            raise SetupError(
                f"unset or correct the environment variable {name}, which nothing reads{did_you_mean(name, variables)}"
            )
        if not environment[name]:
            raise SetupError(f"the environment variable {name} is empty: unset it, or give it a value.")
    from_environment: dict[str, object] = {variables[name]: value for name, value in given.items()}
    try:
        return ServeSettings.model_validate(from_environment | dict(flags))
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        source = _flag(name) if name in flags else _variable(name)
        raise SetupError(f"{source} is {problem['input']!r}: {problem['msg']}.") from error


def _short(name: str) -> str:
    return name.removesuffix("_s")  # the unit is part of the name inside, and of the help outside


def _flag(name: str) -> str:
    return "--" + _short(name).replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + _short(name).upper()


def _default(setting: FieldInfo) -> str:
    default = setting.default
    shown = f"{default:g} s" if isinstance(default, float) else default
    return "" if default in (None, (), False) else f"default {shown}; "
