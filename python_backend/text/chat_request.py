"""The `messages` input: a conversation as JSON.

Either the list of messages, or an object with ``messages`` and what else a chat template takes:

    [{"role": "user", "content": "Hello"}]
    {"messages": [...], "tools": [...], "chat_template_kwargs": {"enable_thinking": false}}
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from python_backend.errors import InvalidRequest, did_you_mean

Object = dict[str, Any]


class Message(BaseModel):
    """One message. Keys besides role are the template's business: content, name, tool_calls, tool_call_id..."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    role: Annotated[str, Field(min_length=1)]
    content: str | list[Object | str] | None = None


class ChatRequest(BaseModel):
    """What a chat template is given; names are those of transformers' ``apply_chat_template``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    messages: Annotated[list[Object], Field(min_length=1)]
    tools: list[Object] | None = None
    documents: list[Object] | None = None
    add_generation_prompt: bool = True
    """Whether the prompt ends where the assistant's answer begins. transformers' default is false."""
    chat_template_kwargs: Object = Field(default_factory=dict)
    """Further variables of the template, such as Qwen3's enable_thinking."""

    @classmethod
    def parse(cls, raw: bytes) -> ChatRequest:
        """The request in a JSON text. Raises InvalidRequest, which says where the fault is."""
        content = _load(raw)
        if isinstance(content, list):
            content = {"messages": content}
        if not isinstance(content, dict):
            raise InvalidRequest(f"messages holds a {type(content).__name__}; send a list of messages.")
        try:
            request = cls.model_validate(content)
            for index, message in enumerate(request.messages):
                _check_message(index, message)
        except ValidationError as error:
            raise InvalidRequest(_first_fault(error)) from error
        reserved = request.chat_template_kwargs.keys() & cls.model_fields.keys()
        if reserved:
            raise InvalidRequest(f"chat_template_kwargs has {sorted(reserved)[0]}, a key of its own. Move it up.")
        return request


def _load(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"messages is not valid UTF-8: {error.reason} at byte {error.start} of {len(raw)}."
        ) from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"messages is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}."
        ) from error
    except RecursionError as error:
        raise InvalidRequest("messages is nested too deeply for a JSON reader.") from error


def _check_message(index: int, message: Object) -> None:
    try:
        Message.model_validate(message)
    except ValidationError as error:
        raise InvalidRequest(_first_fault(error, ("messages", index))) from error


def _first_fault(error: ValidationError, prefix: tuple[str | int, ...] = ()) -> str:
    fault = error.errors(include_url=False)[0]
    *parents, key = (*prefix, *fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"messages has an unknown key {str(key)!r}{did_you_mean(str(key), ChatRequest.model_fields)}."
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in (*parents, key)).lstrip(".")
    return f"{path}: {fault['msg']}. Send a list of messages, each with a role and content."
