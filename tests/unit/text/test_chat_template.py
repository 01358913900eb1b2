"""Chat templates against transformers, and what happens when there is none or it misbehaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from python_backend.errors import InvalidRequest, SetupError
from python_backend.text.chat_request import ChatRequest
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.tokenizer import Tokenizer
from tests import tiny_llama

TEMPLATES = sorted(Path(__file__).with_name("chat_templates").glob("*.jinja"))

USER = {"role": "user", "content": "What is <b>1 & 2</b>?  "}
CALL = {"type": "function", "id": "call00001", "function": {"name": "f", "arguments": {"é": "<", "n": [1, 2.5, None]}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [USER],
    "system": [{"role": "system", "content": " Be 'brief'.\n"}, USER],
    "several turns": [USER, {"role": "assistant", "content": " Three. "}, USER],
    "answer last": [USER, {"role": "assistant", "content": "Three."}],
    "unicode": [{"role": "user", "content": "日本語 🙂 e\u0301 \u2028 \x00 </s>"}],
    "empty": [{"role": "user", "content": ""}],
    "thought": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThree."}, USER],
    "tool": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "f", "content": '{"x": "<é>"}', "tool_call_id": "call00001"},
        {"role": "assistant", "content": "Done."},
    ],
    "system, several turns": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "\n\na\tb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "{{ d }} {% if %}"},
    ],
    "roles that do not alternate": [USER, USER],
    "unknown role": [{"role": "narrator", "content": "a"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}],
    "nothing said": [{"role": "user"}],
}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d <é>", "parameters": {"type": "object"}}}]


def write(folder: Path, **config: object) -> Path:
    files = tiny_llama.tokenizer_files()
    named = json.loads(files["tokenizer_config.json"]) | config
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def of_source(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, {}, max_characters=1000, max_render_s=1.0)


def hello(**extra: Any) -> ChatRequest:
    return ChatRequest(messages=[{"role": "user", "content": "Hello"}], **extra)


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tokenizer"), chat_template=request.param.read_text())


@pytest.fixture(scope="module")
def ours(folder: Path) -> ChatTemplate:
    return ChatTemplate.load(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "no prompt"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_text_is_that_of_transformers(
    ours: ChatTemplate, theirs: PreTrainedTokenizerFast, name: str, prompt: bool, tools: list[dict[str, Any]] | None
) -> None:
    messages = CONVERSATIONS[name]
    request = ChatRequest(messages=messages, tools=tools, add_generation_prompt=prompt)
    try:
        expected = theirs.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
    except (TemplateError, TypeError) as error:
        with pytest.raises(InvalidRequest, match=re.escape(str(error))):
            ours.render(request)
    else:
        assert ours.render(request) == expected


@pytest.mark.parametrize("name", ["one question", "several turns", "unicode", "thought"])
def test_ordinary_conversations_are_rendered(ours: ChatTemplate, name: str) -> None:
    messages = CONVERSATIONS[name]
    assert messages[-1]["content"].strip() in ours.render(ChatRequest(messages=messages))


def test_the_tokens_are_those_of_transformers(
    ours: ChatTemplate, theirs: PreTrainedTokenizerFast, folder: Path
) -> None:
    messages = CONVERSATIONS["several turns"]
    text = ours.render(ChatRequest(messages=messages))
    ids = Tokenizer.load(folder).encode(text, add_special_tokens=False)
    assert np.array_equal(ids, theirs.apply_chat_template(messages, add_generation_prompt=True))


def test_variables_of_the_template(tmp_path: Path) -> None:
    source = (Path(__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    folder = write(tmp_path, chat_template=source)
    rendered = ChatTemplate.load(folder).render(hello(chat_template_kwargs={"enable_thinking": False}))
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = theirs.apply_chat_template(
        hello().messages, add_generation_prompt=True, enable_thinking=False, tokenize=False
    )
    assert rendered == expected
    assert rendered.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("loop", ["length", "last", "revindex", "previtem", "nextitem", "first", "cycle(1, 2)"])
def test_loops_are_those_of_transformers(tmp_path: Path, loop: str) -> None:
    source = (
        f"{{% for m in messages if m.role != 'x' recursive %}}{{{{ loop.{loop} }}}}{{% else %}}none{{% endfor %}}"
        f"{{% for m in messages | map(attribute='role') %}}{{{{ loop.{loop} }}}}{{% endfor %}}"
        f"{{% for key, value in messages[0].items() %}}{{% if loop.first %}}{{% continue %}}{{% endif %}}"
        f"{{{{ loop.{loop} }}}}{{% endfor %}}{{% for x in missing %}}{{% else %}}nothing{{% endfor %}}"
    )
    folder = write(tmp_path, chat_template=source)
    messages = CONVERSATIONS["several turns"]
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    assert ChatTemplate.load(folder).render(ChatRequest(messages=messages)) == theirs.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )


def test_white_space_is_that_of_transformers(tmp_path: Path) -> None:
    source = (
        "  {% if messages %}\n  {# note #}\n  a\n  {%- endif %}\n\t{% for m in messages %}\n\tb\n  {% endfor %} \n\n"
    )
    folder = write(tmp_path, chat_template=source)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = theirs.apply_chat_template(hello().messages, tokenize=False)
    assert ChatTemplate.load(folder).render(hello()) == expected


def test_special_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    names = "['bos_token', 'eos_token', 'unk_token', 'pad_token', 'additional_special_tokens']"
    every = "{{ [bos_token, eos_token, unk_token, pad_token, additional_special_tokens] }}" + names
    token = {"content": "<|im_start|>", "lstrip": False, "__type": "AddedToken"}
    folder = write(tmp_path, chat_template=every, bos_token=token, additional_special_tokens=["<|im_end|>"])
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    assert ChatTemplate.load(folder).render(hello()) == theirs.apply_chat_template(hello().messages, tokenize=False)


def test_named_templates_and_the_one_for_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with {{ tools | tojson }}"}]
    folder = write(tmp_path, chat_template=named)
    ours, theirs = ChatTemplate.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    for tools in (None, [], TOOLS):
        expected = theirs.apply_chat_template(hello().messages, tools=tools, tokenize=False)
        assert ours.render(hello(tools=tools)) == expected


def test_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    folder = write(tmp_path, chat_template="in the config")
    (folder / "chat_template.jinja").write_text("in a file\n")
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = theirs.apply_chat_template(hello().messages, tokenize=False)
    assert ChatTemplate.load(folder).render(hello()) == expected == "in a file"


def test_without_a_template_messages_are_refused(tmp_path: Path) -> None:
    template = ChatTemplate.load(write(tmp_path, chat_template=None))
    assert not template
    with pytest.raises(InvalidRequest, match=r"no chat template.*Send text_input instead"):
        template.render(hello())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('only one message') }}", "refuses these messages: only one message"),
        ("{{ messages[0].content.bit_count() }}", "refuses these messages: .*bit_count"),
        ("{{ messages[0].content + 1 }}", "fails on these messages: TypeError: "),
        ("{{ messages.clear() }}", "refuses these messages: .*unsafe"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages: .*unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "fails on these messages: OverflowError: Range too big"),
        ("{% for i in range(99999) %}{{ i }}{% endfor %}", "more than 1000 characters"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "fails on these messages: RecursionError"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "for more than 1 s"),
        (
            "{% set n = range(999) | list %}"
            "{% for i in n %}{% for j in n %}{% for k in n %}{% endfor %}{% endfor %}{% endfor %}",
            "for more than 1 s",
        ),
        (
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
            "for more than 1 s",
        ),
    ],
)
def test_a_template_that_refuses_fails_or_explodes(source: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        of_source(source).render(hello())


def test_broken_setups_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"'default' is broken at line 2: .*endif"):
        of_source("\n{% if messages %}")
    with pytest.raises(SetupError, match=r"\['rag'\], but none is named 'default'"):
        ChatTemplate({"rag": ""}, {})
    for wrong in (3, [3], {"default": "a"}):
        with pytest.raises(SetupError, match="neither a text nor a list"):
            ChatTemplate.load(write(tmp_path, chat_template=wrong))
    with pytest.raises(SetupError, match="cannot read the chat template"):
        ChatTemplate.load(tmp_path / "nowhere")
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(SetupError, match="holds a list, not an object"):
        ChatTemplate.load(tmp_path)
