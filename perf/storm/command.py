"""``python -m perf storm``: every door under the storm, and the verdict as exit code."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from rich.console import Console

from perf.engine_tokenizer import load_tokenizer
from perf.own_server import own_server
from perf.prompts import PromptSource
from perf.storm import gauges
from perf.storm.door import DOORS
from perf.storm.grpc_transport import GrpcTransport
from perf.storm.report import show
from perf.storm.sse_transport import SseTransport
from perf.storm.storm import Outcome, Storm, Target, all_passed

PROMPT_TOKENS = (8, 160)


def storm(options: argparse.Namespace) -> int:
    """0 when every door passed, 1 otherwise."""
    console = Console()
    prompts = PromptSource(load_tokenizer(options.engine_dir), *PROMPT_TOKENS, options.seed)
    outcomes: dict[str, Outcome] = {}
    for model in _models(options):
        with _target(options) as target, console.status(f"{model}: {options.seconds} s of storm"):
            one_storm = Storm(target, DOORS[model], prompts, options.seed)
            outcomes[model] = asyncio.run(one_storm.run(options.seconds, options.streams))
    show(outcomes, console)
    return 0 if all_passed([*outcomes.values()]) else 1


def _models(options: argparse.Namespace) -> list[str]:
    if options.door != "all":
        return [options.door]
    return [model for model in DOORS if (options.model_repository / model).is_dir()]


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[Target]:
    """The server at --url, or a fresh one whose engine decodes exactly, so that an answer is right or wrong."""
    if options.url:
        yield _running(options.url)
        return
    with own_server(
        options.model_repository, options.engine_dir, parameters={"tensorrt_llm": {"execution_mode": "exact"}}
    ) as server:
        ports = server.options.ports
        yield _at("127.0.0.1", ports.http, ports.grpc, server.metrics_url, lambda: server.exit_code() is None)


def _running(url: str) -> Target:
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"the address is {url!r}; it must be like http://127.0.0.1:8000.")
    metrics_url = f"http://{parts.hostname}:{parts.port + 2}/metrics"
    return _at(parts.hostname, parts.port, parts.port + 1, metrics_url, lambda: True)


def _at(host: str, http_port: int, grpc_port: int, metrics_url: str, is_alive: Callable[[], bool]) -> Target:
    return Target(
        connect={
            SseTransport.name: lambda: SseTransport(host, http_port),
            GrpcTransport.name: lambda: GrpcTransport(host, grpc_port),
        },
        engine_load=lambda: gauges.fetch(metrics_url),
        is_alive=is_alive,
    )
