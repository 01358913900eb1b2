"""A request of any kind, what its client does, and all that came back, right or wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, Literal

import httpx
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from python_backend.contract import MODELS, Model
from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import NO_TLS, Tensors, infer_inputs

#: Long enough for any answer of the tiny model on a busy machine; what takes longer hangs.
DEADLINE_S = 120.0
LEFT = "left"

Door = Literal["grpc", "infer", "generate", "generate_stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """``door`` is a gRPC stream or an HTTP address; ``parameters`` come beside the tensors."""

    model: str
    tensors: Tensors
    door: Door = "grpc"
    request_id: str = ""
    timeout_us: int | None = None
    parameters: dict[str, str | int | bool] = field(default_factory=dict)
    leaves_after: int | None = None  # so many responses; None: stays to the end


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Everything that came, in order, up to the end of the stream or until the client left."""

    responses: list[Tensors] = field(default_factory=list)  # over HTTP JSON values instead of arrays
    errors: list[str] = field(default_factory=list)
    finals: int = 0  # gRPC: responses marked as the last one
    status: int | str = "OK"  # of HTTP, or of gRPC when the stream itself broke

    def joined(self, name: str) -> bytes:
        """One output over all responses, as bytes."""
        arrays = [np.asarray(response[name]).reshape(-1) for response in self.responses if name in response]
        return b"".join(b"".join(a.tolist()) if a.dtype == np.object_ else a.tobytes() for a in arrays)


def send(server: TritonServer, attempt: Attempt) -> Outcome:
    """Ask, and read to the end, to the deadline, or until the client is to leave."""
    return _over_grpc(server, attempt) if attempt.door == "grpc" else _over_http(server, attempt)


def _over_grpc(server: TritonServer, attempt: Attempt) -> Outcome:
    arrived: Queue[tuple[Any, Any]] = Queue()
    outcome = Outcome()
    with triton.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)), stream_timeout=DEADLINE_S)
        client.async_stream_infer(
            attempt.model,
            infer_inputs(attempt.tensors),
            request_id=attempt.request_id,
            timeout=attempt.timeout_us,
            parameters=attempt.parameters,
            enable_empty_final_response=True,
        )
        if attempt.leaves_after is not None:
            for _ in range(attempt.leaves_after):
                if not _note(outcome, *arrived.get(timeout=DEADLINE_S)):
                    break
            client.stop_stream(cancel_requests=True)
            outcome.status = LEFT
            return outcome
        client.stop_stream()  # returns when the server has answered all, or at the deadline
    while not arrived.empty():
        _note(outcome, *arrived.get())
    return outcome


def _note(outcome: Outcome, result: Any, error: Any) -> bool:
    """Whether more is to be expected."""
    if error is not None:
        outcome.errors.append(error.message())
        outcome.status = error.status() or outcome.status
        return False
    response = result.get_response()
    if response.outputs:
        outcome.responses.append({output.name: result.as_numpy(output.name) for output in response.outputs})
    final = response.parameters["triton_final_response"].bool_param
    outcome.finals += final
    return not final


def _over_http(server: TritonServer, attempt: Attempt) -> Outcome:
    outcome = Outcome()
    url = f"{server.http_url}/v2/models/{attempt.model}/{attempt.door}"
    body = _infer_body(attempt) if attempt.door == "infer" else _generate_body(attempt)
    content = json.dumps(body, ensure_ascii=False).encode(errors="surrogateescape")
    headers = {"Content-Type": "application/json"}
    with httpx.stream("POST", url, content=content, headers=headers, timeout=DEADLINE_S, verify=NO_TLS) as response:
        outcome.status = response.status_code
        if attempt.leaves_after is not None and attempt.leaves_after == 0:
            outcome.status = LEFT
            return outcome
        for count, event in enumerate(_events(response)):
            if "error" in event:
                outcome.errors.append(event["error"])
            else:
                outcome.responses.append(event)
            if attempt.leaves_after == count + 1:
                outcome.status = LEFT
                break
    return outcome


def _events(response: httpx.Response) -> Iterator[Any]:
    """The JSON values in a body, one a line. A text may hold any other line separator that Unicode knows."""
    rest = b""
    for part in response.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        yield from (json.loads(line.removeprefix(b"data: ")) for line in lines if line.strip())
    if rest.strip():
        yield json.loads(rest)


def _beside(attempt: Attempt) -> dict[str, Any]:
    beside: dict[str, Any] = dict(attempt.parameters)
    if attempt.timeout_us is not None:
        beside["timeout"] = attempt.timeout_us
    return beside


def _generate_body(attempt: Attempt) -> dict[str, Any]:
    body = _beside(attempt)
    if attempt.request_id:
        body["id"] = attempt.request_id
    for name, array in attempt.tensors.items():
        values = _plain(array)
        body[name] = values[0] if len(values) == 1 else values
    return body


def _infer_body(attempt: Attempt) -> dict[str, Any]:
    inputs = [
        {"name": n, "shape": list(a.shape), "datatype": np_to_triton_dtype(a.dtype), "data": _plain(a)}
        for n, a in attempt.tensors.items()
    ]
    return {"id": attempt.request_id, "inputs": inputs, "parameters": _beside(attempt)}


def _plain(array: Any) -> list[Any]:
    values = array.reshape(-1).tolist()
    # Bytes that are no UTF-8 go out as they are.
    return [v.decode(errors="surrogateescape") if isinstance(v, bytes) else v for v in values]


def check_outputs(model: Model, responses: Iterable[Tensors]) -> None:
    """Every output is one that the contract gives the model, and of its type and dims."""
    for response in responses:
        for name, array in response.items():
            tensor = model.output(name)
            assert np_to_triton_dtype(array.dtype) == tensor.dtype.value, (name, array.dtype)
            dims = array.shape[1:]
            assert len(dims) == len(tensor.dims), (name, array.shape)
            assert all(want in (-1, got) for want, got in zip(tensor.dims, dims, strict=True)), (name, array.shape)


#: What a client may never read: it tells of our code, or of a server that broke.
UNSPEAKABLE = (
    "Traceback", "internal error", "At:\n", ".py", 'File "', "the engine has stopped", "the engine failed",
    "Stub process", "not healthy", "Deadline Exceeded",
)  # fmt: skip


def check_outcome(attempt: Attempt, outcome: Outcome) -> None:
    """Whatever was asked: the answer has one end, its outputs are the contract's, and its errors are for people."""
    for error in outcome.errors:
        assert error.strip()
        assert not [word for word in UNSPEAKABLE if word in error], error
    if attempt.door == "grpc":
        check_outputs(MODELS[attempt.model], outcome.responses)
    if outcome.status == LEFT:
        return
    if attempt.door == "grpc":
        assert outcome.finals == 1 or (outcome.finals == 0 and outcome.errors), outcome
    else:
        assert outcome.status == 200 or outcome.errors, outcome
        # What Triton says itself of JSON that it cannot read; of ours nothing is a 500.
        assert outcome.status != 500 or "parse" in outcome.errors[0], outcome
    if not outcome.errors and not _may_end_without_a_word(attempt):
        _check_complete(attempt, outcome)


def _may_end_without_a_word(attempt: Attempt) -> bool:
    """It stops others or may have been stopped, or Triton, who then runs no step of an ensemble, misses an input."""
    required = {tensor.name for tensor in MODELS[attempt.model].inputs if tensor.required}
    return bool(attempt.request_id) or "stop" in attempt.tensors or not required <= attempt.tensors.keys()


def _check_complete(attempt: Attempt, outcome: Outcome) -> None:
    """Every sequence that was asked for has an end, and nothing after it."""
    if "request_output_len" not in attempt.tensors and "max_tokens" not in attempt.tensors:
        assert len(outcome.responses) == 1, outcome
        return
    length = attempt.tensors["max_tokens" if "max_tokens" in attempt.tensors else "request_output_len"]
    sequences = attempt.tensors.get("num_return_sequences", np.ones_like(length))
    ended = set()
    for response in outcome.responses:
        row, index = (np.asarray(response.get(name, 0)).item() for name in ("batch_index", "sequence_index"))
        assert (row, index) not in ended, outcome
        if "finish_reason" in response:
            reason = np.asarray(response["finish_reason"]).item()
            assert reason in (b"stop", b"length", b"cancelled", "stop", "length", "cancelled"), reason
            ended.add((row, index))
    expected = {(row, index) for row, count in enumerate(sequences.reshape(-1)) for index in range(count)}
    assert ended == expected, outcome
