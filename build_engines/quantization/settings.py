"""What a recipe says of quantization: its ``quantization:`` section."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from build_engines.checkpoint.config import Quantization

Format = Literal["none", "int8_wo", "int4_wo", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]

#: Text for those who name none: public-domain classics in some languages, and dialogue, code and data of our own.
BUILT_IN_TEXT = Path(__file__).with_name("calibration.txt")

_NVFP4_GROUP = 16
_USUAL_GROUP = 128
#: As in NVIDIA's quantize.py, which lets AWQ have no more: it searches over scales, and each trial is a forward pass.
_USUAL_SAMPLES = 512
_AWQ_SAMPLES = 32
_FROZEN = ConfigDict(extra="forbid", frozen=True)


class CalibrationSettings(BaseModel):
    """The text that runs through the model to find the range of its activations, and how much of it."""

    model_config = _FROZEN

    files: list[Path] = Field(
        default=[],
        description="UTF-8 text files like what the model will be asked and answer; a small built-in text when left "
        "out. All of them are read and tokenized: some megabytes are plenty.",
    )
    samples: int | None = Field(
        default=None,
        gt=0,
        description="How many samples, taken evenly from the whole text; when left out, as many as the text gives, at "
        "most 512, for AWQ formats 32. Time grows with them.",
    )
    max_tokens: int = Field(default=512, gt=1, description="Tokens a sample.")
    batch_size: int = Field(default=8, gt=0, description="Samples that run through the model together.")

    @property
    def text_files(self) -> list[Path]:
        """The files that are read: the result depends on their content."""
        return self.files or [BUILT_IN_TEXT]


class QuantizationSettings(BaseModel):
    """In which form the linear layers are stored, and the KV cache is kept. The lm_head is never quantized here."""

    model_config = _FROZEN

    format: Format = Field(
        default="none",
        description="none: 16-bit weights. int8_wo, int4_wo: weight-only, without calibration; engines quantize while "
        "they are built, one scale an output channel (W8A16, W4A16). fp8: weights and activations (GPUs from Ada and "
        "Hopper on). int8_sq: SmoothQuant. int4_awq: 4-bit weights with searched scales. w4a8_awq: the same with FP8 "
        "activations. nvfp4: 4-bit floats (Blackwell).",
    )
    dtype: Literal["float16", "bfloat16"] | None = Field(
        default=None,
        description="The type of all that is not quantized; the source's own when left out. A float32 source needs a "
        "choice.",
    )
    kv_cache: Literal["fp8", "int8"] | None = Field(
        default=None, description="Store the KV cache in 8 bits, with scales that are calibrated; dtype when left out."
    )
    group_size: int | None = Field(
        default=None,
        gt=1,
        description="Inputs that share a scale. int4_awq and w4a8_awq: 128 when left out. int4_wo: one scale an output "
        "channel when left out. nvfp4: always 16. Must divide the inputs of every layer on every rank.",
    )
    calibration: CalibrationSettings = CalibrationSettings()

    @model_validator(mode="after")
    def _groups(self) -> QuantizationSettings:
        if self.format == "nvfp4" and self.group_size not in (None, _NVFP4_GROUP):
            raise ValueError(f"group_size is {self.group_size}; nvfp4 has groups of {_NVFP4_GROUP}, leave it out")
        if self.format in ("none", "int8_wo", "fp8", "int8_sq") and self.group_size is not None:
            raise ValueError(f"group_size is {self.group_size}; format {self.format} has no groups, leave it out")
        return self

    @property
    def needs_modelopt(self) -> bool:
        """Whether the weights are made by ModelOpt."""
        return self.format not in ("none", "int8_wo", "int4_wo")

    @property
    def calibrated(self) -> bool:
        """Whether text has to run through the model, which takes ModelOpt, torch and transformers."""
        return self.needs_modelopt or self.kv_cache is not None

    @property
    def most_samples(self) -> int:
        """How many calibration samples are wanted."""
        return self.calibration.samples or (_AWQ_SAMPLES if self.format.endswith("_awq") else _USUAL_SAMPLES)

    def quantization(self) -> Quantization:
        """The same in TensorRT-LLM's words."""
        kv_cache = {None: None, "fp8": "FP8", "int8": "INT8"}[self.kv_cache]
        keys: dict[str, object] = {"kv_cache_quant_algo": kv_cache}
        match self.format:
            case "none":
                pass
            case "int8_wo":
                keys |= {"quant_algo": "W8A16"}
            case "int4_wo" if self.group_size is None:
                keys |= {"quant_algo": "W4A16"}
            case "int4_wo":
                keys |= {"quant_algo": "W4A16_AWQ", "group_size": self.group_size, "pre_quant_scale": True}
            case "fp8":
                keys |= {"quant_algo": "FP8"}
            case "int8_sq":
                keys |= {"quant_algo": "W8A8_SQ_PER_CHANNEL"}
            case "int4_awq" | "w4a8_awq":
                algo = {"int4_awq": "W4A16_AWQ", "w4a8_awq": "W4A8_AWQ"}[self.format]
                keys |= {"quant_algo": algo, "group_size": self.group_size or _USUAL_GROUP, "pre_quant_scale": True}
            case "nvfp4":
                keys |= {"quant_algo": "NVFP4", "group_size": _NVFP4_GROUP}
        return Quantization.model_validate(keys)
