"""``python -m perf``: load tools for a Slipstream server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from client import SlipstreamClientError
from perf.bench_command import PEER, bench
from perf.closed_loop import UnequalWork
from perf.genai_peer import PeerFailed
from perf.prewarm import prewarm
from perf.sampling import sampling
from perf.speculation import WORKLOADS, speculation
from perf.storm.command import storm
from perf.storm.door import DOORS
from perf.storm.transport import StreamFailed
from perf.variance import variance
from python_backend.errors import SlipstreamError

FAILURES = (SlipstreamError, SlipstreamClientError, UnequalWork, PeerFailed, StreamFailed, OSError, ValueError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed (a line on stderr says why), 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except FAILURES as error:
        print(f"perf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        description=__doc__.partition(": ")[2],
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_bench(commands.add_parser("bench", help="throughput and latency, next to openvino-genai"))
    _add_storm(commands.add_parser("storm", help="clients that disconnect, and what the server is like afterwards"))
    _add_sampling(commands.add_parser("sampling", help="what sampling costs, next to greedy decoding"))
    _add_prewarm(commands.add_parser("prewarm", help="the first token of a common prompt, prewarmed and not"))
    _add_speculation(commands.add_parser("speculation", help="what draft tokens gain, next to the same without"))
    _add_variance(commands.add_parser("variance", help="how much the fast mode's tokens vary with the batch"))
    return parser


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--concurrency", type=_counts, default=(1, 8, 32), metavar="N,N", help="workers (1,8,32)")
    parser.add_argument("--requests-per-worker", type=_count, default=3, metavar="N", help="in each round (3)")
    parser.add_argument("--max-tokens", type=_count, default=128, metavar="N", help="of every answer (128)")
    parser.add_argument(
        "--prompt-tokens", type=_range, default=(32, 128), metavar="N-N", help="lengths of prompts (32-128)"
    )
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="turns of each side (3)")
    parser.add_argument("--peer", choices=(PEER, "none"), default=PEER, help=f"what to compare with ({PEER})")
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        default=Path("checkpoints/smollm2-135m-int8"),
        metavar="DIR",
        help="checkpoint that the engine was made from; the peer's model is made from it too",
    )
    parser.add_argument("--json", type=_output, metavar="FILE", help="write every figure of every round")
    parser.add_argument("--plot", type=_output, metavar="FILE", help="write a picture; .png or .svg")
    parser.set_defaults(run=bench)


def _add_storm(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--seconds", type=_count, default=300, metavar="S", help="of storm at each door (300)")
    parser.add_argument("--streams", type=_count, default=32, metavar="N", help="at a time (32)")
    parser.add_argument("--door", choices=("all", *DOORS), default="all", help="all: those that the repository has")
    parser.add_argument(
        "--url",
        metavar="URL",
        help="HTTP address of a running server, with gRPC and metrics on the next two ports; its engine must run in "
        'execution_mode "exact". Without it, storm starts a server of its own',
    )
    parser.set_defaults(run=storm)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    _add_engine(parser)
    parser.add_argument("--sequences", type=_count, default=32, metavar="N", help="at a time (32)")
    parser.add_argument("--max-tokens", type=_count, default=64, metavar="N", help="of every answer (64)")
    parser.add_argument("--json", type=_output, metavar="FILE", help="write every figure")
    parser.set_defaults(run=sampling)


def _add_prewarm(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--prompts", type=_count, default=8, metavar="N", help="common prompts (8)")
    parser.add_argument("--prompt-tokens", type=_count, default=1024, metavar="N", help="of each (1024)")
    parser.add_argument("--json", type=_output, metavar="FILE", help="write every figure")
    parser.set_defaults(run=prewarm)


def _add_speculation(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--concurrency", type=_counts, default=(1, 8, 32), metavar="N,N", help="workers (1,8,32)")
    parser.add_argument(
        "--requests-per-worker", type=_count, default=2, metavar="N", help="in each round, eight requests at least (2)"
    )
    parser.add_argument("--max-tokens", type=_count, default=192, metavar="N", help="of every answer (192)")
    parser.add_argument(
        "--draft-engine-dir", type=Path, metavar="DIR", help="of a draft model, for where nothing can be looked up"
    )
    parser.add_argument("--num-draft-tokens", type=_count, default=16, metavar="N", help="at most, at a time (16)")
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="turns of each side (3)")
    parser.add_argument("--workload", type=_workloads, default=WORKLOADS, metavar="W,W", help=",".join(WORKLOADS))
    parser.add_argument("--json", type=_output, metavar="FILE", help="write every figure of every round")
    parser.add_argument("--plot", type=_output, metavar="FILE", help="write a picture; .png or .svg")
    parser.set_defaults(run=speculation)


def _add_variance(parser: argparse.ArgumentParser) -> None:
    _add_engine(parser)
    parser.add_argument(
        "--batch-sizes", type=_counts, default=(1, 8, 32), metavar="N,N", help="of the fast mode (1,8,32)"
    )
    parser.add_argument("--prompts", type=_count, default=64, metavar="N", help="how many (64)")
    parser.add_argument("--max-tokens", type=_count, default=64, metavar="N", help="of every answer (64)")
    parser.add_argument("--json", type=_output, metavar="FILE", help="write every figure")
    parser.set_defaults(run=variance)


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_engine(parser)
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"), metavar="DIR")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine-dir", type=Path, default=Path("engines/smollm2-135m-int8"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of prompts and choices (1)")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1.")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _workloads(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(WORKLOADS):
        raise argparse.ArgumentTypeError(f"{text!r} is not one or more of {','.join(WORKLOADS)}.")
    return names


def _output(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no directory; nothing could be written there in the end.")
    return path


def _range(text: str) -> tuple[int, int]:
    shortest, _, longest = text.partition("-")
    return _count(shortest), _count(longest or shortest)
