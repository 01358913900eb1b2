"""``python -m client``: one prompt, streamed to the terminal as it is made."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from client import grpc_messages, http_client
from client.chatml import chatml
from client.completion import Chunk, Completion
from client.errors import ServerUnavailable, SlipstreamClientError
from client.grpc_client import GrpcClient
from client.http_client import HttpClient
from client.request import GenerateRequest

OK, FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130
_DEFAULT_URLS = {"grpc": grpc_messages.DEFAULT_URL, "http": http_client.DEFAULT_URL}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
        request = _request(arguments, prompt)
        url = arguments.url or _DEFAULT_URLS[arguments.protocol]
        client = GrpcClient(url) if arguments.protocol == "grpc" else HttpClient(url)
    except ValueError as error:
        parser.error(str(error))
    try:
        with client:
            _run(client, request, arguments)
    except SlipstreamClientError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return UNAVAILABLE if isinstance(error, ServerUnavailable) else FAILED
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return OK


def _run(client: GrpcClient | HttpClient, request: GenerateRequest, arguments: argparse.Namespace) -> None:
    started_s = time.perf_counter()
    with client.stream(request) as chunks:
        show = _as_json(chunks, started_s) if arguments.json else _as_text(chunks)
        completion = Completion.of(show, started_s)
    if arguments.json:
        print(json.dumps(asdict(completion), ensure_ascii=False))
    elif arguments.stats:
        print(_stats(completion), file=sys.stderr)


def _as_text(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Passes the chunks on and writes their text."""
    text = ""
    try:
        for chunk in chunks:
            text = chunk.text or text
            print(chunk.text, end="", flush=True)
            yield chunk
    finally:
        if text and not text.endswith("\n"):
            print(flush=True)


def _as_json(chunks: Iterable[Chunk], started_s: float) -> Iterator[Chunk]:
    """Passes the chunks on and writes each as one line."""
    for chunk in chunks:
        line = asdict(chunk) | {"received_s": chunk.received_s - started_s}
        print(json.dumps(line, ensure_ascii=False), flush=True)
        yield chunk


def _stats(completion: Completion) -> str:
    ttft = "no text" if completion.ttft_s is None else f"TTFT {completion.ttft_s * 1000:.0f} ms"
    tokens = completion.num_output_tokens
    parts = [
        ttft,
        f"{completion.chunks} chunks" if tokens is None else f"{tokens} tokens in {completion.chunks} chunks",
        f"{completion.duration_s:.2f} s",
    ]
    return " | ".join(parts + ([completion.finish_reason] if completion.finish_reason else []))


def _request(arguments: argparse.Namespace, prompt: str) -> GenerateRequest:
    if not prompt:
        raise ValueError("the prompt is empty.")
    return GenerateRequest(
        prompt if arguments.raw else chatml(prompt),
        max_tokens=arguments.max_tokens,
        stream=not arguments.no_stream,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        return_num_output_tokens=True if arguments.stats or arguments.json else None,
        model=arguments.model,
        timeout_s=arguments.timeout_s,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Streams the answer to one prompt to the terminal.",
        epilog="Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 server not available, 130 interrupted.",
    )
    parser.add_argument("prompt", help="the prompt; - reads it from standard input")
    parser.add_argument("--protocol", choices=sorted(_DEFAULT_URLS), default="grpc")
    parser.add_argument(
        "--url", help="host:port for grpc, http://host:port for http (default: this machine's 8001 or 8000)"
    )
    parser.add_argument("--model", default="ensemble", help="ensemble (default) or tensorrt_llm_bls")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="default 128")
    parser.add_argument("--temperature", type=float, metavar="X")
    parser.add_argument("--top-k", type=int, metavar="N")
    parser.add_argument("--top-p", type=float, metavar="X")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument(
        "--timeout-s", type=float, default=120.0, metavar="S", help="for the whole answer (default 120)"
    )
    parser.add_argument("--no-stream", action="store_true", help="ask for the answer in one piece")
    parser.add_argument("--raw", action="store_true", help="send the prompt as it is, without ChatML around it")
    parser.add_argument("--stats", action="store_true", help="TTFT, tokens and duration, on standard error")
    parser.add_argument("--json", action="store_true", help="a JSON line for each chunk and one for the whole")
    return parser
