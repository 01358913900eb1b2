"""Triton's bidirectional gRPC stream, each on a channel of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferResult
from tritonclient.grpc.aio import InferenceServerClient

from perf.storm.door import Inputs
from perf.storm.transport import StreamFailed, Transport


class GrpcTransport(Transport):
    """``ModelStreamInfer`` with one request."""

    name = "grpc"
    farewells = ("cancel", "close")

    def __init__(self, host: str, port: int) -> None:
        # Without a pool of its own, the channel would share its connection with all others to the address.
        self._client = InferenceServerClient(f"{host}:{port}", channel_args=[("grpc.use_local_subchannel_pool", 1)])

    async def send(self, model: str, inputs: Inputs) -> None:
        tensors = [_tensor(name, value) for name, value in inputs.items()]
        self._stream = self._client.stream_infer(_one(model, tensors))

    async def responses(self) -> AsyncIterator[Mapping[str, Any]]:
        try:
            async for result, error in self._stream:
                if error is not None:
                    raise StreamFailed(error.message())
                yield _outputs(result)
        except asyncio.CancelledError as error:
            # What grpc raises for a call that ends with status CANCELLED, also when it was the server that said so.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise StreamFailed("CANCELLED: the server cancelled a stream that nobody left.") from error
        except grpc.aio.AioRpcError as error:
            raise StreamFailed(f"{error.code().name}: {error.details()}") from error

    async def leave(self, farewell: str) -> None:
        assert farewell in self.farewells, farewell
        if farewell == "cancel":
            self._stream.cancel()
        await self.close()

    async def close(self) -> None:
        await self._client.close()


async def _one(model: str, tensors: list[InferInput]) -> AsyncIterator[dict[str, Any]]:
    # Nothing follows, so the server ends the stream after the last response.
    yield {"model_name": model, "inputs": tensors}


def _tensor(name: str, value: str | bool | int | list[int]) -> InferInput:
    if isinstance(value, str):
        array, datatype = np.array([[value.encode()]], np.object_), "BYTES"
    elif isinstance(value, bool):
        array, datatype = np.array([[value]]), "BOOL"
    else:
        array, datatype = np.array([value if isinstance(value, list) else [value]], np.int32), "INT32"
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _outputs(result: InferResult) -> Mapping[str, Any]:
    """Flat lists, and single values as such, as Triton's JSON has them."""
    outputs: dict[str, Any] = {}
    for output in result.get_response().outputs:
        values = [
            item.decode() if isinstance(item, bytes) else item
            for item in result.as_numpy(output.name).reshape(-1).tolist()
        ]
        outputs[output.name] = values[0] if len(values) == 1 else values
    return outputs
