"""One rank of ``tensor_parallel.run_ranks``: a process of its own that opens its own rank's weights and no others.

``python -m build_engines.verification.rank_process WORKPLACE RANK``
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import rank_file
from build_engines.checkpoint.safetensors_file import SafetensorsFile
from build_engines.checkpoint.sharding import holds, rank_name, rank_type
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, tensor_table
from build_engines.verification.decoder import Decoder
from build_engines.verification.same_model import as_stored
from python_backend.errors import SetupError

JOB_FILE = "job.json"


class RankJob(BaseModel):
    """What all processes of one run read."""

    checkpoint_dirs: list[Path]
    token_ids: list[int]
    processes: int
    timeout_s: float

    def logits_file(self, workplace: Path, run: int) -> Path:
        """Where the last stage leaves the logits of ``checkpoint_dirs[run]``."""
        return workplace / f"logits{run}.npy"


@dataclass(frozen=True, slots=True)
class GlooGroup:
    """A stage's tensor-parallel ranks, over torch.distributed."""

    rank: int
    size: int
    group: dist.ProcessGroup

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        total = part.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def concatenate(self, part: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=-1)


def rank_tensors(checkpoint_dir: Path, config: CheckpointConfig, rank: int) -> Callable[[str], Array]:
    """What ``rank`` holds of a whole tensor, from its file alone. Raises SetupError for what it should not need."""
    file, table = SafetensorsFile(checkpoint_dir / rank_file(rank)), tensor_table(config)
    stage = rank // config.mapping.tp_size

    def tensor(name: str) -> Array:
        if name == LM_HEAD and LM_HEAD not in file.tensors and config.tie_word_embeddings:
            name = EMBEDDING
        entry = table[name]
        stored, kind = rank_name(config, entry), rank_type(config, entry)
        if not holds(config, entry, stage) or file.tensors.get(stored) != kind:
            found = file.tensors.get(stored, "missing")
            raise SetupError(f'{file.path}: "{stored}", {name} of the model, is {found}; rank {rank} needs {kind}.')
        return file.tensor(stored)

    return tensor


def run_rank(checkpoint_dir: Path, token_ids: torch.Tensor, rank: int) -> torch.Tensor | None:
    """This rank's share of one forward. Logits [tokens, vocabulary] in the last stage, None before.

    Every process must call this, those that have no rank in ``checkpoint_dir`` too.
    """
    config = as_stored(CheckpointConfig.read(checkpoint_dir))
    tp, pp = config.mapping.tp_size, config.mapping.pp_size
    groups = [dist.new_group(list(range(stage * tp, (stage + 1) * tp))) for stage in range(pp)]
    if rank >= config.mapping.world_size:
        return None
    stage, layers = rank // tp, config.num_hidden_layers // pp
    group = GlooGroup(rank % tp, tp, groups[stage])
    decoder = Decoder(config, rank_tensors(checkpoint_dir, config, rank), group)
    if stage == 0:
        hidden = decoder.embed(token_ids)
    else:
        hidden = torch.empty(len(token_ids), config.hidden_size)
        dist.recv(hidden, rank - tp)
    for layer in range(stage * layers, (stage + 1) * layers):
        hidden = decoder.layer(layer)(hidden)
    if stage == pp - 1:
        return decoder.head()(hidden)
    dist.send(hidden.contiguous(), rank + tp)
    return None


def main(workplace: Path, rank: int) -> None:
    job = RankJob.model_validate_json((workplace / JOB_FILE).read_text(encoding="utf-8"))
    dist.init_process_group(
        "gloo",
        init_method=(workplace / "store").as_uri(),
        rank=rank,
        world_size=job.processes,
        timeout=timedelta(seconds=job.timeout_s),
    )
    token_ids = torch.tensor(job.token_ids)
    with torch.inference_mode():
        for run, checkpoint_dir in enumerate(job.checkpoint_dirs):
            logits = run_rank(checkpoint_dir, token_ids, rank)
            mapping = CheckpointConfig.read(checkpoint_dir).mapping
            if logits is not None and rank % mapping.tp_size == 0:
                np.save(job.logits_file(workplace, run), logits.numpy())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
