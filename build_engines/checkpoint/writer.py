"""Writing a TensorRT-LLM checkpoint: every tensor is cut into its ranks' parts as it comes, one at a time in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from build_engines.checkpoint.config import CONFIG_FILE, CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import rank_file
from build_engines.checkpoint.safetensors_file import SafetensorsWriter
from build_engines.checkpoint.sharding import holds, rank_name, rank_type, shard
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, Entry, tensor_table
from build_engines.publish import publishing
from python_backend.errors import SetupError

#: Gives a whole tensor by its name in ``tensor_table``: plain weights in any floating type, all others as they are.
TensorSource = Callable[[str], Array]


def write_checkpoint(
    directory: Path,
    config: CheckpointConfig,
    tensor: TensorSource,
    files: Mapping[str, bytes],
    *,
    advance: Callable[[int], None] = lambda written_bytes: None,
) -> None:
    """Write a checkpoint sharded by ``config.mapping``, with ``files`` (the tokenizer's and such), all or nothing.

    Plain weights become ``config.dtype``. A tied lm_head is stored like any other, as ModelOpt does, and taken from
    the embedding. ``advance`` hears of each tensor's bytes. Replaces what ``directory`` held before. Raises
    SetupError when a tensor does not fit the config or its type, or the disk is full.
    """
    table = tensor_table(config)
    stages = range(config.mapping.pp_size)
    held = {stage: [entry for entry in table.values() if holds(config, entry, stage)] for stage in stages}
    with publishing(directory, known_by=rank_file(0)) as draft, ExitStack() as open_files:
        _check_space(draft, config, held)
        writers = {
            (stage, tp_rank): open_files.enter_context(
                SafetensorsWriter(
                    draft / rank_file(stage * config.mapping.tp_size + tp_rank),
                    {rank_name(config, entry): rank_type(config, entry) for entry in held[stage]},
                )
            )
            for stage in stages
            for tp_rank in range(config.mapping.tp_size)
        }
        for stage in stages:
            for entry in held[stage]:
                whole = _whole(config, entry, tensor)
                for tp_rank in range(config.mapping.tp_size):
                    part = shard(config, entry, whole, tp_rank)
                    writers[stage, tp_rank].write(rank_name(config, entry), part)
                advance(entry.whole.size_bytes)
        (draft / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        for name, content in files.items():
            (draft / name).write_bytes(content)


def _whole(config: CheckpointConfig, entry: Entry, tensor: TensorSource) -> Array:
    tied = entry.name == LM_HEAD and config.tie_word_embeddings
    whole = tensor(EMBEDDING if tied else entry.name)
    if whole.shape != entry.whole.shape:
        raise SetupError(f'tensor "{entry.name}" is {list(whole.shape)}; the model calls for {entry.whole}.')
    if whole.dtype == entry.whole.dtype:
        return whole
    with np.errstate(over="ignore"):
        cast = whole.astype(entry.whole.dtype)
    if not np.isfinite(cast).all():
        largest = np.abs(whole.astype(np.float32)).max()
        raise SetupError(f'tensor "{entry.name}" reaches {largest:g}, which {config.dtype} cannot hold.')
    return cast


def _check_space(draft: Path, config: CheckpointConfig, held: Mapping[int, list[Entry]]) -> None:
    entries = [entry for entries in held.values() for entry in entries]
    needed = config.mapping.tp_size * sum(rank_type(config, entry).size_bytes for entry in entries)
    free = shutil.disk_usage(draft).free
    if needed > free:
        raise SetupError(
            f"the checkpoint needs {needed / 1e9:.1f} GB and {draft.parent.parent} has {free / 1e9:.1f} GB free. "
            "Make room, or name a directory on another disk."
        )
