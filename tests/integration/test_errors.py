"""Every row of the error table through the real server, by each way that is open to it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from python_backend.launcher.server import TritonServer
from tests.integration.error_doors import PROFILES, tell
from tests.integration.error_row import Door, Row, id_tensors
from tests.integration.error_servers import error_servers
from tests.integration.error_table import ROWS
from tests.integration.triton_api import metric, stream, token_request, wait_until_idle

pytestmark = pytest.mark.server

Servers = Mapping[tuple[str, str], TritonServer]
LONG = 50_000


@pytest.fixture(scope="module")
def servers(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with error_servers(tmp_path_factory.mktemp("errors"), tiny_engine) as started:
        yield started


@contextmanager
def occupied(server: TritonServer, tenants: tuple[str, ...]) -> Iterator[None]:
    """One long request of each tenant: the first runs, the others wait."""
    threads = []
    for index, tenant in enumerate(tenants):
        request = id_tensors(request_output_len=LONG, tenant=tenant)
        threads.append(threading.Thread(target=stream, args=(server, "tensorrt_llm", request, f"busy {index}")))
        threads[-1].start()
        wait_for_requests(server, "active", index + 1)
        wait_for_requests(server, "scheduled", 1)
    yield
    for index in reversed(range(len(tenants))):
        stop(server, f"busy {index}")
    for thread in threads:
        thread.join()
    wait_until_idle(server)


def wait_for_requests(server: TritonServer, kind: str, count: int) -> None:
    deadline_s = time.monotonic() + 60
    while metric(server, "nv_trt_llm_request_metrics", request_type=kind) != count:
        assert time.monotonic() < deadline_s, f"never {count} {kind}"


def stop(server: TritonServer, request_id: str) -> None:
    stream(server, "tensorrt_llm", token_request([5], 1, stop=True), request_id)


@contextmanager
def stopping(server: TritonServer, request_id: str) -> Iterator[None]:
    """Stops the request once it runs."""

    def run() -> None:
        wait_for_requests(server, "scheduled", 1)
        stop(server, request_id)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    wait_until_idle(server)


def expected(row: Row, door: Door) -> str | int | None:
    code, generate, infer = row.status
    by_door = {"stream": None, "generate": generate, "unary": f"StatusCode.{code}", "infer": infer}
    return by_door[door]


def pattern(row: Row) -> str:
    return "(in ensemble 'ensemble', )?" + re.escape(row.message).replace("…", "(.|\n)*")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.did.replace(" ", "-")[:60])
def test_each_row(servers: Servers, row: Row) -> None:
    for door in row.doors:
        profile = "cpu" if "decoupled transaction policy" in row.message else PROFILES[door]
        server = servers[row.server, profile]
        with occupied(server, row.busy):
            if row.stopped:
                with stopping(server, "to be stopped"):
                    status, message = tell(door, server, row, "to be stopped")
            else:
                status, message = tell(door, server, row, "")
        assert re.fullmatch(pattern(row), message), f"{door}: {message}"
        assert status == expected(row, door), f"{door}: {message}"


def test_nothing_is_left_in_use(servers: Servers) -> None:
    for server in servers.values():
        wait_until_idle(server)
