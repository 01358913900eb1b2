"""Where other formats keep the tensors of ``tensor_table``: under other names, with query, key and value apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.tensor_table import EMBEDDING, FINAL_NORM, LM_HEAD, layer_tensor, tensor_table
from python_backend.errors import SetupError, did_you_mean

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Naming:
    """A format's names. Those in ``tensors`` follow ``layer``, which takes the number of the layer."""

    embedding: str
    final_norm: str
    lm_head: str
    layer: str
    tensors: Mapping[str, str]
    queries_keys_values: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the other format; parts follow each other along dimension 0."""

    name: str
    shape: Shape


def locate(config: CheckpointConfig, naming: Naming) -> dict[str, tuple[Part, ...]]:
    """The parts that each tensor of the unquantized model consists of. A tied lm_head is the embedding."""
    single = {
        EMBEDDING: naming.embedding,
        FINAL_NORM: naming.final_norm,
        LM_HEAD: naming.embedding if config.tie_word_embeddings else naming.lm_head,
    }
    located: dict[str, tuple[Part, ...]] = {}
    for entry in tensor_table(config).values():
        shape = entry.whole.shape
        if entry.layer is None:
            located[entry.name] = (Part(single[entry.name], shape),)
            continue
        begin, name = naming.layer.format(entry.layer), entry.name.removeprefix(layer_tensor(entry.layer, ""))
        fused, _, kind = name.rpartition(".")
        if fused == "attention.qkv":
            rows = (config.q_rows, config.kv_rows, config.kv_rows)
            located[entry.name] = tuple(
                Part(f"{begin}{apart}.{kind}", (count, *shape[1:]))
                for apart, count in zip(naming.queries_keys_values, rows, strict=True)
            )
        else:
            located[entry.name] = (Part(begin + naming.tensors[name], shape),)
    return located


def check(where: Path, architecture: str, parts: Iterable[Part], found: Mapping[str, Shape]) -> None:
    """Raises SetupError for the first tensor that is missing, of another shape, or none of this architecture's."""
    expected = {part.name: part.shape for part in parts}
    for name in found:
        if name not in expected:
            raise SetupError(
                f'{where}: unknown tensor "{name}"; a {architecture} with these dimensions has none of that name'
                f"{did_you_mean(name, expected)}"
            )
    for name, shape in expected.items():
        if name not in found:
            raise SetupError(f'{where}: tensor "{name}" is missing; a {architecture} with these dimensions has it.')
        if found[name] != shape:
            raise SetupError(f'{where}: tensor "{name}" is {list(found[name])}; the config calls for {list(shape)}.')
