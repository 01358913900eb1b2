"""The parameters of a model's config.pbtxt, as typed values."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.manifest import ENGINE_DIR_VARIABLE
from python_backend.errors import SetupError, did_you_mean
from python_backend.scheduling.scheduler_config import CapacityPolicy

log = logging.getLogger(__name__)

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "t", "yes", "y"), True),
    **dict.fromkeys(("false", "0", "f", "no", "n"), False),
}


def _boolean(value: Any) -> Any:
    """NVIDIA's spellings of a boolean; anything else is left for pydantic to refuse."""
    return _BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(_boolean)]
Count = Annotated[int, Field(ge=1)]
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: value or None)]  # an empty string: none
Self = TypeVar("Self", bound="ModelSettings")


class ModelSettings(BaseModel):
    """Base of the settings of one model; a subclass has one field per parameter."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    files: ClassVar[tuple[str, ...]] = ()  # parameters that name a file, or none
    engine_dirs: ClassVar[tuple[str, ...]] = ()  # parameters that name the engine's folder; ENGINE_DIR_VARIABLE wins

    @classmethod
    def of(cls: type[Self], args: dict[str, str]) -> Self:
        """The settings in the arguments of ``TritonPythonModel.initialize``.

        Relative paths start at the folder that holds the model repository. Raises SetupError for a parameter that
        does not exist (naming the nearest that does) or whose value is refused.
        """
        config = json.loads(args["model_config"])
        values = {key: entry["string_value"] for key, entry in config.get("parameters", {}).items()}
        for key in values:
            if key not in cls.model_fields:
                raise SetupError(
                    f'{args["model_name"]}: config.pbtxt has a parameter "{key}" that nothing reads'
                    f"{did_you_mean(key, cls.model_fields)}"
                )
        base = Path(args["model_repository"]).resolve().parents[1]
        for key in cls.engine_dirs:
            override = os.environ.get(ENGINE_DIR_VARIABLE)
            if override:
                log.info("%s: %s=%s (from %s)", args["model_name"], key, override, ENGINE_DIR_VARIABLE)
            values[key] = str(base / (override or values.get(key, "")))
        for key in cls.files:
            if values.get(key):
                values[key] = str(base / values[key])
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise SetupError(
                f'{args["model_name"]}: parameter "{name}" of config.pbtxt is {first["input"]!r}: {first["msg"]}'
            ) from error


class PreprocessingSettings(ModelSettings):
    """Parameters of ``preprocessing``."""

    engine_dirs = ("tokenizer_dir",)
    tokenizer_dir: Path
    add_special_tokens: Flag = True


class PostprocessingSettings(ModelSettings):
    """Parameters of ``postprocessing``."""

    engine_dirs = ("tokenizer_dir",)
    tokenizer_dir: Path
    skip_special_tokens: Flag = True
    max_open_streams: Count = 4096


class CpuEngineSettings(ModelSettings):
    """Parameters of ``tensorrt_llm`` in the profiles that run the CPU engine."""

    engine_dirs = ("gpt_model_path", "tokenizer_dir")
    files = ("prewarm_file",)
    gpt_model_path: Path
    tokenizer_dir: Path
    exclude_input_in_output: Flag = False
    skip_special_tokens: Flag = True
    batch_scheduler_policy: CapacityPolicy = CapacityPolicy.GUARANTEED_NO_EVICT
    max_running_sequences: Count = 64
    max_num_tokens: Count = 512
    enable_chunked_context: Flag = True
    max_queue_size: Annotated[int, Field(ge=0)] = 0
    max_tokens_in_paged_kv_cache: Count = 16384
    enable_kv_cache_reuse: Flag = True
    prewarm_file: OptionalPath = None
    add_special_tokens: Flag = True
    execution_mode: ExecutionMode = ExecutionMode.FAST
    num_threads: Annotated[int, Field(ge=0)] = 0
    cancellation_check_period_ms: Count = 100
    stats_check_period_ms: Count = 100
