"""A checkpoint run as its ranks: one process a rank, which sum and gather where TensorRT-LLM does.

This proves the sharding, and not only that the shards can be merged: a rank that holds the wrong heads, or the wrong
scale, gives other logits. W8A16 and W4A16 run with the plain weights that are stored. An engine build quantizes them on
each rank, so that its row-parallel layers get scales that the whole model does not have.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.quantization.weights import Floats
from build_engines.verification.rank_process import JOB_FILE, RankJob
from python_backend.errors import SetupError

_POLL_S = 0.05
#: After one rank has failed, others say why they did: the first to end need not be the one at fault.
_GRACE_S = 2.0
_SHOWN_LINES = 3


def run_ranks(checkpoint_dir: Path, token_ids: Sequence[int], *, timeout_s: float = 600.0) -> Floats:
    """Logits [tokens, vocabulary] of one sequence, from as many processes as ``checkpoint_dir`` has ranks.

    Raises SetupError when a rank fails, with what it said, or when they take longer than ``timeout_s``.
    """
    return run_ranks_of([checkpoint_dir], token_ids, timeout_s=timeout_s)[0]


def run_ranks_of(
    checkpoint_dirs: Sequence[Path], token_ids: Sequence[int], *, timeout_s: float = 600.0
) -> list[Floats]:
    """The same for several checkpoints, one after the other in the same processes, which take seconds to start."""
    processes = max(CheckpointConfig.read(path).mapping.world_size for path in checkpoint_dirs)
    job = RankJob(
        checkpoint_dirs=[path.absolute() for path in checkpoint_dirs],
        token_ids=list(token_ids),
        processes=processes,
        timeout_s=timeout_s,
    )
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        workplace = Path(folder)
        (workplace / JOB_FILE).write_text(job.model_dump_json(), encoding="utf-8")
        _run_processes(workplace, processes, timeout_s)
        return [np.load(job.logits_file(workplace, run)) for run in range(len(checkpoint_dirs))]


def _run_processes(workplace: Path, count: int, timeout_s: float) -> None:
    logs: list[IO[str]] = []
    ranks: list[subprocess.Popen[str]] = []
    try:
        for rank in range(count):
            logs.append((workplace / f"rank{rank}.log").open("w+", encoding="utf-8", errors="replace"))
            ranks.append(_start(workplace, rank, count, logs[rank]))
        _wait(ranks, logs, timeout_s)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
        for log in logs:
            log.close()


def _start(workplace: Path, rank: int, count: int, log: IO[str]) -> subprocess.Popen[str]:
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    threads = max(1, (os.cpu_count() or 1) // count)
    return subprocess.Popen(
        [sys.executable, "-m", "build_engines.verification.rank_process", str(workplace), str(rank)],
        env=os.environ | {"GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        text=True,
    )


def _wait(ranks: Sequence[subprocess.Popen[str]], logs: Sequence[IO[str]], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while any(process.poll() is None for process in ranks):
        if any(process.returncode for process in ranks):
            time.sleep(_GRACE_S)
            break
        if time.monotonic() > deadline_s:
            running = [rank for rank, process in enumerate(ranks) if process.poll() is None]
            raise SetupError(f"ranks {running} have not ended within {timeout_s:g} s. Try again with a longer limit.")
        time.sleep(_POLL_S)
    failed = [rank for rank, process in enumerate(ranks) if process.poll()]
    if failed:
        said = "; ".join(f"rank {rank} (exit code {ranks[rank].returncode}): {_last(logs[rank])}" for rank in failed)
        raise SetupError(f"the checkpoint's ranks failed. {said}")


def _last(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return " / ".join(lines[-_SHOWN_LINES:]) or "said nothing"
