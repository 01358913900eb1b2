"""What ``config.json`` of a TensorRT-LLM engine says, as ``trtllm-build`` 1.2 writes it.

Any such directory can be read, whoever built it; only those of ``build_engines`` have a manifest too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_backend.errors import SetupError

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class TensorRtLlmEngine:
    """An engine whose files have been seen, one for each rank. ``world_size``: ranks, and GPUs an instance takes."""

    directory: Path
    version: str
    world_size: int
    vocab_size: int | None  # not every writer says
    build_config: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> TensorRtLlmEngine:
        """Raises SetupError that names the file which is missing or is not that of an engine."""
        path = directory / CONFIG_FILE
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            engine = cls(
                directory,
                world_size=int(config["pretrained_config"]["mapping"]["world_size"]),
                version=str(config["version"]),
                vocab_size=config["pretrained_config"].get("vocab_size"),
                build_config=dict(config.get("build_config", {})),
            )
        except OSError as error:
            raise SetupError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SetupError(f"{path} is not that of an engine ({error!r})") from error
        for rank in range(engine.world_size):
            if not (directory / rank_file(rank)).is_file():
                raise SetupError(f"{directory} has no {rank_file(rank)}, of {engine.world_size} ranks")
        return engine

    @property
    def max_draft_len(self) -> int:
        """Most draft tokens that it verifies at a time; 0: none."""
        return int(self.build_config.get("max_draft_len") or 0)

    @property
    def max_seq_len(self) -> int | None:
        """Most tokens of prompt and output together; None: it does not say."""
        return self.build_config.get("max_seq_len")

    @property
    def has_paged_context(self) -> bool:
        """Whether it can reuse blocks and compute a prompt in chunks."""
        return self.build_config.get("plugin_config", {}).get("use_paged_context_fmha") in (True, "enable")


def rank_file(rank: int) -> str:
    """The name of a rank's engine."""
    return f"rank{rank}.engine"
