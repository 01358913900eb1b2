"""Checkpoints run as their ranks, in processes of their own, against the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from build_engines.checkpoint.config import Architecture
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.quantization.weights import Floats
from build_engines.verification.decoder import Decoder
from build_engines.verification.same_model import as_stored
from build_engines.verification.tensor_parallel import run_ranks, run_ranks_of
from python_backend.errors import SetupError
from tests import tiny_llama, tiny_models
from tests.unit.build_engines.verification import tiny_quantized

#: No multiple of 2 or 4: the vocabulary is padded.
VOCAB_SIZE = 321
TOKEN_IDS = [*np.random.default_rng(0).integers(0, VOCAB_SIZE, 50).tolist(), VOCAB_SIZE - 1]
MAPPINGS = ((2, 1), (4, 1), (1, 2), (2, 2))
#: A sum over ranks adds in another order; where this was written logits differ by 1e-5 at most.
TOLERANCE = 1e-4


def broken(directory: Path, source: Checkpoint, rank: int, changes: dict[str, Array]) -> Path:
    """``source`` on two ranks, one of which holds something else."""
    write_checkpoint(directory, source.config.sharded(2, 1), source.tensor, tiny_llama.tokenizer_files())
    path = directory / f"rank{rank}.safetensors"
    save_file(load_file(path) | changes, path)
    return directory


def swapped_keys_and_values(directory: Path, source: Checkpoint) -> Path:
    config = source.config.sharded(2, 1)
    write_checkpoint(directory, config, source.tensor, tiny_llama.tokenizer_files())
    name = "transformer.layers.0.attention.qkv.weight"
    qkv = Checkpoint.open(directory).part(name, 1)
    query, key, value = np.split(qkv, [config.q_rows // 2, (config.q_rows + config.kv_rows) // 2])
    return broken(directory, source, 1, {name: np.concatenate([query, value, key])})


def whole_logits(checkpoint: Checkpoint) -> Floats:
    """The merged ranks in one piece. One thread, as each rank has: so that sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        logits = Decoder(as_stored(checkpoint.config), checkpoint.tensor)(torch.tensor(TOKEN_IDS))
    torch.set_num_threads(threads)
    return np.asarray(logits.numpy())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Floats, Floats]]:
    """By name, what the ranks and the whole give: all from one start of four processes."""
    folder = tmp_path_factory.mktemp("ranks")
    checkpoints: dict[str, Path] = {}
    for architecture in tiny_models.ARCHITECTURES:
        config = tiny_models.config(architecture, vocab_size=VOCAB_SIZE)
        for tp, pp in MAPPINGS:
            path = folder / f"{architecture}-{tp}-{pp}"
            tensors = tiny_llama.tensors(config)
            write_checkpoint(path, config.sharded(tp, pp), tensors.__getitem__, tiny_llama.tokenizer_files())
            checkpoints[path.name] = path
    source = tiny_quantized.source(folder / "source", tiny_quantized.config(None, vocab_size=VOCAB_SIZE))
    for algo in tiny_quantized.QUANT_ALGOS:
        of = tiny_quantized.config(algo, kv_cache="FP8", vocab_size=VOCAB_SIZE).sharded(4, 1)
        checkpoints[f"{algo}"] = tiny_quantized.quantized(folder / f"{algo}", of, source).directory
    checkpoints["swapped"] = swapped_keys_and_values(folder / "swapped", source)
    found = run_ranks_of(list(checkpoints.values()), TOKEN_IDS, timeout_s=200)
    return {
        name: (logits, whole_logits(source if name == "swapped" else Checkpoint.open(path)))
        for (name, path), logits in zip(checkpoints.items(), found, strict=True)
    }


@pytest.mark.parametrize(("tp", "pp"), MAPPINGS)
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_ranks_together_are_the_model(
    runs: dict[str, tuple[Floats, Floats]], architecture: Architecture, tp: int, pp: int
) -> None:
    """TP4 over two key/value heads repeats them; Gemma has but one."""
    found, expected = runs[f"{architecture}-{tp}-{pp}"]
    assert found.shape == (len(TOKEN_IDS), VOCAB_SIZE)
    assert np.abs(expected).max() > 1
    if tp == 1:
        assert np.array_equal(found, expected)
    assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("quant_algo", tiny_quantized.QUANT_ALGOS)
def test_scales_are_sharded_with_their_weights(runs: dict[str, tuple[Floats, Floats]], quant_algo: str | None) -> None:
    found, expected = runs[f"{quant_algo}"]
    assert np.abs(found - expected).max() < TOLERANCE


def test_swapped_heads_show(runs: dict[str, tuple[Floats, Floats]]) -> None:
    """Every tensor of such a rank has the right name, type and shape."""
    found, expected = runs["swapped"]
    assert np.abs(found - expected).max() > 0.1


def test_a_rank_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None, vocab_size=VOCAB_SIZE))
    unpadded = source.tensor("lm_head.weight")[161:]
    directory = broken(tmp_path / "broken", source, 1, {"lm_head.weight": unpadded})
    with pytest.raises(SetupError, match=r"rank 1 .*lm_head\.weight of the model, is F16 \[160, 64\].*\[161, 64\]"):
        run_ranks(directory, TOKEN_IDS, timeout_s=60)


def test_ranks_that_do_not_end_are_ended(tmp_path: Path) -> None:
    directory = tiny_llama.checkpoint(tmp_path, tiny_llama.config().sharded(2, 1))
    with pytest.raises(SetupError, match=r"ranks \[0, 1\] have not ended within 0\.01 s"):
        run_ranks(directory, TOKEN_IDS, timeout_s=0.01)
