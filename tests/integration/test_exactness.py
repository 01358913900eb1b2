"""In exact mode the engine's greedy tokens, through the server, are those of transformers on the same weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint.config import Architecture, QuantAlgo
from build_engines.cpu.compile import compile_cpu_engine
from client import chatml
from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.conftest import ROOT
from tests.integration.triton_api import metric, stream, token_request, wait_until_idle
from tests.reference_model import ReferenceModel
from tests.unit.build_engines.cpu import tiny_checkpoints

pytestmark = pytest.mark.server

Serve = Callable[..., AbstractContextManager[TritonServer]]

QUESTIONS = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "List three prime numbers and say why they are prime.",
    "Translate 'good morning' into Spanish, German and Italian.",
    "Explain photosynthesis to a child.",
    "def fibonacci(n):  # complete this Python function",
    "Summarise: The quick brown fox jumps over the lazy dog, again and again, until dusk.",
    "Who wrote Don Quixote, and when?",
    "Give me a recipe for pancakes.",
    "What is 17 times 23? Show your work.",
    "Name the planets of the solar system in order.",
    "Why do cats purr?",
    "Write an e-mail that asks for a day off.",
    "What does the HTTP status code 404 mean?",
    "Continue: It was a dark and stormy night;",
    "日本の首都はどこですか。",
    "Quelle est la différence entre un lac et un étang ?",
    "Describe the colour blue to someone who cannot see. 🙂",
    "SELECT name FROM users WHERE age > 30; -- what does this do?",
    "Give three reasons to learn mathematics.",
]


def greedy_mismatches(model: ReferenceModel, prompt: list[int], output: list[int]) -> list[str]:
    """Where ``output`` is not the greedy continuation, with the logits of both choices.

    One pass over prompt and output suffices: as long as all earlier tokens agree, the logits at each position are those
    that a greedy decoder would have seen there.
    """
    logits = model.logits(prompt + output)[len(prompt) - 1 : -1]
    best = logits.argmax(-1).tolist()
    return [
        f"token {i}: {ours} (logit {logits[i, ours]:.5f}) instead of {theirs} (logit {logits[i, theirs]:.5f})"
        for i, (ours, theirs) in enumerate(zip(output, best, strict=True))
        if ours != theirs
    ]


def generate_all(server: TritonServer, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
    outputs: list[list[int]] = [[] for _ in prompts]

    def ask(index: int) -> None:
        outputs[index] = stream(
            server, "tensorrt_llm", token_request(prompts[index], counts[index], streaming=True)
        ).ids

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outputs


def test_20_real_prompts_of_the_demo_model(exact_server: TritonServer, demo_engine: Path) -> None:
    tokenizer = Tokenizer.load(demo_engine)
    texts = [chatml(question) for question in QUESTIONS]
    prompts = [tokenizer.encode(text, add_special_tokens=True).tolist() for text in texts]
    together = generate_all(exact_server, prompts, [64] * len(prompts))
    assert [len(output) for output in together] == [64] * len(prompts)
    model = ReferenceModel(ROOT / "checkpoints" / "smollm2-135m-int8", quantize_lm_head=True)
    mismatches = {
        text: found
        for text, prompt, output in zip(texts, prompts, together, strict=True)
        if (found := greedy_mismatches(model, prompt, output))
    }
    assert mismatches == {}
    reused = metric(exact_server, "slipstream_tokens_total", type="reused")
    alone = [stream(exact_server, "tensorrt_llm", token_request(prompt, 64)).ids for prompt in prompts[:5]]
    assert alone == together[:5]
    wait_until_idle(exact_server)
    assert metric(exact_server, "slipstream_tokens_total", type="reused") > reused, "the second time reuses blocks"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_tokens": "17", "max_running_sequences": "16"},
        {"enable_kv_cache_reuse": "false"},
        {"batch_scheduler_policy": "max_utilization", "max_tokens_in_paged_kv_cache": "600"},
    ],
    ids=["defaults", "chunked", "without-reuse", "paused-and-resumed"],
)
def test_tiny_random_models_however_their_work_is_scheduled(
    serve: Serve, tiny_engine: Path, tiny_checkpoint: Path, settings: dict[str, str]
) -> None:
    random = np.random.default_rng(1)
    shared = random.integers(3, 250, 80).tolist()
    prompts = [
        [*(shared if i % 2 else []), *random.integers(3, 250, int(random.integers(1, 60))).tolist()] for i in range(24)
    ]
    counts = [int(random.integers(20, 100)) for _ in prompts]
    with serve(tiny_engine, execution_mode="exact", **settings) as server:
        outputs = generate_all(server, prompts, counts)
        wait_until_idle(server)
    assert [len(output) for output in outputs] == counts
    model = ReferenceModel(tiny_checkpoint, quantize_lm_head=True)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert greedy_mismatches(model, prompt, output) == []


@pytest.mark.parametrize(
    ("architecture", "quant_algo"),
    [("Qwen3ForCausalLM", "W4A16_AWQ"), ("GemmaForCausalLM", "FP8"), ("Qwen2ForCausalLM", "NVFP4")],
)
def test_other_architectures_and_formats_from_sharded_checkpoints(
    serve: Serve, tmp_path: Path, architecture: Architecture, quant_algo: QuantAlgo
) -> None:
    config = tiny_checkpoints.config(architecture, quant_algo)
    whole = tiny_checkpoints.tensors(config)
    checkpoint = tiny_checkpoints.write(tmp_path / "checkpoint", config.sharded(2, 2), whole)
    compile_cpu_engine(checkpoint, tmp_path / "engine", quantize_lm_head=False)
    random = np.random.default_rng(2)
    prompts = [random.integers(3, 250, int(random.integers(2, 60))).tolist() for _ in range(8)]
    with serve(tmp_path / "engine", execution_mode="exact") as server:
        outputs = generate_all(server, prompts, [24] * len(prompts))
    model = ReferenceModel(checkpoint, quantize_lm_head=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == 24
        assert greedy_mismatches(model, prompt, output) == []
