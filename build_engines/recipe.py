"""The recipe: one YAML file that says which model is built, how it is quantized and spread, and into which engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from build_engines.checkpoint.config import CONFIG_FILE, CheckpointConfig
from build_engines.draft.settings import DraftSettings
from build_engines.draft.source import draft_config
from build_engines.quantization.settings import QuantizationSettings
from build_engines.sources.packaged_file import packaged_file
from build_engines.tensorrt_llm.settings import TensorRtLlmSettings
from build_engines.verification.settings import VerificationSettings
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

_PACKAGE = "package:"
_FROZEN = ConfigDict(extra="forbid", frozen=True)


class Parallel(BaseModel):
    """Over how many GPUs the weights are spread. The CPU engine takes any: it puts the ranks together again."""

    model_config = _FROZEN

    tp_size: int = Field(default=1, gt=0, description="Ranks that share every layer (tensor parallelism).")
    pp_size: int = Field(default=1, gt=0, description="Stages of consecutive layers (pipeline parallelism).")


class CpuSettings(BaseModel):
    """An engine for machines without a GPU."""

    model_config = _FROZEN

    engine_dir: Path | None = Field(default=None, description="Where to; engines/<name>-cpu when left out.")
    quantize_lm_head: bool | None = Field(
        default=None,
        description="INT8 for the lm_head and a tied embedding; when left out, if the layers are quantized.",
    )


class Recipe(BaseModel):
    """Paths are relative to the recipe's own folder; results go to checkpoints/ and engines/ where it is run."""

    model_config = _FROZEN

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the results' folders.")
    source: str = Field(
        description="A Hugging Face directory or a .gguf file; package:<module>/<file> for one inside a Python package."
    )
    expects: Path | None = Field(
        default=None,
        description="The config.json of the model that is meant. A source of other dimensions is refused, and "
        "--dry-run and plan work without the source.",
    )
    merge_lora: Path | None = Field(default=None, description="A PEFT adapter to add to the weights before all else.")
    draft: DraftSettings | None = Field(default=None, description="Build a draft model for the source, the target.")
    quantization: QuantizationSettings = QuantizationSettings()
    parallel: Parallel = Parallel()
    max_seq_len: int | None = Field(
        default=None,
        gt=0,
        description="Most tokens of prompt and output together; the model's own limit when left out.",
    )
    verification: VerificationSettings = VerificationSettings()
    tensorrt_llm: TensorRtLlmSettings | None = Field(default=None, description="Build a TensorRT-LLM engine.")
    cpu: CpuSettings | None = Field(default=None, description="Build a CPU engine.")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Raises SetupError that names the file, the key and its value."""
        try:
            keys = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
        except OSError as error:
            raise SetupError(f"{path} cannot be read ({error.strerror}).") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SetupError(f"{path} is no valid YAML ({' '.join(str(error).split())}).") from error
        if not isinstance(keys, dict):
            raise SetupError(f"{path} holds no keys; a recipe begins with name: and source:.")
        try:
            recipe = cls.model_validate(keys)
        except ValidationError as error:
            raise SetupError(f"{path}: {first_problem(error, cls)}") from error
        return recipe._relative_to(path.parent)

    @property
    def checkpoint_dir(self) -> Path:
        return Path("checkpoints") / self.name

    @property
    def cpu_engine_dir(self) -> Path:
        own = self.cpu and self.cpu.engine_dir
        return own.expanduser() if own else Path("engines") / f"{self.name}-cpu"

    @property
    def tensorrt_llm_engine_dir(self) -> Path:
        own = self.tensorrt_llm and self.tensorrt_llm.engine_dir
        return own.expanduser() if own else Path("engines") / self.name

    def source_path(self) -> Path:
        """Raises SetupError when it is in a package that is not installed."""
        if self.source.startswith(_PACKAGE):
            return packaged_file(self.source.removeprefix(_PACKAGE))
        return Path(self.source)

    def built_config(self, source: CheckpointConfig) -> CheckpointConfig:
        """The dimensions of what is built of ``source``: its own, or its draft's."""
        return draft_config(source, self.draft) if self.draft else source

    @model_validator(mode="after")
    def _named_config(self) -> Recipe:
        if self.expects and self.expects.name != CONFIG_FILE:
            raise ValueError(f"expects is {self.expects}; it must be a {CONFIG_FILE} as Hugging Face has it")
        return self

    @model_validator(mode="after")
    def _draft_of_the_source(self) -> Recipe:
        if self.draft and self.merge_lora:
            raise ValueError("draft: and merge_lora: cannot be had together; train the draft for the merged model")
        return self

    @model_validator(mode="after")
    def _some_engine(self) -> Recipe:
        if self.tensorrt_llm is None and self.cpu is None:
            raise ValueError("the recipe builds no engine; add tensorrt_llm: or cpu:, with {} for all defaults")
        if self.tensorrt_llm and self.cpu and self.tensorrt_llm_engine_dir == self.cpu_engine_dir:
            raise ValueError(f"both engines go to {self.cpu_engine_dir}; each needs an engine_dir of its own")
        return self

    def _relative_to(self, folder: Path) -> Recipe:
        def at(path: Path) -> Path:
            return folder / path.expanduser()

        changes: dict[str, Any] = {}
        if not self.source.startswith(_PACKAGE):
            changes["source"] = str(at(Path(self.source)))
        if self.expects:
            changes["expects"] = at(self.expects)
        if self.merge_lora:
            changes["merge_lora"] = at(self.merge_lora)
        if self.draft:
            text = self.draft.text.model_copy(update={"prompts": [at(file) for file in self.draft.text.prompts]})
            changes["draft"] = self.draft.model_copy(update={"weights": at(self.draft.weights), "text": text})
        calibration = self.quantization.calibration
        moved = calibration.model_copy(update={"files": [at(file) for file in calibration.files]})
        changes["quantization"] = self.quantization.model_copy(update={"calibration": moved})
        if isinstance(self.verification.text, list):
            texts = [at(file) for file in self.verification.text]
            changes["verification"] = self.verification.model_copy(update={"text": texts})
        return self.model_copy(update=changes)


class _StrictLoader(yaml.SafeLoader):
    """YAML as usual, but a key that is there twice is an error and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f'key "{key}" is there twice', key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
