"""A conversation to a prompt, with the checkpoint's own chat template.

The text is, byte for byte, that of transformers' ``apply_chat_template(..., tokenize=False)``. Templates write the
special tokens, the first one included. So the text is tokenized without adding any (``add_special_tokens=False``), as
transformers does, or it would begin with two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from python_backend.errors import InvalidRequest, SetupError
from python_backend.text.chat_request import ChatRequest
from python_backend.text.template_environment import RenderBudget, RenderTimeout, compile_template

DEFAULT, TOOL_USE = "default", "tool_use"  # transformers' names
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """The chat templates of one tokenizer, by name; safe to share between threads.

    ``config`` is the content of tokenizer_config.json, from which templates get the special tokens. SetupError for a
    template that is no Jinja, or several without a default.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        config: Mapping[str, Any],
        *,
        max_characters: int = 1 << 22,
        max_render_s: float = 2.0,
    ) -> None:
        self._templates = {name: _compiled(name, source) for name, source in sources.items()}
        if self._templates and DEFAULT not in self._templates:
            raise SetupError(f"the tokenizer has the chat templates {sorted(sources)}, but none is named {DEFAULT!r}.")
        self._tokens = _special_tokens(config)
        self._max_characters = max_characters
        self._max_render_s = max_render_s

    @classmethod
    def load(cls, tokenizer_dir: str | Path) -> ChatTemplate:
        """The templates in a directory: chat_template.jinja, else ``chat_template`` in tokenizer_config.json.

        A directory without a template is no fault, since many models do not chat: ``render`` then refuses.
        """
        config_path = Path(tokenizer_dir) / "tokenizer_config.json"
        template_path = Path(tokenizer_dir) / "chat_template.jinja"
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
            written = template_path.read_text(encoding="utf-8") if template_path.exists() else None
        except (OSError, ValueError) as error:
            raise SetupError(f"cannot read the chat template in {tokenizer_dir}: {error}.") from error
        if not isinstance(config, dict):
            raise SetupError(f"{config_path} holds a {type(config).__name__}, not an object.")
        return cls(_sources(config.get("chat_template") if written is None else written, config_path), config)

    def __bool__(self) -> bool:
        """Whether there is a template to render with."""
        return bool(self._templates)

    def render(self, request: ChatRequest) -> str:
        """The prompt. Tokenize it without adding special tokens.

        InvalidRequest when there is no template, when the template refuses the messages or fails on them, and when it
        writes or runs beyond the limits.
        """
        if not self._templates:
            raise InvalidRequest("this model has no chat template, so it takes no messages. Send text_input instead.")
        tools = request.tools is not None and TOOL_USE in self._templates
        template = self._templates[TOOL_USE if tools else DEFAULT]
        variables = {
            **self._tokens,
            **request.chat_template_kwargs,
            "messages": request.messages,
            "tools": request.tools,
            "documents": request.documents,
            "add_generation_prompt": request.add_generation_prompt,
            **RenderBudget.of_seconds(self._max_render_s).variables,
        }
        try:
            return self._written(template, variables)
        except InvalidRequest:
            raise
        except RenderTimeout as error:
            raise InvalidRequest(
                f"the chat template ran for more than {self._max_render_s:g} s. Send fewer messages."
            ) from error
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error.message}") from error
        except Exception as error:
            # A template is a program of the checkpoint's author: on messages of another form it may raise anything.
            raise InvalidRequest(
                f"the chat template fails on these messages: {type(error).__name__}: {error}. Send the form it expects."
            ) from error

    def _written(self, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        length = 0
        for piece in template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > self._max_characters:
                raise InvalidRequest(
                    f"the chat template makes more than {self._max_characters} characters of these messages. "
                    "Send fewer."
                )
        return "".join(pieces)


def _compiled(name: str, source: str) -> jinja2.Template:
    try:
        return compile_template(source)
    except jinja2.TemplateSyntaxError as error:
        raise SetupError(f"the chat template {name!r} is broken at line {error.lineno}: {error.message}.") from error


def _sources(written: Any, path: Path) -> dict[str, str]:
    match written:
        case None:
            return {}
        case str():
            return {DEFAULT: written}
        case [*named] if all(isinstance(n, dict) and {"name", "template"} <= n.keys() for n in named):
            return {str(n["name"]): str(n["template"]) for n in named}
    raise SetupError(f"chat_template in {path} is neither a text nor a list of names and templates.")


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The tokens that are set, as text; the additional ones as a list."""
    tokens: dict[str, str | list[str]] = {name: _content(config.get(name)) for name in _TOKENS}
    tokens["additional_special_tokens"] = [_content(token) for token in config.get("additional_special_tokens") or []]
    return {name: token for name, token in tokens.items() if token}


def _content(token: Any) -> str:
    return str((token.get("content") if isinstance(token, dict) else token) or "")
