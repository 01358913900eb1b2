"""How much the tokens of the fast mode vary with the batch, and how near to a tie the logits are where they do.

Greedy decoding of the same prompts in exact mode is the reference: it does not vary. At the first token where an answer
of the fast mode differs, the gap is what the exact logits say: reference token's logit minus that of the chosen one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from perf.engine_tokenizer import load_tokenizer
from perf.prompts import PromptSource
from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import Sequence
from python_backend.scheduling.step_batch import StepBatch

Tokens = list[int]

MARGIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Variance:
    """Answers of the fast mode at one batch size, next to those of the exact mode."""

    batch_size: int
    answers: int
    differing: int  # answers with at least one other token
    first_difference: list[int]  # for each of those, the tokens before it
    logit_gap: list[float]  # for each of those, the gap there


def measure(
    engine_dir: Path, batch_sizes: tuple[int, ...], num_prompts: int, max_tokens: int, seed: int
) -> list[Variance]:
    """Generate every prompt in exact mode alone, and in fast mode in batches of each size."""
    source = PromptSource(load_tokenizer(engine_dir), 16, 64, seed)
    prompts = [list(prompt.token_ids) for prompt in source.take(num_prompts)]
    # Room for the largest batch at its longest; what a sequence's last block leaves empty is less than MARGIN_TOKENS.
    kv_cache_tokens = max(batch_sizes) * (max(map(len, prompts)) + max_tokens + MARGIN_TOKENS)
    exact, fast = (
        OpenVinoExecutor(engine_dir, max_kv_cache_tokens=kv_cache_tokens, mode=mode)
        for mode in (ExecutionMode.EXACT, ExecutionMode.FAST)
    )
    reference = _generate(exact, prompts, max_tokens, 1)
    results = []
    for batch_size in batch_sizes:
        answers = _generate(fast, prompts, max_tokens, batch_size)
        firsts, gaps = [], []
        for prompt, expected, answer in zip(prompts, reference, answers, strict=True):
            first = next((i for i in range(max_tokens) if expected[i] != answer[i]), None)
            if first is not None:
                row = _last_logits(exact, prompt + expected[:first])
                firsts.append(first)
                gaps.append(float(row[expected[first]] - row[answer[first]]))
        results.append(Variance(batch_size, num_prompts, len(firsts), firsts, gaps))
    return results


def variance(options: argparse.Namespace) -> int:
    """The command: measure, print, and write the figures where asked."""
    results = measure(options.engine_dir, options.batch_sizes, options.prompts, options.max_tokens, options.seed)
    table = Table(title=f"fast mode against exact mode, {options.max_tokens} tokens an answer")
    for title in ("batch", "answers", "that differ", "first difference, median", "logit gap, median", "largest"):
        table.add_column(title, justify="right")
    for found in results:
        figures = ["-"] * 3
        if found.differing:
            gaps = np.array(found.logit_gap)
            figures = [f"token {np.median(found.first_difference):.0f}", f"{np.median(gaps):.3f}", f"{gaps.max():.3f}"]
        table.add_row(str(found.batch_size), str(found.answers), str(found.differing), *figures)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(found) for found in results], indent=1))
    return 0


def _generate(executor: OpenVinoExecutor, prompts: list[Tokens], max_tokens: int, batch_size: int) -> list[Tokens]:
    """Greedy answers; ``batch_size`` prompts at a time as long as there are as many."""
    answers: dict[str, Tokens] = {str(i): [] for i in range(len(prompts))}

    def listen(report: StepReport) -> None:
        for sequence, tokens, _ in report.progress:
            answers[sequence.id] += tokens

    config = SchedulerConfig(
        max_batch_size=batch_size,
        max_num_tokens=512,
        max_seq_len=max(map(len, prompts)) + max_tokens,
        enable_kv_cache_reuse=False,
    )
    engine = Engine(executor, config, listen)
    for i, prompt in enumerate(prompts):
        engine.submit(Sequence(id=str(i), prompt=np.array(prompt), max_new_tokens=max_tokens))
    with Console().status(f"batches of {batch_size}"):
        while engine.step():
            pass
    return list(answers.values())


def _last_logits(executor: OpenVinoExecutor, tokens: Tokens) -> npt.NDArray[np.float32]:
    count = len(tokens)
    blocks = -(-count // executor.tokens_per_block)
    batch = StepBatch(
        input_ids=np.array(tokens),
        position_ids=np.arange(count),
        past_lens=np.zeros(1, np.int32),
        subsequence_begins=np.array([0, count], np.int32),
        block_indices=np.arange(blocks, dtype=np.int32),
        block_indices_begins=np.array([0, blocks], np.int32),
        max_context_len=count,
        sample_rows=np.array([count - 1]),
    )
    executor.execute(batch)
    row: npt.NDArray[np.float32] = executor.logits()[0].copy()
    return row
