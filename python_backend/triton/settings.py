"""The parameters of a model's config.pbtxt, as typed values."""

from __future__ import annotations

import json
import logging
import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from python_backend.contract import TENSORRT_LLM_DRAFT
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.graph_copies import affordable_copies
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
    files: ClassVar[tuple[str, ...]] = ()  # parameters that name a file or a folder, or none
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
            # The variable names what is served; a draft is chosen in its own config.pbtxt.
            override = None if args["model_name"] == TENSORRT_LLM_DRAFT.name else os.environ.get(ENGINE_DIR_VARIABLE)
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
            value = f'parameter "{name}" of config.pbtxt is {first["input"]!r}' if name else "config.pbtxt"
            raise SetupError(f"{args['model_name']}: {value}: {first['msg'].removeprefix('Value error, ')}") from error


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


class Drafting(Enum):
    """Where `tensorrt_llm_bls` gets draft tokens from."""

    NONE = "none"
    NGRAM = "ngram"
    DRAFT_MODEL = "draft_model"
    ENGINE = "engine"

    @property
    def is_in_engine(self) -> bool:
        """No draft comes from outside the target."""
        return self in (Drafting.NONE, Drafting.ENGINE)


class BlsSettings(ModelSettings):
    """Parameters of ``tensorrt_llm_bls``."""

    engine_dirs = ("tokenizer_dir",)
    tokenizer_dir: Path
    tensorrt_llm_model_name: str = "tensorrt_llm"
    tensorrt_llm_draft_model_name: str = ""
    target_backend: Literal["tensorrtllm", "python"] = "tensorrtllm"
    drafter: Drafting = Drafting.NONE
    num_draft_tokens: Annotated[int, Field(ge=0)] = 0
    max_draft_len: Annotated[int, Field(ge=0)] = 0
    exclude_input_in_output: Flag = False
    skip_special_tokens: Flag = True
    accumulate_tokens: Flag = False
    max_concurrent_requests: Count = 256
    cancellation_check_period_ms: Count = 100
    stats_check_period_ms: Count = 100

    @model_validator(mode="after")
    def _agrees(self) -> BlsSettings:
        if self.drafter is Drafting.ENGINE and self.target_backend != "python":
            raise ValueError('drafter "engine" needs target_backend "python": TensorRT-LLM drafts nothing by itself')
        if (self.drafter is Drafting.DRAFT_MODEL) != bool(self.tensorrt_llm_draft_model_name):
            raise ValueError('drafter "draft_model" and tensorrt_llm_draft_model_name go together: set both or none')
        if self.num_draft_tokens > self.max_draft_len:
            raise ValueError(f"num_draft_tokens is {self.num_draft_tokens}, above max_draft_len {self.max_draft_len}")
        if (self.drafter is Drafting.NONE) != (self.max_draft_len == 0):
            raise ValueError('max_draft_len is 0 when drafter is "none", and above 0 otherwise')
        return self


class CpuEngineSettings(ModelSettings):
    """Parameters of ``tensorrt_llm`` in the profiles that run the CPU engine."""

    engine_dirs = ("gpt_model_path", "tokenizer_dir")
    files = ("prewarm_file", "draft_engine_dir")
    gpt_model_path: Path
    tokenizer_dir: Path
    exclude_input_in_output: Flag = False
    skip_special_tokens: Flag = True
    batch_scheduler_policy: CapacityPolicy = CapacityPolicy.GUARANTEED_NO_EVICT
    max_running_sequences: Count = 64
    max_num_tokens: Count = 512
    enable_chunked_context: Flag = True
    max_queue_size: Annotated[int, Field(ge=0)] = 0
    max_queue_size_per_tenant: Annotated[int, Field(ge=0)] = 0
    max_tokens_in_paged_kv_cache: Count = 16384
    enable_kv_cache_reuse: Flag = True
    enable_partial_reuse: Flag = True
    prewarm_file: OptionalPath = None
    add_special_tokens: Flag = True
    max_draft_len: Annotated[int, Field(ge=0)] = 16
    drafter: Literal["none", "ngram", "draft_model"] = "none"
    draft_engine_dir: OptionalPath = None
    max_tokens_in_draft_kv_cache: Count = 8192
    execution_mode: ExecutionMode = ExecutionMode.FAST
    num_threads: Annotated[int, Field(ge=0)] = 0
    num_graphs: Annotated[int, Field(ge=0, le=8)] = 0
    cancellation_check_period_ms: Count = 100
    stats_check_period_ms: Count = 100

    @property
    def graphs(self) -> int:
        """Copies of the model that the engine compiles."""
        if self.drafter == "none":
            return self.num_graphs or 1
        return self.num_graphs or affordable_copies(self.gpt_model_path)

    @model_validator(mode="after")
    def _names_the_draft(self) -> CpuEngineSettings:
        if self.drafter == "draft_model" and self.draft_engine_dir is None:
            raise ValueError('drafter "draft_model" needs draft_engine_dir, the folder of its engine')
        return self
