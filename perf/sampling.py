"""What sampling costs the CPU engine: two engines on the same prompts, one greedy, take steps in turns.

Turns of a step make the two see the same machine, however busy others keep it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace

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

_PROMPT_TOKENS = (32, 128)
_MARGIN_TOKENS = 64  # what a sequence's last block leaves empty is less


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that all steps took with one way to choose tokens, and those of greedy decoding beside them."""

    name: str
    tokens: int
    seconds: float
    greedy_seconds: float


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
    greedy, sampled = (
        OpenVinoExecutor(options.engine_dir, max_kv_cache_tokens=tokens, mode=ExecutionMode.FAST) for _ in range(2)
    )
    costs = []
    with Console().status("measuring"):
        for name, way in settings(sampled.vocab_size, options.max_tokens).items():
            engines = (
                _engine(greedy, prompts, options.max_tokens, None),
                _engine(sampled, prompts, options.max_tokens, way),
            )
            greedy_seconds, seconds = _in_turns(*engines)
            costs.append(Cost(name, len(prompts) * options.max_tokens, seconds, greedy_seconds))
    table = Table(title=f"{options.sequences} sequences of {options.max_tokens} tokens")
    for title in ("tokens are chosen by", "tok/s", "greedy beside it", "of greedy"):
        table.add_column(title, justify="right" if table.columns else "left")
    for cost in costs:
        speeds = (f"{cost.tokens / taken:.0f}" for taken in (cost.seconds, cost.greedy_seconds))
        table.add_row(cost.name, *speeds, f"{cost.greedy_seconds / cost.seconds:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    return 0


def _engine(
    executor: OpenVinoExecutor, prompts: list[npt.NDArray[np.int64]], max_tokens: int, way: SamplingParameters | None
) -> Engine:
    """One that has all prompts behind it, and its first tokens."""
    config = SchedulerConfig(
        max_batch_size=len(prompts),
        max_num_tokens=len(prompts) * _PROMPT_TOKENS[1],
        max_seq_len=_PROMPT_TOKENS[1] + max_tokens + 1,
        enable_kv_cache_reuse=False,
    )
    engine = Engine(executor, config, lambda report: None)
    for index, prompt in enumerate(prompts):
        state = None if way is None else SamplingState(way.derived(index))
        engine.submit(Sequence(id=str(index), prompt=prompt, max_new_tokens=max_tokens + 1, sampling=state))
    engine.step()
    return engine


def _in_turns(*engines: Engine) -> list[float]:
    """Seconds that each took for its steps."""
    taken = [0.0] * len(engines)
    busy = True
    while busy:
        for index, engine in enumerate(engines):
            started = time.perf_counter()
            busy = engine.step()
            taken[index] += time.perf_counter() - started
    return taken
