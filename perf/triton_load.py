"""The closed loop against a Triton server: gRPC streaming through one of the front doors.

All workers share one event loop and one HTTP/2 connection, and each request is a stream of its own on it, as in a
gateway in front of the server. The load generator runs on the same cores as the server, which pays for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from client import AsyncGrpcClient, GenerateRequest, StreamBroken
from perf.closed_loop import Load
from perf.prompts import Prompt
from perf.record import Arrival, RequestRecord

NO_END_ID = -1
TIMEOUT_S = 300.0


def run_load(
    grpc_url: str, load: Load, *, model: str = "ensemble", num_draft_tokens: int | None = None
) -> list[RequestRecord]:
    """Every request of the load, sent to a model of the server.

    Raises a SlipstreamClientError when one fails, StreamBroken when the server does not count its tokens.
    """
    template = GenerateRequest(
        "prompt",
        max_tokens=load.max_tokens,
        end_id=NO_END_ID,
        num_draft_tokens=num_draft_tokens,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
        model=model,
        timeout_s=TIMEOUT_S,
    )
    return asyncio.run(_run(grpc_url, load, template))


async def _run(grpc_url: str, load: Load, template: GenerateRequest) -> list[RequestRecord]:
    async with AsyncGrpcClient(grpc_url) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(_worker(client, prompts, template)) for prompts in load.workers]
    return [record for task in tasks for record in task.result()]


async def _worker(client: AsyncGrpcClient, prompts: Sequence[Prompt], template: GenerateRequest) -> list[RequestRecord]:
    return [await _ask(client, replace(template, text=prompt.text)) for prompt in prompts]


async def _ask(client: AsyncGrpcClient, request: GenerateRequest) -> RequestRecord:
    arrivals: list[Arrival] = []
    text = ""
    input_tokens = 0
    sent_s = time.perf_counter()
    async with client.stream(request) as chunks:
        async for chunk in chunks:
            if chunk.num_input_tokens is None or chunk.num_output_tokens is None:
                raise StreamBroken(f'a response of "{request.model}" does not say how many tokens it holds.')
            input_tokens = chunk.num_input_tokens
            text += chunk.text
            if chunk.num_output_tokens > 0:
                arrivals.append(Arrival(chunk.received_s, chunk.num_output_tokens))
    return RequestRecord(sent_s, input_tokens, tuple(arrivals), text)
