"""Where the models of a server find the server itself."""

from __future__ import annotations

import os

#: Set by the launcher: host:port of gRPC.
ADDRESS_VARIABLE = "SLIPSTREAM_GRPC_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:8001"


def own_server_address() -> str:
    """Of the server that this process belongs to: what the launcher says, else Triton's own default."""
    return os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
