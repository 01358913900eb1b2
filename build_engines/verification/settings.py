"""The section ``verification:`` of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class ThresholdSettings(BaseModel):
    """What stops a build. Each that is left out has a default for the checkpoint's format."""

    model_config = _FROZEN

    max_weight_error: float | None = Field(
        default=None,
        ge=0,
        description="Largest |W' - W| / |W| of a linear layer, columns divided by its prequant scales.",
    )
    max_kl_divergence: float | None = Field(
        default=None, ge=0, description="Mean KL(source || checkpoint) a token, in nats."
    )
    min_top1_agreement: float | None = Field(
        default=None, ge=0, le=1, description="Share of tokens for which both find the same one likeliest."
    )
    max_perplexity_ratio: float | None = Field(
        default=None, gt=0, description="The checkpoint's perplexity over its source's."
    )


class VerificationSettings(BaseModel):
    """Whether a checkpoint still computes its source."""

    model_config = _FROZEN

    text: Literal["none", "default"] | list[Path] = Field(
        default="default",
        description="Text to compare predictions on: UTF-8 files, docstrings of Python's library, or none "
        "(then only weights are compared, which needs no PyTorch).",
    )
    max_tokens: int = Field(default=8192, ge=2, description="Most tokens of text to use.")
    sequence_tokens: int = Field(default=512, ge=2, description="Tokens that are predicted in one piece.")
    simulate: bool = Field(
        default=True, description="Round activations and the KV cache as an engine does, besides the weights."
    )
    thresholds: ThresholdSettings = ThresholdSettings()
