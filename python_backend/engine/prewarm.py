"""Computing common prompts before the engine serves, so that requests which begin like them start at once.

Their KV stays pinned in the cache: it is never evicted, whatever comes. Pinned are full blocks: of a prompt of 100
tokens and blocks of 32, the first 96 tokens are shared for good and the others are computed with each request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from python_backend.engine.engine import Engine
from python_backend.errors import InvalidRequest, SetupError
from python_backend.scheduling.block_hash import block_hash
from python_backend.scheduling.sequence import FinishReason, Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PrewarmReport:
    """What prewarming came to."""

    prompts: int  # that are pinned as far as their full blocks go
    skipped: int  # for which there was no time
    tokens: int  # whose KV is pinned
    blocks: int  # that is in
    seconds: float


def prewarm(
    engine: Engine,
    prompts: Many[npt.NDArray[np.int64]],
    *,
    cache_salt: bytes = b"",
    max_share: float = 0.5,
    time_limit_s: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
) -> PrewarmReport:
    """Compute the prompts and pin their full blocks. To be called before ``engine.start``.

    They go the way of every request, one after another, so that later ones reuse what earlier ones share with them.
    Only requests of the same cache salt find them. Once ``time_limit_s`` is over, the prompts that are left are skipped
    with a warning: readiness is late by that and one step at most.

    Raises SetupError when the engine does not reuse blocks or the prompts would fill more than ``max_share`` of the KV
    cache, before anything is computed; and when a prompt is refused as a request would be, or cannot be computed.
    """
    sequences = [
        Sequence(id=f"prewarm-{number}", prompt=prompt, max_new_tokens=1, cache_salt=cache_salt)
        for number, prompt in enumerate(prompts, 1)
    ]
    _check(engine, sequences, max_share)
    begin_s = clock()
    done = 0
    for sequence in sequences:
        if not _compute(engine, sequence, lambda: clock() - begin_s < time_limit_s):
            log.warning("prewarm stopped: time_limit_s=%g prompts=%d of %d", time_limit_s, done, len(sequences))
            break
        blocks = engine.pin(sequence)
        done += 1
        log.info(
            "prewarm: prompt=%d of %d tokens=%d pinned_blocks=%d reused_blocks=%d seconds=%.1f",
            done, len(sequences), sequence.prompt_tokens, blocks, sequence.reused_blocks, clock() - begin_s,
        )  # fmt: skip
    pinned = engine.statistics.blocks.pinned
    return PrewarmReport(
        prompts=done,
        skipped=len(sequences) - done,
        tokens=pinned * engine.executor.tokens_per_block,
        blocks=pinned,
        seconds=clock() - begin_s,
    )


def _check(engine: Engine, sequences: list[Sequence], max_share: float) -> None:
    if sequences and not engine.config.enable_kv_cache_reuse:
        raise SetupError(
            f"{len(sequences)} prompts are to be prewarmed, but enable_kv_cache_reuse is false. "
            "Set it to true, or leave the prompts out."
        )
    size, available = engine.executor.tokens_per_block, engine.executor.num_blocks
    distinct = {block_hash(s, index, size) for s in sequences for index in range(s.prompt_tokens // size)}
    allowed = int(available * max_share)
    if len(distinct) > allowed:
        raise SetupError(
            f"{len(sequences)} prewarm prompts fill {len(distinct)} KV cache blocks of {size} tokens; {allowed} of "
            f"{available} may be pinned ({max_share:.0%}). Shorten the prompts or enlarge the KV cache."
        )


def _compute(engine: Engine, sequence: Sequence, in_time: Callable[[], bool]) -> bool:
    """Run the sequence to its end; False when time was up before."""
    try:
        engine.submit(sequence)
    except InvalidRequest as error:
        raise SetupError(f"{sequence.id}: {error}") from error
    while sequence.finish_reason is None:
        if not in_time():
            engine.cancel(sequence)
            return False
        engine.step()
    if sequence.finish_reason is FinishReason.ERROR:
        raise SetupError(f"{sequence.id}: the engine could not compute it; the log has the details.")
    return True
