"""What sampling costs the CPU engine, next to plain greedy decoding of the same prompts in the same run."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from perf.engine_tokenizer import load_tokenizer
from perf.prompts import PromptSource
from python_backend.engine.engine import Engine
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.engine.sampling import SamplingParameters, SamplingState
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import Sequence

GREEDY = "greedy"
_PROMPT_TOKENS = (32, 128)
_MARGIN_TOKENS = 64  # what a sequence's last block leaves empty is less


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens per second of one way to choose tokens, in each round."""

    name: str
    tokens_per_s: list[float]
    of_greedy: float  # median over the rounds of the ratio to the greedy run next to it


def settings(vocab_size: int, max_tokens: int) -> dict[str, SamplingParameters]:
    """The ways to choose tokens that are compared. "all" is everything that a request can ask for but logits."""
    bias = np.zeros(vocab_size, np.float32)
    bias[10:30] = 1.5
    everything = SamplingParameters(
        temperature=0.8, top_k=50, top_p=0.95, repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1,
        min_tokens=max_tokens, seed=1, embedding_bias=bias, bad_words=((500,), (600, 601), (700, 701, 702)),
        return_log_probs=True,
    )  # fmt: skip
    return {
        "top-k 50": SamplingParameters(top_k=50, seed=1),
        "top-p 0.9": SamplingParameters(top_p=0.9, seed=1),
        "log probs": SamplingParameters(return_log_probs=True),
        "all": everything,
        "all, top-p alone": replace(everything, top_k=0, top_p_decay=0.99, top_p_min=0.5),
        "all, and generation logits": replace(everything, return_generation_logits=True),
    }


def sampling(options: argparse.Namespace) -> int:
    """The command: measure, print, and write the figures where asked."""
    source = PromptSource(load_tokenizer(options.engine_dir), *_PROMPT_TOKENS, options.seed)
    prompts = [np.array(prompt.token_ids) for prompt in source.take(options.sequences)]
    tokens = options.sequences * (_PROMPT_TOKENS[1] + options.max_tokens + _MARGIN_TOKENS)
    executor = OpenVinoExecutor(options.engine_dir, max_kv_cache_tokens=tokens, mode=ExecutionMode.FAST)
    ways = settings(executor.vocab_size, options.max_tokens)
    speeds: dict[str, list[float]] = {name: [] for name in (GREEDY, *ways)}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    with Console().status("measuring"):
        _speed(executor, prompts, options.max_tokens, None)
        for _ in range(options.rounds):
            for name, way in ways.items():
                greedy = _speed(executor, prompts, options.max_tokens, None)
                speed = _speed(executor, prompts, options.max_tokens, way)
                speeds[GREEDY].append(greedy)
                speeds[name].append(speed)
                ratios[name].append(speed / greedy)
    costs = [Cost(name, speeds[name], median(ratios.get(name, [1.0]))) for name in speeds]
    table = Table(title=f"{options.sequences} sequences of {options.max_tokens} tokens")
    for title in ("tokens", "tok/s, median", "of greedy"):
        table.add_column(title, justify="left" if title == "tokens" else "right")
    for cost in costs:
        table.add_row(cost.name, f"{median(cost.tokens_per_s):.0f}", f"{cost.of_greedy:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    return 0


def _speed(
    executor: OpenVinoExecutor, prompts: list[npt.NDArray[np.int64]], max_tokens: int, way: SamplingParameters | None
) -> float:
    """Generated tokens per second, all prompts at once, from the first to the last token."""
    config = SchedulerConfig(
        max_batch_size=len(prompts),
        max_num_tokens=1024,
        max_seq_len=_PROMPT_TOKENS[1] + max_tokens,
        enable_kv_cache_reuse=False,
    )
    engine = Engine(executor, config, lambda report: None)
    for index, prompt in enumerate(prompts):
        state = None if way is None else SamplingState(way.derived(index))
        engine.submit(Sequence(id=str(index), prompt=prompt, max_new_tokens=max_tokens, sampling=state))
    started = time.perf_counter()
    while engine.step():
        pass
    return len(prompts) * max_tokens / (time.perf_counter() - started)
