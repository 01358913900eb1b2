"""The `messages` input: what is taken, and how a fault is named."""

from __future__ import annotations

import json

import pytest

from python_backend.errors import InvalidRequest
from python_backend.text.chat_request import ChatRequest

HELLO = [{"role": "user", "content": "Hello"}]


def test_a_list_is_the_conversation() -> None:
    request = ChatRequest.parse(json.dumps(HELLO).encode())
    assert request == ChatRequest(messages=HELLO)
    assert request.add_generation_prompt


def test_an_object_says_more() -> None:
    content = {
        "messages": HELLO,
        "tools": [{"type": "function"}],
        "documents": [{"title": "a", "text": "b"}],
        "add_generation_prompt": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert ChatRequest.parse(json.dumps(content).encode()).model_dump() == content


def test_a_message_keeps_its_keys_and_their_order() -> None:
    message = {"tool_calls": [{"z": 1, "a": 2}], "content": None, "name": "é", "role": "assistant"}
    parsed = ChatRequest.parse(json.dumps([message]).encode()).messages[0]
    assert parsed == message
    assert list(parsed) == list(message)
    parts = [{"type": "text", "text": "a"}]
    assert ChatRequest.parse(json.dumps([{"role": "user", "content": parts}]).encode()).messages[0]["content"] == parts


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[{"role": "user",]', "not valid JSON: .* at line 1 column 18"),
        (b'[\n{"role" "user"}]', "not valid JSON: .* at line 2 column 9"),
        (b"", "not valid JSON: .* at line 1 column 1"),
        (b'[{"role": "caf\xe9"}]', "not valid UTF-8: .* at byte 14 of 18"),
        (b"[" * 100_000, "nested too deeply"),
        (b'"hello"', "messages holds a str; send a list of messages"),
        (b"[]", "messages: List should have at least 1 item"),
        (b"{}", "messages: Field required"),
        (b'["hello"]', r"messages\[0\]: Input should be .* dictionary"),
        (b'[{"role": "user"}, {"content": "a"}]', r"messages\[1\].role: Field required"),
        (b'[{"role": ""}]', r"messages\[0\].role: String should have at least 1 character"),
        (b'[{"role": "user", "content": 3}]', r"messages\[0\].content"),
        (b'{"messages": [{"role": "user"}], "tool": []}', "unknown key 'tool'; did you mean \"tools\""),
        (b'{"messages": [{"role": "user"}], "add_generation_prompt": "no"}', "add_generation_prompt: Input should be"),
        (b'{"messages": [{"role": "user"}], "chat_template_kwargs": {"tools": []}}', "chat_template_kwargs has tools"),
    ],
)
def test_a_fault_is_located(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ChatRequest.parse(raw)
