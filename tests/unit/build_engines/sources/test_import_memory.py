"""An import holds a tensor or two in memory, however large the model and its files are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.dtypes import BFLOAT16
from build_engines.checkpoint.safetensors_file import SafetensorsWriter, TensorType
from build_engines.sources.hugging_face import NAMING
from build_engines.sources.tensor_locations import Part, locate
from tests import tiny_llama, tiny_models

MIB = 1024 * 1024
CONFIG = tiny_models.config(
    "MistralForCausalLM",
    dtype="bfloat16",
    num_hidden_layers=16,
    hidden_size=512,
    head_size=128,
    intermediate_size=2048,
    vocab_size=4096,
)
# Anonymous memory is what the process holds itself; pages of the mapped files come and go as the system likes.
IMPORT = """
import sys
from pathlib import Path
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.sources.open_source import open_source

def anonymous_bytes():
    return 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

source = open_source(Path(sys.argv[1]))
seen = [anonymous_bytes()]

def tensor(name):
    value = source.tensor(name)
    seen.append(anonymous_bytes())
    return value

config = source.config.sharded(int(sys.argv[3]), 1)
write_checkpoint(Path(sys.argv[2]), config, tensor, source.files, advance=lambda _: seen.append(anonymous_bytes()))
print(max(seen) - seen[0])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 128 MiB in files of up to 20 MiB; its largest tensors have 4 MiB."""
    directory = tmp_path_factory.mktemp("model")
    raw = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": CONFIG.hidden_size,
        "head_dim": CONFIG.head_size,
        "intermediate_size": CONFIG.intermediate_size,
        "max_position_embeddings": CONFIG.max_position_embeddings,
        "num_attention_heads": CONFIG.num_attention_heads,
        "num_hidden_layers": CONFIG.num_hidden_layers,
        "num_key_value_heads": CONFIG.num_key_value_heads,
        "rms_norm_eps": CONFIG.norm_epsilon,
        "rope_theta": CONFIG.rotary_base,
        "sliding_window": None,
        "tie_word_embeddings": CONFIG.tie_word_embeddings,
        "vocab_size": CONFIG.vocab_size,
    }
    (directory / "config.json").write_text(json.dumps(raw))
    for name, content in tiny_llama.tokenizer_files().items():
        (directory / name).write_bytes(content)
    parts = {part.name: part for several in locate(CONFIG, NAMING).values() for part in several}
    weight_map: dict[str, str] = {}
    ones = np.ones(4096 * 512, BFLOAT16)
    for number, shard in enumerate(_shards(list(parts.values()))):
        file = f"model-{number}.safetensors"
        types = {part.name: TensorType(BFLOAT16, part.shape) for part in shard}
        with SafetensorsWriter(directory / file, types) as writer:
            for part in shard:
                writer.write(part.name, ones[: np.prod(part.shape)].reshape(part.shape))
        weight_map |= dict.fromkeys(types, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def _shards(parts: list[Part]) -> list[list[Part]]:
    shards: list[list[Part]] = [[]]
    size_bytes = 0
    for part in parts:
        part_bytes = 2 * int(np.prod(part.shape))
        if size_bytes + part_bytes > 20 * MIB:
            shards.append([])
            size_bytes = 0
        shards[-1].append(part)
        size_bytes += part_bytes
    return shards


@pytest.mark.parametrize("tp_size", [1, 2])
def test_an_import_holds_less_than_two_large_tensors(model: Path, tmp_path: Path, tp_size: int) -> None:
    total_bytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert total_bytes > 100 * MIB
    arguments = [str(model), str(tmp_path / "checkpoint"), str(tp_size)]
    done = subprocess.run([sys.executable, "-c", IMPORT, *arguments], capture_output=True, text=True, check=True)
    assert sum(path.stat().st_size for path in (tmp_path / "checkpoint").glob("*.safetensors")) >= total_bytes - MIB
    assert int(done.stdout) < 8 * MIB
