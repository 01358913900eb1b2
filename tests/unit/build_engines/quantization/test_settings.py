"""The recipe's quantization section: what it accepts, and what it means in TensorRT-LLM's words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from build_engines.quantization.settings import BUILT_IN_TEXT, CalibrationSettings, QuantizationSettings


@pytest.mark.parametrize(
    ("keys", "quant_algo", "group_size", "pre_quant_scale"),
    [
        ({}, None, None, False),
        ({"format": "int8_wo"}, "W8A16", None, False),
        ({"format": "int4_wo"}, "W4A16", None, False),
        ({"format": "int4_wo", "group_size": 64}, "W4A16_AWQ", 64, True),
        ({"format": "fp8"}, "FP8", None, False),
        ({"format": "int8_sq"}, "W8A8_SQ_PER_CHANNEL", None, False),
        ({"format": "int4_awq"}, "W4A16_AWQ", 128, True),
        ({"format": "w4a8_awq", "group_size": 64}, "W4A8_AWQ", 64, True),
        ({"format": "nvfp4"}, "NVFP4", 16, False),
        ({"format": "nvfp4", "group_size": 16}, "NVFP4", 16, False),
    ],
)
def test_formats(keys: dict[str, Any], quant_algo: str | None, group_size: int | None, pre_quant_scale: bool) -> None:
    made = QuantizationSettings.model_validate(keys).quantization()
    assert (made.quant_algo, made.group_size, made.pre_quant_scale) == (quant_algo, group_size, pre_quant_scale)
    assert made.kv_cache_quant_algo is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "fp8", "group_size": 128}, "group_size is 128; format fp8 has no groups"),
        ({"format": "nvfp4", "group_size": 32}, "group_size is 32; nvfp4 has groups of 16"),
        ({"format": "int3"}, "int4_awq"),
        ({"kv_cache": "fp4"}, "'fp8' or 'int8'"),
        ({"dtype": "float32"}, "'float16' or 'bfloat16'"),
        ({"calibration": {"samples": 0}}, "calibration.samples"),
        ({"calibration": {"file": ["a.txt"]}}, "calibration.file\n"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizationSettings.model_validate(keys)


def test_calibration_is_for_what_needs_it() -> None:
    needs = {name for name in ("none", "int8_wo", "int4_wo", "fp8", "nvfp4") if _settings(format=name).calibrated}
    assert needs == {"fp8", "nvfp4"}
    assert _settings(kv_cache="int8").calibrated
    assert _settings(kv_cache="int8").quantization().kv_cache_quant_algo == "INT8"


def test_samples_are_nvidias_unless_named() -> None:
    assert _settings(format="fp8").most_samples == 512
    assert _settings(format="w4a8_awq").most_samples == 32
    assert _settings(format="int4_awq", calibration={"samples": 100}).most_samples == 100


def test_every_key_explains_itself() -> None:
    for model in (QuantizationSettings, CalibrationSettings):
        schema = model.model_json_schema()["properties"]
        assert [key for key, value in schema.items() if "description" not in value and "$ref" not in value] == []


def test_the_built_in_text_is_there() -> None:
    assert CalibrationSettings().text_files == [BUILT_IN_TEXT]
    assert len(BUILT_IN_TEXT.read_text(encoding="utf-8")) > 30_000


def _settings(**keys: object) -> QuantizationSettings:
    return QuantizationSettings.model_validate(keys)
