"""Which argument of a request travels in which tensor, and which outputs a response is read from.

Names, types and dims come from the contract. Nothing here knows a protocol.
"""

from __future__ import annotations

from python_backend.contract import TENSORRT_LLM_BLS, DataType, Tensor

#: The front doors share their inputs; the BLS door has a few more.
DOOR = TENSORRT_LLM_BLS

TEXT_OUTPUT = DOOR.output("text_output").name
FINISH_REASON = DOOR.output("finish_reason").name
NUM_INPUT_TOKENS = DOOR.output("num_input_tokens").name
NUM_OUTPUT_TOKENS = DOOR.output("num_output_tokens").name

#: argument -> tensor, where the names differ
_RENAMED = {"text": "text_input"}
_INTEGER_BITS = {DataType.INT32: (-(2**31), 2**31 - 1), DataType.UINT64: (0, 2**64 - 1)}

Value = str | bool | int | float | tuple[str, ...]


def tensor_of(argument: str) -> Tensor:
    """The input that carries an argument of a request."""
    return DOOR.input(_RENAMED.get(argument, argument))


def check(argument: str, value: Value) -> None:
    """ValueError when ``value`` does not fit its tensor (over HTTP, Triton would cut its upper bits off)."""
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{argument} holds half of a surrogate pair, which is no text.")
    bounds = _INTEGER_BITS.get(tensor_of(argument).dtype)
    if bounds and isinstance(value, int) and not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{argument} is {value}; it must lie between {bounds[0]} and {bounds[1]}.")
