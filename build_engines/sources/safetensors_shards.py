"""The weights of a Hugging Face directory: ``model.safetensors``, or several files and an index of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.safetensors_file import SafetensorsFile, TensorType
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class _Index(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class SafetensorsShards:
    """All tensors of one or more files, by name; each is a view of its file's memory map."""

    files: tuple[SafetensorsFile, ...]
    types: Mapping[str, TensorType]
    _holders: Mapping[str, SafetensorsFile]

    @classmethod
    def open(cls, directory: Path) -> SafetensorsShards:
        """The single file where there is one, as transformers prefers it.

        Raises SetupError when a file is missing, cut short or damaged, or a tensor is not where the index says.
        """
        if (directory / SINGLE_FILE).is_file():
            file = SafetensorsFile(directory / SINGLE_FILE)
            return cls((file,), file.tensors, dict.fromkeys(file.tensors, file))
        index = directory / INDEX_FILE
        weight_map = _read_index(index)
        for name in sorted(set(weight_map.values())):
            if Path(name).name != name or not (directory / name).is_file():
                raise SetupError(f'{index} names "{name}", which does not exist in {directory}. Copy the file there.')
        files = {name: SafetensorsFile(directory / name) for name in sorted(set(weight_map.values()))}
        # What no index knows is listed, too: the model is checked for tensors that it should not have.
        holders = {tensor: file for file in files.values() for tensor in file.tensors}
        for tensor, name in weight_map.items():
            if tensor not in files[name].tensors:
                raise SetupError(f'{index} says that tensor "{tensor}" is in {name}, which does not have it.')
            holders[tensor] = files[name]
        types = {tensor: file.tensors[tensor] for tensor, file in holders.items()}
        return cls(tuple(files.values()), types, holders)

    def tensor(self, name: str) -> Array:
        """Raises KeyError when there is none of that name."""
        return self._holders[name].tensor(name)


def _read_index(path: Path) -> dict[str, str]:
    try:
        return _Index.model_validate_json(path.read_bytes()).weight_map
    except FileNotFoundError as error:
        raise SetupError(f"{path.parent} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE}.") from error
    except ValidationError as error:
        raise SetupError(f"{path}: {first_problem(error, _Index)}. Copy it again.") from error
