"""Another model of the same server, called from ours over the server's own gRPC address.

Triton has calls of its own between models (business logic scripting). In the releases served here they cannot be
cancelled, and in 2.51 a model that makes many of them at once corrupts its process when clients leave: with 40 at a
time it crashed or hung within a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
from grpc.experimental import ChannelOptions
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from python_backend.server_address import own_server_address
from python_backend.triton.request_id import unique_id

log = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[Any]]

_OPTIONS = (
    ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0),
    # Whoever waits for a response of a stream takes it off the wire himself, without a thread in between.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
)  # fmt: skip
#: A request to stop another, with what Triton asks of every request.
_STOP: Arrays = {
    "input_ids": np.array([[0]], np.int32),
    "input_lengths": np.array([[1]], np.int32),
    "request_output_len": np.array([[1]], np.int32),
    "stop": np.array([[True]]),
}
_STOP_WITHIN_S = 10.0  # an engine that does not answer by then hangs, and others may be waiting to be stopped


class ModelError(Exception):
    """The other model refused, or could not be asked. ``code``: gRPC's name; streams tell none."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class Server:
    """The server that this process belongs to. Connects with the first call; thread-safe."""

    def infer(self, request: Any) -> Any:
        """Starts a call that gives one response."""
        return self._stub.ModelInfer.future(request)

    def stream(self, request: Any, timeout_s: float | None = None) -> Any:
        """Starts a call of a decoupled model. To be read to its end: a call that is given up leaves memory behind."""
        return self._stream(request, timeout_s)

    @cached_property
    def _channel(self) -> grpc.Channel:
        return grpc.insecure_channel(own_server_address(), options=_OPTIONS)

    @cached_property
    def _stub(self) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    @cached_property
    def _stream(self) -> Any:
        # The same on the wire as the stub's ModelStreamInfer, which would start a thread to send the one request.
        return self._channel.unary_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )


class Call(Protocol):
    """A call of another model. Whoever started it closes it; anybody may cancel it."""

    def responses(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The outputs of each response that has any, by name. Cancelled, it ends. Raises ModelError."""
        ...

    def cancel(self) -> None:
        """Nothing more is wanted. Without effect once the call has ended.

        A call that has just begun may not be known yet where it is to be cancelled: repeat this until it ends.
        """
        ...

    def close(self) -> None:
        """Returns when the call has ended, before its time if need be."""
        ...


class SingleCall:
    """A ``Call`` that gives one response. It is cancelled by gRPC: to the model it is a client that leaves."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def responses(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """See ``Call``."""
        try:
            yield _arrays(self._call.result())
        except grpc.FutureCancelledError:
            return
        except grpc.RpcError as error:
            raise _model_error(error) from error

    def cancel(self) -> None:
        """See ``Call``."""
        self._call.cancel()

    def close(self) -> None:
        """See ``Call``."""
        self._call.cancel()


class StreamedCall:
    """A ``Call`` of a decoupled engine, which gives response after response. It is cancelled by the contract's `stop`.

    Where many streams are cancelled by gRPC, Triton 2.51 may never unload their model.
    """

    def __init__(self, server: Server, request: Any) -> None:
        """``request``: no other has its id."""
        self._server, self._model, self._id = server, request.model_name, request.id
        self._call = server.stream(request)
        self._has_ended = False

    def responses(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """See ``Call``."""
        refusal = ""
        for response in self._received():
            refusal = refusal or response.error_message
            if arrays := _arrays(response.infer_response):
                yield arrays
        if refusal:
            raise ModelError(refusal)

    def cancel(self) -> None:
        """See ``Call``."""
        if not self._has_ended:
            try:
                for response in self._server.stream(_request(self._model, self._id, _STOP), _STOP_WITHIN_S):
                    if response.error_message:
                        log.error("stop refused: request_id=%s reason=%s", self._id, response.error_message)
            except grpc.RpcError as error:
                log.warning("stop not sent: request_id=%s reason=%s", self._id, error.details())

    def close(self) -> None:
        """See ``Call``."""
        self.cancel()
        try:
            for _ in self._received():
                pass
        except ModelError as error:
            log.warning("call broken: request_id=%s reason=%s", self._id, error)

    def _received(self) -> Iterator[Any]:
        """What is left of the call."""
        while not self._has_ended:
            try:
                response = next(self._call, None)
            except grpc.RpcError as error:
                self._has_ended = True
                raise _model_error(error) from error
            self._has_ended = response is None
            if response is not None:
                yield response


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
        """Starts a call. ``timeout_us`` is what the model gets to know of time.

        A streamed call gets an id of its own, made from ``request_id``.
        """
        if self._streams:
            request_id = unique_id(request_id)
        request = _request(self.name, request_id, inputs)
        if timeout_us is not None:
            request.parameters["timeout"].int64_param = timeout_us
        for name in outputs:
            request.outputs.add(name=name)
        return StreamedCall(self._server, request) if self._streams else SingleCall(self._server.infer(request))


def _request(model: str, request_id: str, inputs: Arrays) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        raw = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
        request.raw_input_contents.append(raw)
    return request


def _model_error(error: grpc.RpcError) -> ModelError:
    return ModelError(error.details() or "", error.code().name)


def _arrays(response: Any) -> dict[str, npt.NDArray[Any]]:
    result = InferResult(response)
    return {output.name: result.as_numpy(output.name) for output in response.outputs}
