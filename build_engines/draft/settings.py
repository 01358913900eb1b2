"""The recipe's ``draft:`` section: what the draft model is, and how it is made."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class TextSettings(BaseModel):
    """The text that the target writes, for the draft to learn from and to be evaluated on."""

    model_config = _FROZEN

    tokens: int = Field(default=200_000, gt=0, description="Tokens to learn from, at least.")
    held_out_tokens: int = Field(default=8_000, gt=0, description="Tokens to be evaluated on, at least.")
    max_tokens: int = Field(default=320, ge=16, description="Most tokens of a prompt and its answer together.")
    batch_size: int = Field(default=96, gt=0, description="Texts that are written at once.")
    temperatures: list[float] = Field(
        default=[0.0, 0.0, 0.7, 1.0],
        min_length=1,
        description="Taken in turns, text by text: 0 is greedy. The evaluation looks at 0 and 1.",
    )
    prompts: list[Path] = Field(
        default=[], description="UTF-8 files of requests, one a line; built-in ones when left out."
    )

    @model_validator(mode="after")
    def _greedy(self) -> TextSettings:
        if 0 not in self.temperatures or min(self.temperatures) < 0:
            raise ValueError(
                f"draft.text.temperatures are {self.temperatures}; none may be negative, and 0 must be among them, "
                "for the draft is evaluated on greedy text"
            )
        return self


class TrainingSettings(BaseModel):
    """Distillation: AdamW, warmed up and then decayed to zero by a cosine."""

    model_config = _FROZEN

    steps: int = Field(default=1500, gt=0)
    batch_size: int = Field(default=8, gt=0, description="Texts a step.")
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    greedy_weight: float = Field(
        default=0.5,
        ge=0,
        description="Weight of the cross entropy with the target's likeliest token, beside the KL divergence.",
    )


class DraftSettings(BaseModel):
    """The recipe's source is the target; what is built is a draft model for it."""

    model_config = _FROZEN

    weights: Path = Field(description="The folder that `python -m build_engines draft` writes and `build` reads.")
    layers: list[int] = Field(min_length=1, description="The target's layers that the draft begins as.")
    vocab_size: int | None = Field(
        default=None,
        gt=0,
        description="How many of the target's tokens the draft may propose, the most frequent ones; all when left out.",
    )
    seed: int = Field(default=0, ge=0)
    text: TextSettings = TextSettings()
    training: TrainingSettings = TrainingSettings()
