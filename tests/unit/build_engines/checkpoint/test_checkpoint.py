"""A checkpoint is read back as written, and refused with its reason when it is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.writer import write_checkpoint
from python_backend.errors import SetupError
from tests import tiny_llama


def edit_config(checkpoint_dir: Path, **changes: Any) -> None:
    path = checkpoint_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("tied", [True, False])
def test_reads_what_was_written(tmp_path: Path, tied: bool) -> None:
    config = tiny_llama.config(tied=tied)
    tensors = tiny_llama.tensors(config)
    write_checkpoint(tmp_path / "checkpoint", config, tensors.__getitem__, tiny_llama.tokenizer_files())
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    assert checkpoint.config == config
    if tied:
        tensors["lm_head.weight"] = tensors["transformer.vocab_embedding.weight"]
    for name, tensor in tensors.items():
        assert np.array_equal(checkpoint.tensor(name), tensor.astype(np.float16))


def test_config_is_what_trtllm_build_reads(tmp_path: Path) -> None:
    written = json.loads((tiny_llama.checkpoint(tmp_path) / "config.json").read_text())
    assert written["architecture"] == "LlamaForCausalLM"
    assert written["position_embedding_type"] == "rope_gpt_neox"
    assert written["quantization"]["quant_algo"] == "W8A16"
    assert written["mapping"] == dict.fromkeys(written["mapping"], 1)


def test_anyone_may_read_it(tmp_path: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o444 for path in tiny_llama.checkpoint(tmp_path).iterdir()}
    assert modes == dict.fromkeys(modes, 0o444)


def test_writing_refuses_tensors_that_do_not_fit(tmp_path: Path) -> None:
    config = tiny_llama.config()
    tensors = tiny_llama.tensors(config)
    tensors["transformer.ln_f.weight"] = np.ones(63)
    with pytest.raises(SetupError, match=r"transformer\.ln_f\.weight"):
        write_checkpoint(tmp_path / "checkpoint", config, tensors.__getitem__, {})
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_epsilom": 1e-5}, 'unknown key "norm_epsilom"; did you mean "norm_epsilon"'),
        ({"mapping": {"world_size": 3, "tp_size": 2}}, "world_size 3 is not tp_size 2 x pp_size 1"),
        ({"mapping": {"world_size": 3, "tp_size": 3}}, "num_attention_heads 4 cannot be divided by tp_size 3"),
        ({"mapping": {"world_size": 3, "pp_size": 3}}, "num_hidden_layers 2 cannot be divided into pp_size 3 stages"),
        ({"architecture": "GPTForCausalLM"}, "key \"architecture\" is 'GPTForCausalLM'"),
        ({"quantization": {"quant_algo": "INT3"}}, "key \"quantization.quant_algo.*'INT3'"),
        ({"quantization": {"quant_algo": "W4A16_AWQ"}}, 'quantization.group_size" is missing'),
        (
            {"quantization": {"quant_algo": "NVFP4", "group_size": 48}},
            "hidden_size 64 .* group_size 48; group_size 32 fits",
        ),
        ({"quantization": {"exclude_modules": ["mlp.gate"]}}, "exclude_modules.0\" is 'mlp.gate'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"hidden_size": 0}, 'key "hidden_size" is 0'),
        ({"rotary_scaling": {"type": "llama3"}}, "rotary_scaling"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint_dir = tiny_llama.checkpoint(tmp_path)
    edit_config(checkpoint_dir, **changes)
    with pytest.raises(SetupError, match=message):
        Checkpoint.open(checkpoint_dir)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    checkpoint_dir = tiny_llama.checkpoint(tmp_path)
    path = checkpoint_dir / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "dtype"}))
    with pytest.raises(SetupError, match=r'config\.json: key "dtype" is missing$'):
        Checkpoint.open(checkpoint_dir)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    checkpoint_dir = tiny_llama.checkpoint(tmp_path)
    path = checkpoint_dir / "rank0.safetensors"
    tensors = load_file(path)
    norm = tensors.pop("transformer.ln_f.weight")
    save_file(tensors, path)
    with pytest.raises(SetupError, match=r'"transformer\.ln_f\.weight" is missing'):
        Checkpoint.open(checkpoint_dir)
    save_file(tensors | {"transformer.ln_f.weight": norm.astype(np.float32)}, path)
    with pytest.raises(SetupError, match=r"ln_f\.weight\" is F32 \[64\].*F16 \[64\]"):
        Checkpoint.open(checkpoint_dir)
    save_file(tensors | {"transformer.lnf.weight": norm}, path)
    with pytest.raises(SetupError, match=r'"transformer\.lnf\.weight"; did you mean "transformer\.ln_f\.weight"'):
        Checkpoint.open(checkpoint_dir)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SetupError, match=r"rank0\.safetensors cannot be read"):
        Checkpoint.open(checkpoint_dir)


@pytest.mark.parametrize("name", ["config.json", "rank0.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    checkpoint_dir = tiny_llama.checkpoint(tmp_path)
    (checkpoint_dir / name).unlink()
    with pytest.raises(SetupError, match=name):
        Checkpoint.open(checkpoint_dir)
