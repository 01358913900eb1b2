"""The models that clients talk to, and how a question is put to each and its answer read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perf.prompts import Prompt

Inputs = dict[str, str | bool | int | list[int]]
#: what a stream is made of: characters, or token ids
Content = list[str] | list[int]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the number of tokens that its answer has: the end token does not end it."""

    prompt: Prompt
    max_tokens: int


class Door(ABC):
    """One model that answers clients."""

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def inputs(self, question: Question) -> Inputs:
        """The tensors of a streaming request."""

    @abstractmethod
    def content(self, outputs: Mapping[str, Any]) -> Content:
        """What one response adds to the answer."""


class TextDoor(Door):
    """Text in, text out: `ensemble` and `tensorrt_llm_bls`."""

    def inputs(self, question: Question) -> Inputs:
        return {
            "text_input": question.prompt.text,
            "max_tokens": question.max_tokens,
            "end_id": -1,
            "stream": True,
            "return_num_output_tokens": True,
        }

    def content(self, outputs: Mapping[str, Any]) -> Content:
        return list(str(outputs["text_output"]))


class TokenDoor(Door):
    """Token ids in, token ids out: `tensorrt_llm`."""

    def inputs(self, question: Question) -> Inputs:
        return {
            "input_ids": list(question.prompt.token_ids),
            "input_lengths": len(question.prompt.token_ids),
            "request_output_len": question.max_tokens,
            "end_id": -1,
            "streaming": True,
            "return_num_output_tokens": True,
        }

    def content(self, outputs: Mapping[str, Any]) -> Content:
        token_ids = outputs["output_ids"]
        return [int(token) for token in token_ids] if isinstance(token_ids, list) else [int(token_ids)]


DOORS: dict[str, Door] = {
    door.model: door for door in (TextDoor("ensemble"), TokenDoor("tensorrt_llm"), TextDoor("tensorrt_llm_bls"))
}
