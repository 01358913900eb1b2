"""A LoRA adapter (Hu et al., 2021) as PEFT saves it: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME, Array
from build_engines.checkpoint.safetensors_file import SafetensorsFile
from build_engines.checkpoint.tensor_table import layer_tensor
from build_engines.content_hash import sha256_of
from build_engines.lora.adapter_config import ADAPTER_CONFIG_FILE, MERGE_WITH_PEFT, AdapterConfig
from build_engines.lora.modules import BY_PEFT_PATH, MODULES, LoraModule
from build_engines.quantization.weights import Floats
from python_backend.errors import SetupError

ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"

_TENSOR_NAME = re.compile(
    r"base_model\.model\.(?P<path>model\.layers\.(?P<layer>\d+)\.(?P<module>\w+\.\w+))\.lora_(?P<side>[AB])\.weight"
)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one module's weight: ``scale * up @ down``, PEFT's lora_B [out, rank] and lora_A [rank, in]."""

    layer: int
    module: LoraModule
    down: Array
    up: Array
    scale: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def tensor(self) -> str:
        """The checkpoint's tensor that it changes; of which rows, ``module`` says."""
        return layer_tensor(self.layer, f"{self.module.linear}.weight")

    def scaled_up(self) -> Floats:
        """``scale * up`` in float32."""
        return self.up.astype(np.float32) * np.float32(self.scale)

    def delta(self) -> Floats:
        """The update [out, in] in float32."""
        change: Floats = self.scaled_up() @ self.down.astype(np.float32)
        return change


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter that has been checked against the model that it is for; matrices stay in its file until touched."""

    directory: Path
    updates: tuple[LowRank, ...]

    @classmethod
    def open(cls, directory: Path, base: CheckpointConfig) -> PeftAdapter:
        """Raises SetupError when the adapter is more than plain LoRA on linear layers, or for another model."""
        config = AdapterConfig.read(directory)
        path = directory / ADAPTER_WEIGHTS_FILE
        if not path.is_file() and (directory / "adapter_model.bin").is_file():
            raise SetupError(f"{directory} has adapter_model.bin, a pickle. Save the adapter again as safetensors.")
        updates = tuple(_updates(SafetensorsFile(path), config, base))
        if not updates:
            raise SetupError(f"{path} has no tensors: this adapter changes nothing. Copy or train it again.")
        return cls(directory, updates)

    @property
    def max_rank(self) -> int:
        """What an engine's ``--max_lora_rank`` has to be at least."""
        return max(update.rank for update in self.updates)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """What an engine's ``--lora_target_modules`` has to contain: q, k and v all or none, as TensorRT-LLM wants."""
        names = {update.module.name for update in self.updates}
        together = {"attn_q", "attn_k", "attn_v"}
        wanted = names | together if names & together else names
        return tuple(module.name for module in MODULES if module.name in wanted)

    def sha256(self) -> str:
        """Identifies the content."""
        return sha256_of(self.directory / ADAPTER_CONFIG_FILE, self.directory / ADAPTER_WEIGHTS_FILE)


def _updates(file: SafetensorsFile, config: AdapterConfig, base: CheckpointConfig) -> Iterator[LowRank]:
    """In the order of layers, then of modules."""
    found: dict[tuple[int, int], str] = {}
    for name in file.tensors:
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or match["module"] not in BY_PEFT_PATH:
            known = ", ".join(path.partition(".")[2] for path in BY_PEFT_PATH)
            raise SetupError(
                f'{file.path}: tensor "{name}" is no low-rank matrix of a layer\'s {known}. {MERGE_WITH_PEFT}'
            )
        layer, module = int(match["layer"]), BY_PEFT_PATH[match["module"]]
        if layer >= base.num_hidden_layers:
            raise SetupError(
                f'{file.path}: tensor "{name}" is of layer {layer}, counted from 0; the model has '
                f"{base.num_hidden_layers}. Name the model that the adapter was trained on."
            )
        _check(file, name, match["side"], config.rank(match["path"]), module.shape(base))
        found[layer, MODULES.index(module)] = match["path"]
    for (layer, index), path in sorted(found.items()):
        names = [f"base_model.model.{path}.lora_{side}.weight" for side in "AB"]
        for name in names:
            if name not in file.tensors:
                raise SetupError(f'{file.path}: tensor "{name}" is missing. Copy or save the adapter again.')
        down, up = (file.tensor(name) for name in names)
        yield LowRank(layer, MODULES[index], down, up, config.scale(path))


def _check(file: SafetensorsFile, name: str, side: str, rank: int, shape: tuple[int, int]) -> None:
    outputs, inputs = shape
    expected = (rank, inputs) if side == "A" else (outputs, rank)
    kind = file.tensors[name]
    if kind.shape != expected or kind.dtype not in BY_NAME.values():
        raise SetupError(
            f'{file.path}: tensor "{name}" is {kind}; rank {rank} on this model calls for floats of {list(expected)}. '
            "Name the model that the adapter was trained on."
        )
