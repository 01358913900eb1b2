"""What to generate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from client.tensors import Value, check, tensor_of
from python_backend.contract import Tensor

_NO_TENSORS = frozenset({"model", "request_id", "timeout_s"})


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt and how to go on from it; what is None is left to the server.

    ``stream`` asks for text as it is made; without it the answer comes as one chunk. ``text`` goes to the
    model as it is: no chat template is applied. ``messages``, a conversation as JSON, goes through the model's
    chat template; ``text`` is then empty. ``timeout_s`` bounds the request from connecting to the last chunk.
    ValueError for a value that no server could take.
    """

    text: str
    max_tokens: int = 128
    stream: bool = True
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_tokens: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_words: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    messages: str | None = None
    guided_decoding_guide_type: str | None = None
    guided_decoding_guide: str | None = None
    end_id: int | None = None
    priority: float | None = None
    num_draft_tokens: int | None = None  # the BLS model only
    exclude_input_in_output: bool | None = True
    return_num_input_tokens: bool | None = None
    return_num_output_tokens: bool | None = None
    model: str = "ensemble"
    request_id: str = ""
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.text and not self.messages:
            raise ValueError("the prompt is empty.")
        if self.text and self.messages:
            raise ValueError("both text and messages are there; messages go with an empty text.")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; at least 1 is needed.")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s}; it must be more than 0 seconds.")
        for argument, value in self._given():
            check(argument, value)

    def tensors(self) -> Iterator[tuple[Tensor, Value]]:
        """The inputs to send: every tensor for which there is a value."""
        return ((tensor_of(argument), value) for argument, value in self._given())

    def _given(self) -> Iterator[tuple[str, Value]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _NO_TENSORS and value not in (None, ()):
                yield field.name, value
