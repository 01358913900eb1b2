"""What the conformance suite is made of: doors that speak the contract's names, and a record of what went through them.

A test says which tensors of which model it is about (``Bench.about``), uses them in earnest, and checks what they do.
A tensor counts as exercised when a test was about it and it did go over the wire meanwhile, to that model or back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import triton_to_np_dtype

from python_backend.contract import ENGINE_INPUT_OF, TENSORRT_LLM, Model
from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.attempt import DEADLINE_S, check_outputs
from tests.integration.triton_api import Answer, Tensors, infer_inputs, stream, text_request, token_request
from tests.reference_model import ReferenceModel

TEXT = "the quick brown"
LENGTH = 24
FRONT_NAME_OF = {engine: front for front, engine in ENGINE_INPUT_OF.items()}

Seen = set[tuple[str, str]]  # model, tensor


@dataclass(slots=True)
class Wire:
    """One server, and what went to it and came from it: (model, tensor)."""

    server: TritonServer
    inputs: Seen = field(default_factory=set)
    outputs: Seen = field(default_factory=set)

    def ask(self, model: Model, tensors: Tensors, request_id: str = "", timeout_us: int | None = None) -> Answer:
        """The answer, whose outputs have the types and dims of the contract."""
        self.inputs |= {(model.name, name) for name in tensors}
        answer = stream(self.server, model.name, tensors, request_id, timeout_us=timeout_us)
        check_outputs(model, answer.responses)
        self.outputs |= {(model.name, name) for response in answer.responses for name in response}
        return answer

    def burst(self, first: Tensors, model: Model, others: dict[str, Tensors]) -> tuple[dict[str, Answer], list[str]]:
        """Ask `tensorrt_llm`, which is to stream, and when it has begun the model, all at once and in that order.

        The answers by request id, that of the first one being "first", and the errors of those that have none.
        """
        answers: dict[str, Answer] = {}
        errors: list[str] = []
        begun = threading.Event()

        def note(result: Any, error: Any) -> None:
            begun.set()
            if error is not None:
                errors.append(error.message())
                return
            response = result.get_response()
            arrays = {output.name: result.as_numpy(output.name) for output in response.outputs}
            if arrays:
                answers.setdefault(response.id, Answer()).responses.append(arrays)

        with triton.InferenceServerClient(self.server.grpc_url) as client:
            client.start_stream(note, stream_timeout=DEADLINE_S)
            client.async_stream_infer("tensorrt_llm", infer_inputs(first), request_id="first")
            assert begun.wait(DEADLINE_S)
            for request_id, tensors in others.items():
                self.inputs |= {(model.name, name) for name in tensors}
                client.async_stream_infer(model.name, infer_inputs(tensors), request_id=request_id)
            client.stop_stream()
        for request_id in others.keys() & answers.keys():
            check_outputs(model, answers[request_id].responses)
        return answers, errors


@dataclass(frozen=True, slots=True)
class Door:
    """A model that continues prompts, asked under the engine's names of its inputs."""

    wire: Wire
    model: Model
    tokenizer: Tokenizer

    def ask(self, text: str = TEXT, length: int = LENGTH, request_id: str = "", **inputs: Any) -> Answer:
        """Inputs are Python values of one row, or arrays."""
        return self.wire.ask(self.model, self.tensors(text, length, **inputs), request_id)

    def tensors(self, text: str = TEXT, length: int = LENGTH, **inputs: Any) -> Tensors:
        """The request's tensors, under this model's names."""
        if self.model is TENSORRT_LLM:
            ids = self.tokenizer.encode(text, add_special_tokens=True).tolist()
            # What preprocessing adds, so that both doors answer alike.
            request = token_request(ids, length, end_id=np.int32(self.tokenizer.end_id))
            return request | {name: typed(self.model, name, value) for name, value in inputs.items()}
        named = {FRONT_NAME_OF.get(name, name): value for name, value in inputs.items()}
        return text_request(text, length) | {name: typed(self.model, name, value) for name, value in named.items()}

    def has(self, name: str) -> bool:
        return FRONT_NAME_OF.get(name, name) in {tensor.name for tensor in self.model.inputs}


def own_words(error: str | None, model: str) -> str | None:
    """An error without what Triton puts before it."""
    return None if error is None else error.removeprefix(f"in ensemble '{model}', ")


def typed(model: Model, name: str, value: Any) -> Any:
    """One row of an input: a number, a string, a list of them, or nested lists."""
    if isinstance(value, np.ndarray):
        return value
    tensor = model.input(name)
    if isinstance(value, str):
        value = value.encode()
    row = np.array(value, triton_to_np_dtype(tensor.dtype.value))
    return row.reshape(1, *(row.shape or (1,)))


@dataclass
class Bench:
    """All that a case may need."""

    wire: Wire
    crowded: Wire  # a server that runs one sequence at a time and has few blocks
    tokenizer: Tokenizer
    reference: ReferenceModel
    exercised_inputs: Seen = field(default_factory=set)
    exercised_outputs: Seen = field(default_factory=set)

    def door(self, model: Model, *, crowded: bool = False) -> Door:
        return Door(self.crowded if crowded else self.wire, model, self.tokenizer)

    @cached_property
    def engine(self) -> Door:
        return self.door(TENSORRT_LLM)

    @cached_property
    def prompt(self) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(TEXT, add_special_tokens=True)]

    @cached_property
    def plain(self) -> Answer:
        """Greedy, to the plainest request."""
        answer = self.engine.ask()
        assert (answer.error, len(answer.ids)) == (None, LENGTH)
        return answer

    def logits(self, ids: list[int]) -> Any:
        """Of the reference: those that each of ``ids`` was chosen by, and those behind the last."""
        return self.reference.logits(self.prompt + ids)[len(self.prompt) - 1 :]

    @contextmanager
    def about(self, model: Model, *, inputs: Iterable[str] = (), outputs: Iterable[str] = ()) -> Iterator[None]:
        """What happens inside exercises these tensors; AssertionError when one of them does not go over the wire."""
        wires = (self.wire, self.crowded)
        for wire in wires:
            wire.inputs.clear()
            wire.outputs.clear()
        yield
        for meant, seen, exercised in (
            (inputs, {pair for wire in wires for pair in wire.inputs}, self.exercised_inputs),
            (outputs, {pair for wire in wires for pair in wire.outputs}, self.exercised_outputs),
        ):
            pairs = {(model.name, name) for name in meant}
            assert pairs <= seen, f"not on the wire: {pairs - seen}"
            exercised |= pairs
