"""The client library: one prompt in, text out as it is made, over gRPC or HTTP.

from client import GenerateRequest, GrpcClient

with GrpcClient("127.0.0.1:8001") as client, client.stream(GenerateRequest("Once upon a time")) as chunks:
    for chunk in chunks:
        print(chunk.text, end="", flush=True)
"""

from client.async_grpc_client import AsyncGrpcClient
from client.chatml import chatml
from client.completion import Chunk, Completion
from client.errors import RequestRefused, ServerUnavailable, SlipstreamClientError, StreamBroken, Timeout
from client.grpc_client import GrpcClient
from client.http_client import HttpClient
from client.request import GenerateRequest

__all__ = [
    "AsyncGrpcClient",
    "Chunk",
    "Completion",
    "GenerateRequest",
    "GrpcClient",
    "HttpClient",
    "RequestRefused",
    "ServerUnavailable",
    "SlipstreamClientError",
    "StreamBroken",
    "Timeout",
    "chatml",
]
