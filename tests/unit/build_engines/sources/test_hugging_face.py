"""A Hugging Face directory opens as the model that transformers saved there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint.config import Architecture
from build_engines.checkpoint.dtypes import DtypeName
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.quantization.transformers_model import transformers_model
from build_engines.sources.hugging_face import HuggingFaceModel
from python_backend.errors import SetupError
from tests import tiny_models
from tests.unit.build_engines.sources.random_models import logits, random_model, save

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama in one file."""
    config = tiny_models.config("LlamaForCausalLM")
    return save(random_model(config), config, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return shutil.copytree(saved, tmp_path / "model")


def change_weights(directory: Path, change: Callable[[Tensors], object]) -> None:
    weights = load_file(directory / WEIGHTS)
    change(weights)
    save_file(weights, directory / WEIGHTS)


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_logits_equal_the_saved_models_bit_for_bit(tmp_path: Path, architecture: Architecture, tied: bool) -> None:
    config = tiny_models.config(architecture, tie_word_embeddings=tied)
    model = random_model(config)
    source = HuggingFaceModel.open(save(model, config, tmp_path / "model"))
    assert source.config == config
    assert source.notices == ()
    assert torch.equal(logits(transformers_model(source.config, source.tensor)), logits(model))


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_sharding_changes_nothing(tmp_path: Path, architecture: Architecture) -> None:
    config = tiny_models.config(architecture)
    model = random_model(config)
    single = HuggingFaceModel.open(save(model, config, tmp_path / "single"))
    sharded = HuggingFaceModel.open(save(model, config, tmp_path / "sharded", max_shard_size="45KB"))
    assert (tmp_path / "sharded" / INDEX).is_file()
    for name in single._parts:
        assert single.tensor(name).dtype == sharded.tensor(name).dtype
        assert single.tensor(name).tobytes() == sharded.tensor(name).tobytes(), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_checkpoint_keeps_every_bit(tmp_path: Path, dtype: DtypeName) -> None:
    config = tiny_models.config("Qwen3ForCausalLM", dtype=dtype)
    source = HuggingFaceModel.open(save(random_model(config), config, tmp_path / "model"))
    assert source.config.dtype == dtype
    write_checkpoint(tmp_path / "checkpoint", source.config.sharded(2, 2), source.tensor, source.files)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    for name in checkpoint.table:
        assert checkpoint.tensor(name).tobytes() == source.tensor(name).tobytes(), name


def test_gemmas_norms_are_stored_plus_one(tmp_path: Path) -> None:
    config = tiny_models.config("GemmaForCausalLM")
    model = random_model(config)
    source = HuggingFaceModel.open(save(model, config, tmp_path / "model"))
    stored = load_file(tmp_path / "model" / WEIGHTS)
    norm, embedding = source.tensor("transformer.ln_f.weight"), source.tensor(EMBEDDING)
    assert np.array_equal(norm, stored["model.norm.weight"].float().numpy() + 1)
    assert np.array_equal(embedding, stored["model.embed_tokens.weight"].numpy())


def test_a_tied_lm_head_is_the_embedding_even_where_one_is_stored(directory: Path) -> None:
    change_weights(directory, lambda weights: weights.update({"lm_head.weight": torch.zeros(320, 64).half()}))
    source = HuggingFaceModel.open(directory)
    assert np.array_equal(source.tensor(LM_HEAD), source.tensor(EMBEDDING))
    assert source.notices == ("lm_head.weight is not read: the config ties it to the embedding.",)


def test_tables_of_rotary_frequencies_are_ignored(directory: Path) -> None:
    change_weights(
        directory,
        lambda weights: weights.update(
            {f"model.{layer}rotary_emb.inv_freq": torch.ones(8) for layer in ("", "layers.1.self_attn.")}
        ),
    )
    assert HuggingFaceModel.open(directory).notices == ()


def test_a_dtype_that_the_config_does_not_say_is_noticed(directory: Path) -> None:
    change_config(directory, dtype="bfloat16")
    source = HuggingFaceModel.open(directory)
    assert source.config.dtype == "float16"
    assert source.notices == ("config.json says bfloat16; the weights are stored as float16.",)


def test_norms_of_another_type_are_noticed(directory: Path) -> None:
    change_weights(
        directory,
        lambda weights: weights.update({name: w.float() for name, w in weights.items() if "norm" in name}),
    )
    source = HuggingFaceModel.open(directory)
    assert source.config.dtype == "float16"
    assert source.notices == (
        "a checkpoint rounds all tensors to float16, of which norms or biases are stored otherwise: 5 as float32.",
    )


def test_matrices_of_several_types_become_float32(directory: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(directory, lambda weights: weights.update({name: weights[name].bfloat16()}))
    assert HuggingFaceModel.open(directory).config.dtype == "float32"


def test_files_travel_along(directory: Path) -> None:
    assert set(HuggingFaceModel.open(directory).files) >= {"tokenizer.json", "tokenizer_config.json"}
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    source = HuggingFaceModel.open(directory)
    assert source.files["chat_template.jinja"] == b"{{ messages }}"
    assert source.notices == (
        "generation_config.json ends texts at the tokens [1, 2]; an engine ends them at eos_token only.",
    )


def test_the_hash_tells_content_apart(directory: Path) -> None:
    before = HuggingFaceModel.open(directory).sha256()
    shutil.copytree(directory, directory.parent / "copy")
    assert HuggingFaceModel.open(directory.parent / "copy").sha256() == before
    hashes = {before}
    change_config(directory, rms_norm_eps=1e-4)
    hashes.add(HuggingFaceModel.open(directory).sha256())
    change_weights(directory, lambda weights: weights["model.norm.weight"].mul_(2))
    hashes.add(HuggingFaceModel.open(directory).sha256())
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    hashes.add(HuggingFaceModel.open(directory).sha256())
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), 'tensor "model.norm.weight" is missing'),
        (
            lambda w: w.pop("model.layers.1.self_attn.k_proj.weight"),
            r'"model\.layers\.1\.self_attn\.k_proj\.weight" is',
        ),
        (
            lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(128)}),
            r'unknown tensor "model\.layers\.0\.self_attn\.q_proj\.bias"; a LlamaForCausalLM .* did you mean "model',
        ),
        (
            lambda w: w.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(128, 64)}),
            r'unknown tensor "model\.layers\.2\.mlp\.up_proj\.weight"',
        ),
        (
            lambda w: w.update({"model.layers.0.mlp.down_proj.weight": torch.zeros(64, 127)}),
            r'down_proj\.weight" is \[64, 127\]; the config calls for \[64, 128\]',
        ),
        (
            lambda w: w.update({"model.embed_tokens.weight": torch.zeros(320, 64, dtype=torch.int8)}),
            r'tensor "model\.embed_tokens\.weight" is I8 \[320, 64\]; weights must be F16, BF16 or F32',
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(64, dtype=torch.float64)}),
            r'tensor "model\.norm\.weight" is F64 \[64\]; weights must be',
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    directory: Path, change: Callable[[Tensors], object], message: str
) -> None:
    change_weights(directory, change)
    with pytest.raises(SetupError, match=message):
        HuggingFaceModel.open(directory)


def test_damaged_weights_are_refused(directory: Path) -> None:
    whole = (directory / WEIGHTS).read_bytes()
    for cut in (0, 4, 1000, len(whole) - 1):
        (directory / WEIGHTS).write_bytes(whole[:cut])
        with pytest.raises(SetupError, match=r"model\.safetensors cannot be read .*Copy or make it again"):
            HuggingFaceModel.open(directory)
    (directory / WEIGHTS).unlink()
    with pytest.raises(SetupError, match=r"has no weights: neither model\.safetensors nor model\.safetensors\.index"):
        HuggingFaceModel.open(directory)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    config = tiny_models.config("LlamaForCausalLM")
    return save(random_model(config), config, tmp_path / "model", max_shard_size="45KB")


def test_an_index_that_is_wrong_is_refused(sharded: Path) -> None:
    shards = sorted(path.name for path in sharded.glob("model-*.safetensors"))
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]

    def refused(weight_map: object, message: str) -> None:
        (sharded / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        with pytest.raises(SetupError, match=message):
            HuggingFaceModel.open(sharded)

    norm = "model.norm.weight"
    holder = weight_map[norm]
    other = next(name for name in shards if name != holder)
    refused(weight_map | {norm: "model-9.safetensors"}, r'index\.json names "model-9\.safetensors", which does not')
    refused(weight_map | {norm: "../model/" + holder}, r'names "\.\./model/')
    refused(weight_map | {norm: other}, rf'says that tensor "model\.norm\.weight" is in {other}, which does not have')
    refused(weight_map | {norm: 3}, r'index\.json: key "weight_map\.model\.norm\.weight" is 3')
    refused(None, 'key "weight_map" is None')
    (sharded / INDEX).write_text("{")
    with pytest.raises(SetupError, match=r"index\.json: .*Copy it again"):
        HuggingFaceModel.open(sharded)


def test_a_missing_or_truncated_shard_is_refused(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(SetupError, match=rf"{shard.name} cannot be read"):
        HuggingFaceModel.open(sharded)
    shard.unlink()
    with pytest.raises(SetupError, match=rf'names "{shard.name}", which does not exist'):
        HuggingFaceModel.open(sharded)


def test_a_tensor_that_no_index_knows_is_refused(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    save_file(load_file(shard) | {"model.layers.0.self_attn.sinks": torch.zeros(4)}, shard)
    with pytest.raises(SetupError, match=r'unknown tensor "model\.layers\.0\.self_attn\.sinks"'):
        HuggingFaceModel.open(sharded)


def test_a_missing_tokenizer_is_refused(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    with pytest.raises(SetupError, match=r"tokenizer\.json does not exist"):
        HuggingFaceModel.open(directory)
    (directory / "tokenizer.model").touch()
    with pytest.raises(SetupError, match=r"tokenizer\.model and no tokenizer\.json. Make it with .*use_fast=True"):
        HuggingFaceModel.open(directory)


def test_a_broken_generation_config_is_refused(directory: Path) -> None:
    for content in ("{", "[]"):
        (directory / "generation_config.json").write_text(content)
        with pytest.raises(SetupError, match=r"generation_config\.json is no JSON object"):
            HuggingFaceModel.open(directory)


def test_the_config_is_refused_before_weights_are_read(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(b"")
    change_config(directory, architectures=["GPT2LMHeadModel"])
    with pytest.raises(SetupError, match="architecture GPT2LMHeadModel is not supported"):
        HuggingFaceModel.open(directory)
