"""Another model of the same server, called from ours over the server's own gRPC address.

Triton has calls of its own between models (business logic scripting). In the releases served here they cannot be
cancelled, and in 2.51 a model that makes many of them at once corrupts its process when clients leave: with 40 at a
time it crashed or hung within a minute. A gRPC call can be cancelled; to the engine it is a client that leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from python_backend.server_address import own_server_address

Arrays = Mapping[str, npt.NDArray[Any]]

_OPTIONS = (
    ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0),
)  # fmt: skip


class ModelError(Exception):
    """The other model refused, or could not be asked. ``code``: gRPC's name; streams tell none."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class Server:
    """The server that this process belongs to. Connects with the first call; thread-safe."""

    @cached_property
    def stub(self) -> Any:
        """Its inference service."""
        channel = grpc.insecure_channel(own_server_address(), options=_OPTIONS)
        return service_pb2_grpc.GRPCInferenceServiceStub(channel)


class Call:
    """One call. To be read to its end, or cancelled, by any thread."""

    def __init__(self, call: Any, *, streams: bool) -> None:
        self._call = call
        self._streams = streams

    def responses(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The outputs of each response that has any, by name. Cancelled, it ends. Raises ModelError."""
        refusal = ""
        try:
            for response in self._call if self._streams else (self._call.result(),):
                if self._streams:
                    # Read on to the end: Triton 2.51 never unloads a model when a stream is cancelled just then.
                    refusal = refusal or response.error_message
                    response = response.infer_response
                if arrays := _arrays(response):
                    yield arrays
        except grpc.FutureCancelledError:
            return
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise ModelError(error.details() or "", error.code().name) from error
        if refusal:
            raise ModelError(refusal)

    def cancel(self) -> None:
        """Nothing more is wanted. Without effect once the call has ended."""
        self._call.cancel()


class OtherModel:
    """Calls one model by its name."""

    def __init__(self, name: str, server: Server, *, streams: bool) -> None:
        """``streams``: it is decoupled, and answers on streams only; otherwise there is one response."""
        self.name = name
        self._server = server
        self._streams = streams

    def call(
        self, inputs: Arrays, outputs: Collection[str], request_id: str = "", timeout_us: int | None = None
    ) -> Call:
        """Starts a call. ``timeout_us`` is what the model gets to know of time."""
        request = service_pb2.ModelInferRequest(model_name=self.name, id=request_id)
        if timeout_us is not None:
            request.parameters["timeout"].int64_param = timeout_us
        for name, array in inputs.items():
            request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            raw = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
            request.raw_input_contents.append(raw)
        for name in outputs:
            request.outputs.add(name=name)
        stub = self._server.stub
        call = stub.ModelStreamInfer(iter((request,))) if self._streams else stub.ModelInfer.future(request)
        return Call(call, streams=self._streams)


def _arrays(response: Any) -> dict[str, npt.NDArray[Any]]:
    result = InferResult(response)
    return {output.name: result.as_numpy(output.name) for output in response.outputs}
