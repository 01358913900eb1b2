"""The TensorRT-LLM checkpoint directory, ``config.json`` and ``rank0.safetensors``: where engines are compiled from.

The tokenizer's files travel in the same directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from build_engines.checkpoint_config import CONFIG_FILE, CheckpointConfig
from build_engines.content_hash import sha256_of
from build_engines.publish import publishing
from python_backend.errors import SetupError, did_you_mean

WEIGHTS_FILE = "rank0.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

Tensor = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory whose config and tensor names, shapes and types have been checked."""

    directory: Path
    config: CheckpointConfig

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Check and open ``directory``. Raises SetupError that names the file and what is wrong with it."""
        checkpoint = cls(directory, CheckpointConfig.read(directory))
        checkpoint._check_tensors()
        for name in TOKENIZER_FILES:
            if not (directory / name).is_file():
                raise SetupError(f"{directory / name} does not exist. Copy the model's tokenizer there.")
        return checkpoint

    def tensor(self, name: str) -> Tensor:
        """One tensor, read from the memory-mapped file."""
        with safe_open(self.directory / WEIGHTS_FILE, framework="numpy") as weights:
            return np.asarray(weights.get_tensor(name))

    def sha256(self) -> str:
        """Identifies the content: config, weights and tokenizer."""
        return sha256_of(*(self.directory / name for name in (CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES)))

    def _check_tensors(self) -> None:
        path = self.directory / WEIGHTS_FILE
        expected = self.config.tensor_shapes()
        try:
            with safe_open(path, framework="numpy") as weights:
                found = {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in _slices(weights)}
        except (OSError, SafetensorError) as error:
            raise SetupError(f"{path} cannot be read ({error}). Make the checkpoint again.") from error
        for name in found:
            if name not in expected:
                raise SetupError(f'{path}: unknown tensor "{name}"{did_you_mean(name, expected)}')
        dtype = {"float16": "F16", "float32": "F32"}[self.config.dtype]
        for name, shape in expected.items():
            if name not in found:
                raise SetupError(f'{path}: tensor "{name}" is missing; {CONFIG_FILE} calls for it.')
            if found[name] != (shape, dtype):
                has = f"{found[name][1]} {list(found[name][0])}"
                raise SetupError(f'{path}: tensor "{name}" is {has}; {CONFIG_FILE} calls for {dtype} {list(shape)}.')


def write_checkpoint(
    directory: Path, config: CheckpointConfig, tensors: Mapping[str, Tensor], files: Mapping[str, str]
) -> None:
    """Write a checkpoint, with ``files`` (name to text: the tokenizer's and such), all or nothing.

    Tensors are stored as ``config.dtype``. Replaces what ``directory`` held before. Raises SetupError when the
    tensors are not those that the config calls for, too large for its type, or cannot be written.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != config.tensor_shapes():
        odd = sorted({name for name, _ in shapes.items() ^ config.tensor_shapes().items()})
        raise SetupError(f"these tensors do not fit the checkpoint's config: {', '.join(odd[:5])}")
    with publishing(directory, known_by=WEIGHTS_FILE) as draft:
        stored = {name: _stored(name, tensor, config.dtype) for name, tensor in tensors.items()}
        try:
            save_file(stored, draft / WEIGHTS_FILE)
        except SafetensorError as error:  # What becomes of an OSError: a full disk, for one.
            raise SetupError(f"{directory / WEIGHTS_FILE} cannot be written ({error}).") from error
        (draft / WEIGHTS_FILE).chmod(0o644)  # safetensors lets none but the owner read.
        (draft / CONFIG_FILE).write_text(json.dumps(config.model_dump(), indent=2) + "\n", encoding="utf-8")
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")


def _stored(name: str, tensor: Tensor, dtype: str) -> Tensor:
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(tensor, dtype=np.dtype(dtype))
    except FloatingPointError as error:
        raise SetupError(f'tensor "{name}" reaches {np.abs(tensor).max():g}, which {dtype} cannot hold.') from error


def _slices(weights: Any) -> Iterator[tuple[str, Any]]:
    for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
        yield name, weights.get_slice(name)
