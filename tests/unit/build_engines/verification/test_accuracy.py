from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.config import QuantAlgo
from build_engines.verification.accuracy import accuracy_table, linear_bytes
from tests import tiny_llama
from tests.unit.build_engines.verification import tiny_quantized


def test_the_table_has_a_row_for_what_is_rounded(tmp_path: Path) -> None:
    source = tiny_quantized.source(tmp_path / "source", tiny_quantized.config(None))
    directories = {
        algo: tiny_quantized.quantized(tmp_path / algo, tiny_quantized.config(algo), source).directory
        for algo in ("W8A16", "FP8")
    }
    token_ids = np.random.default_rng(0).integers(0, tiny_llama.VOCAB_SIZE, (2, 32))
    table = accuracy_table(source, directories, token_ids)
    int8, fp8 = table.rows
    assert int8.simulated is None
    assert fp8.simulated
    assert fp8.simulated.kl_divergence > fp8.weights_only.kl_divergence > int8.weights_only.kl_divergence > 0
    assert fp8.worst_weight_error > fp8.mean_weight_error > int8.mean_weight_error > 0
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("62 predicted tokens")
    assert [line.split(" |")[:2] for line in lines[4:]] == [
        ["| W8A16", " weights"],
        ["| FP8", " weights"],
        ["|", " all"],
    ]
    assert len({line.count("|") for line in lines[2:]}) == 1
    rows = json.loads(table.to_json())
    assert [row["name"] for row in rows] == ["W8A16", "FP8"]
    assert rows[1]["simulated"]["top1_agreement"] == fp8.simulated.top1_agreement


@pytest.mark.parametrize(
    ("quant_algo", "bits"),
    [(None, 16), ("W8A16", 8), ("W4A16", 4), ("FP8", 8), ("W8A8_SQ_PER_CHANNEL", 8), ("W4A16_AWQ", 4), ("NVFP4", 4)],
)
def test_bytes_are_those_of_the_weights_and_a_little_more(quant_algo: QuantAlgo | None, bits: int) -> None:
    config = tiny_quantized.config(quant_algo, hidden_size=1024, head_size=256, intermediate_size=4096)
    qkv, dense, mlp = 8 * 256 * 1024, 1024 * 1024, 3 * 1024 * 4096
    weights = 2 * (qkv + dense + mlp) * bits // 8
    # Groups of 16 have scales of 32 bits in AWQ, of 8 in NVFP4.
    groups = {"W4A16_AWQ": 4, "NVFP4": 1}.get(quant_algo or "", 0) * 2 * (qkv + dense + mlp) // 16
    assert 0 <= linear_bytes(config) - weights - groups < 0.01 * weights
