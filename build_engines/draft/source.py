"""A trained draft as a model to build: quantized, sharded, verified and compiled like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.draft_vocabulary import DRAFT_VOCABULARY_FILE, draft_vocabulary_bytes
from build_engines.checkpoint.dtypes import Array
from build_engines.content_hash import sha256_of
from build_engines.draft.settings import DraftSettings
from build_engines.draft.weights_file import (
    EVALUATION_FILE,
    WEIGHTS_FILE,
    DraftEvaluation,
    DraftWeights,
    read_evaluation,
)
from build_engines.sources.model_source import ModelSource
from python_backend.errors import SetupError


class DraftSource:
    """A ``ModelSource``: trained layers between the embedding and the head of ``target``.

    Its checkpoint is an ordinary one with the whole head; ``draft_vocabulary.npy`` lies beside it.
    """

    def __init__(self, target: ModelSource, settings: DraftSettings) -> None:
        """Raises SetupError when the draft has not been made, or for another target."""
        self._target, self._folder = target, settings.weights
        self.config: CheckpointConfig = draft_config(target.config, settings)
        for name in (WEIGHTS_FILE, EVALUATION_FILE):
            if not (self._folder / name).is_file():
                raise SetupError(
                    f"{self._folder / name} does not exist. Make it with `python -m build_engines draft RECIPE`."
                )
        self.evaluation: DraftEvaluation = read_evaluation(self._folder)
        self._check("layers", self.evaluation.layers, settings.layers)
        self._weights = DraftWeights.read(self._folder, self.config)
        vocabulary = self._weights.vocabulary
        self._check("vocab_size", None if vocabulary is None else len(vocabulary), settings.vocab_size)

    @property
    def files(self) -> Mapping[str, bytes]:
        files = dict(self._target.files)
        files["draft_evaluation.json"] = (self._folder / EVALUATION_FILE).read_bytes()
        if self._weights.vocabulary is not None:
            files[DRAFT_VOCABULARY_FILE] = draft_vocabulary_bytes(self._weights.vocabulary)
        return files

    @property
    def notices(self) -> tuple[str, ...]:
        if self.evaluation.target_sha256 == self._target.sha256():
            return self._target.notices
        other = "the draft was trained for another model of the same shape: its drafts will be accepted less often"
        return (*self._target.notices, other)

    def tensor(self, name: str) -> Array:
        """As the target's, but for what was trained."""
        return self._weights.tensor(name) if name in self._weights.weights else self._target.tensor(name)

    def _check(self, key: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise SetupError(
                f"{self._folder} holds a draft with {key} {found}; the recipe asks for {wanted}. "
                "Make it again with `python -m build_engines draft RECIPE`, or change the recipe."
            )

    def sha256(self) -> str:
        """Identifies the target's content and the draft's."""
        own = sha256_of(self._folder / WEIGHTS_FILE, self._folder / EVALUATION_FILE)
        return hashlib.sha256(f"{self._target.sha256()} {own}".encode()).hexdigest()


def draft_config(target: CheckpointConfig, settings: DraftSettings) -> CheckpointConfig:
    """The target's dimensions with fewer layers. Raises SetupError for what this target does not have."""
    for layer in settings.layers:
        if not 0 <= layer < target.num_hidden_layers:
            raise SetupError(
                f"draft.layers names layer {layer}; the target's are 0 to {target.num_hidden_layers - 1}. "
                "Name layers that it has."
            )
    if settings.vocab_size is not None and settings.vocab_size > target.vocab_size:
        raise SetupError(
            f"draft.vocab_size is {settings.vocab_size}; the target has {target.vocab_size} tokens. "
            "Lower it, or leave it out."
        )
    return target.changed(num_hidden_layers=len(settings.layers))
