"""Whatever is said in a conversation, its prompt is that of transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from python_backend.errors import InvalidRequest
from python_backend.text.chat_request import ChatRequest
from python_backend.text.chat_template import ChatTemplate

FOLDER = Path(__file__).parents[1] / "unit" / "text" / "chat_templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CONTENT = st.text(max_size=20) | st.text("<think>/\n ", max_size=20) | st.just("<think>a</think>b")
CALLS = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text(max_size=5), "arguments": st.dictionaries(st.text(max_size=5), JSON, max_size=3)}
        ),
    }
)
SAID = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENT})
CALLED = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": CONTENT, "tool_calls": st.lists(CALLS, min_size=1, max_size=2)}
)
TURNS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3).map(
    lambda turns: [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
)


@cache
def read(path: Path) -> tuple[str, ChatTemplate]:
    source = path.read_text()
    return source, ChatTemplate({"default": source}, TOKENS)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jinja")), ids=lambda path: path.stem)
@settings(deadline=None)
@given(
    messages=TURNS | st.lists(SAID | CALLED, min_size=1, max_size=5),
    tools=st.none() | st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": JSON}), max_size=2),
    prompt=st.booleans(),
)
def test_the_text_is_that_of_transformers(
    path: Path, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, prompt: bool
) -> None:
    source, template = read(path)
    request = ChatRequest(messages=messages, tools=tools, add_generation_prompt=prompt)
    try:
        [expected], _ = render_jinja_template(
            [messages], tools, chat_template=source, add_generation_prompt=prompt, **TOKENS
        )
    except (TemplateError, TypeError, ValueError):
        with pytest.raises(InvalidRequest):
            template.render(request)
    else:
        assert template.render(request) == expected
