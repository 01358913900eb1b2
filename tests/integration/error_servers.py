"""The servers on which every row of the error table can happen, each in both profiles of the CPU engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.cpu.compile import compile_cpu_engine
from python_backend.launcher.server import TritonServer
from tests import tiny_llama
from tests.integration.conftest import edited_repository, serving

#: One request at a time and a short queue, but answers of any length, so that a request keeps it busy for minutes.
NARROW = {
    "max_running_sequences": "1",
    "max_queue_size": "2",
    "max_queue_size_per_tenant": "1",
    "max_tokens_in_paged_kv_cache": "60000",
    "enable_chunked_context": "false",
    "stats_check_period_ms": "10",
}

#: Refuses, fails, writes much or never ends, as the messages say.
ODD_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ raise_exception('only users may speak') }}{% endif %}"
    "{% if message.content == 'forever' %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% endif %}{% for i in range(50000) %}{{ message.content + '' }}{% endfor %}{% endfor %}"
)


def narrow_engine(folder: Path) -> Path:
    """Takes 65536 tokens, and no conversations."""
    config = tiny_llama.config(max_position_embeddings=1 << 16)
    return _engine(folder, config, tiny_llama.tensors(config), chat_template=None)


def odd_engine(folder: Path) -> Path:
    """Computes logits that are not numbers, over a large vocabulary; its tokenizer is none for guided decoding."""
    small = tiny_llama.config(dtype="float32", quant_algo=None, max_position_embeddings=1 << 13)
    config = small.model_copy(update={"vocab_size": 1 << 16})
    tensors = tiny_llama.tensors(config)
    tensors["transformer.ln_f.weight"] = np.full(config.hidden_size, 1e38)
    joining = {"type": "Replace", "pattern": {"String": "Ġ"}, "content": " "}
    return _engine(folder, config, tensors, chat_template=ODD_TEMPLATE, decoder=joining)


def _engine(
    folder: Path,
    config: CheckpointConfig,
    tensors: dict[str, Array],
    *,
    chat_template: str | None,
    decoder: dict[str, Any] | None = None,
) -> Path:
    """The tiny model's tokenizer with another chat template and decoder."""
    files = tiny_llama.tokenizer_files()
    named = json.loads(files["tokenizer_config.json"]) | {"chat_template": chat_template}
    files["tokenizer_config.json"] = json.dumps(named).encode()
    if decoder is not None:
        files["tokenizer.json"] = json.dumps(json.loads(files["tokenizer.json"]) | {"decoder": decoder}).encode()
    write_checkpoint(folder / "checkpoint", config, tensors.__getitem__, files)
    compile_cpu_engine(folder / "checkpoint", folder / "engine")
    return folder / "engine"


@contextmanager
def error_servers(folder: Path, plain_engine: Path) -> Iterator[Mapping[tuple[str, str], TritonServer]]:
    """Servers by name and profile."""
    engines = {
        "plain": (plain_engine, {"execution_mode": "exact"}),
        "narrow": (narrow_engine(folder / "narrow"), NARROW),
        "odd": (odd_engine(folder / "odd"), {}),
    }
    with ExitStack() as stack:
        servers = {}
        for name, (engine, settings) in engines.items():
            for profile in ("cpu", "cpu-unary"):
                repository = edited_repository(folder / f"{name}-{profile}", **settings)
                servers[name, profile] = stack.enter_context(serving(repository, engine, profile))
        yield servers
