"""What is kept of a trained draft: its layers in INT8, its last norm, its vocabulary. All else is the target's.

Two of SmolLM2-135M's layers are 7 MB so, small enough to travel with a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import save_file

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.draft_vocabulary import TokenIds, vocabulary_problem
from build_engines.checkpoint.dtypes import FLOAT32, INT8, Array
from build_engines.checkpoint.safetensors_file import SafetensorsFile, TensorType
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, tensor_table
from build_engines.quantization.weight_only import quantize_int8
from build_engines.quantization.weights import Floats, Int8Weight
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError, did_you_mean

WEIGHTS_FILE, EVALUATION_FILE = "layers.safetensors", "evaluation.json"
_VOCABULARY = "draft_vocabulary"


class Acceptance(BaseModel):
    """How much of the draft its target accepts, on text that the target wrote and the draft has not seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    greedy: float = Field(
        description="Share of the tokens of greedy text at which the draft proposes what the target says."
    )
    greedy_tokens: int
    accepted_tokens: dict[int, float] = Field(
        description="By draft length: how many tokens of a draft are accepted, mean over the rounds of greedy text."
    )
    sampled: float | None = Field(
        description="Mean of sum(min(p target, p draft)), the chance that a sampled draft token is accepted at "
        "temperature 1 (Leviathan et al., 2023); none where no held-out text was sampled so."
    )
    sampled_tokens: int
    coverage: float = Field(description="Share of the greedy tokens that are in the draft's vocabulary.")


class DraftEvaluation(BaseModel):
    """What the draft was made from, and how good it was found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target_sha256: str
    layers: list[int] = Field(description="The target's layers that the draft began as.")
    steps: int = Field(description="Of training.")
    training_tokens: int
    acceptance: Acceptance
    untrained: Acceptance = Field(description="The same before the first step.")


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """``weights`` by their names in ``tensor_table``: matrices in INT8, gains and biases float32.

    ``vocabulary`` is None where the draft may propose all tokens.
    """

    weights: Mapping[str, Int8Weight | Floats]
    vocabulary: TokenIds | None

    @classmethod
    def quantized(cls, tensors: Mapping[str, Array], vocabulary: TokenIds | None) -> DraftWeights:
        return cls(
            {n: quantize_int8(w) if w.ndim == 2 else w.astype(np.float32) for n, w in tensors.items()}, vocabulary
        )

    @classmethod
    def read(cls, folder: Path, config: CheckpointConfig) -> DraftWeights:
        """Those of a draft with this ``config``. Raises SetupError when they are missing, or another model's."""
        file = SafetensorsFile(folder / WEIGHTS_FILE)
        _check(file, config)
        vocabulary = file.tensor(_VOCABULARY) if _VOCABULARY in file.tensors else None
        problem = None if vocabulary is None else vocabulary_problem(vocabulary, config.vocab_size)
        if problem:
            raise SetupError(f"{file.path}: {_VOCABULARY} {problem}. Make the draft again.")
        weights: dict[str, Int8Weight | Floats] = {}
        for name in trained_tensors(config):
            values = file.tensor(name)
            weights[name] = Int8Weight(values, file.tensor(_scales(name))) if values.ndim == 2 else values
        return cls(weights, vocabulary)

    def write(self, folder: Path) -> None:
        tensors: dict[str, Array] = {}
        for name, weight in self.weights.items():
            if isinstance(weight, Int8Weight):
                tensors |= {name: weight.integers, _scales(name): weight.scales}
            else:
                tensors[name] = weight
        if self.vocabulary is not None:
            tensors[_VOCABULARY] = self.vocabulary
        save_file(tensors, folder / WEIGHTS_FILE)

    def tensor(self, name: str) -> Floats:
        """As the model computes with it: float32."""
        weight = self.weights[name]
        return weight.dequantize() if isinstance(weight, Int8Weight) else weight


def _check(file: SafetensorsFile, config: CheckpointConfig) -> None:
    """Raises SetupError for the first tensor that this draft does not have, or has in another type or shape."""
    expected: dict[str, TensorType] = {}
    for name in trained_tensors(config):
        shape = tensor_table(config)[name].whole.shape
        expected[name] = TensorType(INT8 if len(shape) == 2 else FLOAT32, shape)
        if len(shape) == 2:
            expected[_scales(name)] = TensorType(FLOAT32, shape[:1])
    for name in file.tensors:
        if name not in expected and name != _VOCABULARY:
            raise SetupError(f'{file.path}: unknown tensor "{name}"{did_you_mean(name, expected)}')
    for name, kind in expected.items():
        if file.tensors.get(name) != kind:
            raise SetupError(
                f'{file.path}: tensor "{name}" is {file.tensors.get(name, "missing")}; the draft calls for {kind}. '
                "Is it a draft for another target? Make it with `python -m build_engines draft RECIPE`."
            )


def _scales(weight: str) -> str:
    return weight.removesuffix("weight") + "weights_scaling_factor"


def trained_tensors(config: CheckpointConfig) -> list[str]:
    """The names of what a draft does not share with its target."""
    return [name for name in tensor_table(config) if name not in (EMBEDDING, LM_HEAD)]


def read_evaluation(folder: Path) -> DraftEvaluation:
    """Raises SetupError when it is missing or broken."""
    path = folder / EVALUATION_FILE
    try:
        return DraftEvaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}). Make the draft again.") from error
    except ValidationError as error:
        raise SetupError(f"{path}: {first_problem(error, DraftEvaluation)}. Make the draft again.") from error
