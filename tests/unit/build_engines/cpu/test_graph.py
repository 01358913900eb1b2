"""The compiled engine computes what transformers computes, however its work is cut into steps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.cpu.compile import compile_cpu_engine
from tests import tiny_llama
from tests.reference_model import ReferenceModel
from tests.unit.build_engines.cpu.paged_steps import PagedSequence, PagedSteps

CONFIGS = {
    "int8, tied": (tiny_llama.config(), True),
    "int8, own lm_head": (tiny_llama.config(tied=False), True),
    "int8 layers only": (tiny_llama.config(), False),
    "float16": (tiny_llama.config(quant_algo=None), False),
    "float32, own lm_head": (tiny_llama.config(dtype="float32", quant_algo=None, tied=False), False),
    "heads of 16": (tiny_llama.config(head_size=16), True),
    "heads of 128": (tiny_llama.config(head_size=128), True),
}
PROMPTS = [[5, 6, 7], list(range(40, 110)), [300], list(range(100, 133))]


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """An engine, and whether its lm_head is INT8."""
    config, quantize_lm_head = CONFIGS[request.param]
    return tiny_llama.engine(
        tmp_path_factory.mktemp("tiny"), config, quantize_lm_head=quantize_lm_head
    ), quantize_lm_head


def reference(engine_dir: Path, quantize_lm_head: bool) -> ReferenceModel:
    return ReferenceModel(engine_dir.parent / "checkpoint", quantize_lm_head=quantize_lm_head)


def test_greedy_output_equals_transformers_in_every_batching(case: tuple[Path, bool]) -> None:
    engine_dir, quantize_lm_head = case
    oracle, steps = reference(engine_dir, quantize_lm_head), PagedSteps(engine_dir)
    expected = [oracle.greedy(prompt, 12) for prompt in PROMPTS]
    assert steps.generate(PROMPTS, 12) == expected
    assert [steps.generate([prompt], 12)[0] for prompt in PROMPTS] == expected
    assert steps.generate(PROMPTS, 12, chunk=7) == expected


def test_logits_of_all_positions_equal_transformers(case: tuple[Path, bool]) -> None:
    engine_dir, quantize_lm_head = case
    tokens = np.random.default_rng(1).integers(0, tiny_llama.VOCAB_SIZE, 200).tolist()
    steps = PagedSteps(engine_dir, outputs=["token_ids", "logits"])
    sequence = PagedSequence(tokens, list(range(10)))
    found = steps.infer([(sequence, len(tokens))], range(len(tokens)), "logits")
    expected = reference(engine_dir, quantize_lm_head).logits(tokens)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> PagedSteps:
    return PagedSteps(tiny_llama.engine(tmp_path_factory.mktemp("tiny")))


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=5), chunk=st.integers(1, 40), seed=st.integers(0, 99))
def test_batch_and_chunks_do_not_change_the_output(
    steps: PagedSteps, lengths: list[int], chunk: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    prompts = [random.integers(0, tiny_llama.VOCAB_SIZE, length).tolist() for length in lengths]
    alone = [steps.generate([prompt], 6)[0] for prompt in prompts]
    assert steps.generate(prompts, 6, chunk=chunk) == alone


def test_blocks_of_another_sequence_can_be_reused(steps: PagedSteps) -> None:
    block = steps.tokens_per_block
    shared = np.random.default_rng(2).integers(0, tiny_llama.VOCAB_SIZE, 2 * block).tolist()
    first, second = [*shared, 1, 2, 3], [*shared, 4, 5]
    expected = steps.generate([second], 1)[0]
    steps.infer([(PagedSequence(first, [9, 3, 5]), len(first))], [0], "token_ids")
    reusing = PagedSequence(second, [9, 3, 7], cached=2 * block)
    assert steps.infer([(reusing, 2)], [1], "token_ids").tolist() == expected


def test_draft_tokens_are_verified_in_one_step(steps: PagedSteps) -> None:
    prompt = [7, 8, 9, 10]
    output = steps.generate([prompt], 6)[0]
    sequence = PagedSequence([*prompt, *output], [0])
    steps.infer([(sequence, len(prompt))], [], "token_ids")
    assert steps.infer([(sequence, 5)], range(5), "token_ids").tolist() == output[1:]


def test_no_sampled_rows_give_no_tokens(steps: PagedSteps) -> None:
    assert steps.infer([(PagedSequence([1, 2, 3], [0]), 3)], [], "token_ids").shape == (0,)


def test_equal_logits_choose_the_lowest_id(tmp_path: Path) -> None:
    config = tiny_llama.config(dtype="float32", quant_algo=None)
    weights = tiny_llama.tensors(config)
    table = weights["transformer.vocab_embedding.weight"]
    table[160:] = table[:160]  # Every token has a twin.
    write_checkpoint(tmp_path / "checkpoint", config, weights.__getitem__, tiny_llama.tokenizer_files())
    compile_cpu_engine(tmp_path / "checkpoint", tmp_path / "engine")
    steps = PagedSteps(tmp_path / "engine", outputs=["token_ids", "logits"])
    sequence = PagedSequence(list(range(60)), [0, 1])
    logits = steps.infer([(sequence, 60)], range(60), "logits")
    sequence.cached = 0
    assert steps.infer([(sequence, 60)], range(60), "token_ids").tolist() == logits.argmax(axis=1).tolist()


def test_the_plugin_recognizes_every_layer(steps: PagedSteps) -> None:
    config = tiny_llama.config()
    found: Counter[tuple[str, str]] = Counter()
    for node in steps.compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        found[info["layerType"], info["runtimePrecision"] if info["layerType"] == "FullyConnected" else ""] += 1
    layers = config.num_hidden_layers
    assert found["PagedAttention", ""] == layers
    assert found["RoPE", ""] == 2 * layers
    assert found["RMS", ""] == 2 * layers + 1
    assert found["FullyConnected", "i8"] == 5 * layers + 1


def test_long_context_equals_transformers(tmp_path: Path) -> None:
    config: CheckpointConfig = tiny_llama.config(num_hidden_layers=1, max_position_embeddings=8192)
    engine_dir = tiny_llama.engine(tmp_path, config)
    tokens = np.random.default_rng(3).integers(0, tiny_llama.VOCAB_SIZE, 4000).tolist()
    steps = PagedSteps(engine_dir, num_blocks=125, outputs=["token_ids", "logits"])
    found = steps.infer([(PagedSequence(tokens, list(range(125))), 4000)], range(3900, 4000), "logits")
    expected = reference(engine_dir, quantize_lm_head=True).logits(tokens)[3900:]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
