"""``python -m perf prewarm``: the first token of requests that begin with a common prompt, prewarmed and not.

Two servers, one of which computed the prompts when it started, are asked in turns, one request at a time. Each prompt
is asked for once: to the other server it is new.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from perf.bench_report import environment
from perf.closed_loop import Load
from perf.engine_tokenizer import load_tokenizer
from perf.metrics import METRICS
from perf.own_server import own_server
from perf.prompts import Prompt, PromptSource
from perf.triton_load import run_load

_QUESTION = " And what came of it?"
_ANSWER_TOKENS = 8


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Times to the first token of one prompt, in milliseconds."""

    prompt_tokens: int
    prewarmed_ms: float
    new_ms: float


def prewarm(options: argparse.Namespace) -> int:
    """Measure, print, and write the figures where asked."""
    tokenizer = load_tokenizer(options.engine_dir)
    prompts = PromptSource(tokenizer, options.prompt_tokens, options.prompt_tokens, options.seed).take(options.prompts)
    questions = [
        Prompt(prompt.text + _QUESTION, tuple(tokenizer.encode(prompt.text + _QUESTION).ids)) for prompt in prompts
    ]
    with tempfile.TemporaryDirectory(prefix="slipstream-perf-") as scratch, Console().status("starting two servers"):
        file = Path(scratch) / "prewarm.yaml"
        file.write_text(json.dumps([{"text": prompt.text} for prompt in prompts]))
        where = (options.model_repository, options.engine_dir, ("ensemble",))
        with (
            own_server(*where, parameters={"tensorrt_llm": {"prewarm_file": str(file)}}) as warm,
            own_server(*where) as cold,
        ):
            found = [FirstToken(len(q.token_ids), *_in_turn(warm.grpc_url, cold.grpc_url, q)) for q in questions]
    Console().print(table(found))
    if options.json:
        figures = {"environment": environment(), "first_tokens": [asdict(each) for each in found]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _in_turn(warm_url: str, cold_url: str, question: Prompt) -> tuple[float, float]:
    load = Load(workers=((question,),), max_tokens=_ANSWER_TOKENS)
    times = []
    for url in (warm_url, cold_url):
        records = run_load(url, load)
        load.check(records)
        (time_ms,) = METRICS["time_to_first_token"].samples(records)
        times.append(time_ms)
    return times[0], times[1]


def table(found: Sequence[FirstToken]) -> Table:
    """Medians, and the reduction, prompt by prompt."""
    result = Table(title=f"time to first token, median of {len(found)} prompts")
    for header in ("prompt tokens", "prewarmed (ms)", "new (ms)", "reduction (smallest-largest)"):
        result.add_column(header, justify="right")
    reductions = [1 - each.prewarmed_ms / each.new_ms for each in found]
    result.add_row(
        f"{median(each.prompt_tokens for each in found):.0f}",
        f"{median(each.prewarmed_ms for each in found):.1f}",
        f"{median(each.new_ms for each in found):.1f}",
        f"{median(reductions):.0%} ({min(reductions):.0%}-{max(reductions):.0%})",
    )
    return result
