"""What the machine must have to spare: ports and shared memory."""

from __future__ import annotations

import os
from pathlib import Path

from python_backend.finding import Finding
from python_backend.launcher.ports import Ports
from python_backend.launcher.run import SHARED_MEMORY

MIB = 2**20
STUB_MIB = 1  # what Triton reserves for each Python model instance at start
MARGIN_MIB = 8  # regions grow by 1 MiB with the tensors that pass through


def check_ports(ports: Ports, host: str) -> Finding:
    """All ports can be listened on."""
    taken = list(ports.taken(host))
    if not taken:
        return Finding("ports", f"{ports.http}, {ports.grpc} and {ports.metrics} are free on {host}")
    return Finding(
        "ports",
        "; ".join(taken),
        "Stop what holds it (a server that drains takes up to its exit timeout), or choose others with --http-port, "
        "--grpc-port, --metrics-port.",
    )


def check_shared_memory(stubs: int, directory: Path = SHARED_MEMORY) -> Finding:
    """Room for the exchange between the server and ``stubs`` Python model instances."""
    if not os.access(directory, os.W_OK):
        return Finding(
            "shared memory", f"{directory} cannot be written", f"Mount a tmpfs at {directory} with mode 1777."
        )
    status = os.statvfs(directory)
    free_mib = status.f_bavail * status.f_frsize // MIB
    need_mib = stubs * STUB_MIB + MARGIN_MIB
    seen = f"{free_mib} MiB free in {directory}, {need_mib} MiB needed for {stubs} Python model instances"
    if free_mib >= need_mib:
        return Finding("shared memory", seen)
    return Finding(
        "shared memory",
        seen,
        "Run `python -m python_backend clean`, or in a container raise shm_size (docker run --shm-size).",
    )
