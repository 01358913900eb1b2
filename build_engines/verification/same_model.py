"""What verification compares: a source and a checkpoint that should be the same model."""

from __future__ import annotations

from typing import Protocol

from build_engines.checkpoint.config import CheckpointConfig, Quantization
from build_engines.checkpoint.dtypes import Array
from python_backend.errors import SetupError

#: What quantizing and sharding may change.
_FREE = {"dtype", "logits_dtype", "mapping", "quantization", "use_parallel_embedding"}


class Model(Protocol):
    """A ``ModelSource`` or a ``Checkpoint``: dimensions, and whole tensors by their names in ``tensor_table``."""

    @property
    def config(self) -> CheckpointConfig: ...

    def tensor(self, name: str) -> Array: ...


def check_same_model(source: CheckpointConfig, checkpoint: CheckpointConfig) -> None:
    """Raises SetupError that names the first key in which a checkpoint describes another model than its source."""
    expected, found = source.model_dump(exclude=_FREE), checkpoint.model_dump(exclude=_FREE)
    for key, value in expected.items():
        if found[key] != value:
            raise SetupError(
                f"the checkpoint's {key} is {found[key]!r} and its source's is {value!r}: "
                "it is not this model. Make the checkpoint again from this source."
            )


def as_stored(config: CheckpointConfig) -> CheckpointConfig:
    """The same, with W8A16 and W4A16 read as the plain weights that their checkpoints hold."""
    if config.quantization.quant_algo not in ("W8A16", "W4A16"):
        return config
    plain = config.quantization.model_copy(update={"quant_algo": None})
    return config.changed(quantization=plain.model_dump())


def unquantized(config: CheckpointConfig) -> CheckpointConfig:
    """The same model in one piece, as its source holds it."""
    return config.changed(quantization=Quantization().model_dump())
