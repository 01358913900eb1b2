"""The Jinja environment of chat templates: that of transformers, with a limit on how long a template may run.

Source: ``_compile_jinja_template`` in transformers 4.57, which is the tests' oracle. What a template may touch is
limited by Jinja's sandbox; a template comes with the checkpoint, so the limits guard against accidents, not attacks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

_BUDGET = "_render_budget"
_METERED = "_metered"


class RenderTimeout(Exception):
    """A template ran longer than its budget."""


@dataclass(frozen=True, slots=True)
class RenderBudget:
    """When a rendering is to end; passed to a template as one of its variables, see ``variables``."""

    ends_s: float

    @classmethod
    def of_seconds(cls, limit_s: float) -> RenderBudget:
        return cls(time.monotonic() + limit_s)

    @property
    def variables(self) -> dict[str, RenderBudget]:
        return {_BUDGET: self}

    def check(self) -> None:
        """Raises RenderTimeout when time is up."""
        if time.monotonic() > self.ends_s:
            raise RenderTimeout


def compile_template(source: str) -> jinja2.Template:
    """The template; jinja2.TemplateSyntaxError when it is none. Render it with a budget's variables."""
    tree = _ENVIRONMENT.parse(source)
    for loop in tree.find_all(nodes.For):
        metered = nodes.Filter(loop.iter, _METERED, [], [], None, None)
        loop.iter = metered.set_lineno(loop.lineno).set_environment(_ENVIRONMENT)
    return _ENVIRONMENT.from_string(tree)


def _budget(context: Context) -> RenderBudget:
    budget: RenderBudget = context[_BUDGET]
    return budget


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which looks at the clock in each call."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _budget(__context).check()
        return super().call(__context, __obj, *args, **kwargs)


class _Metered:
    """An iterable that looks at the clock for each item; as long as the original, if that has a length."""

    def __init__(self, items: Iterable[Any], budget: RenderBudget) -> None:
        self._items = items
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.check()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # TypeError is the right answer for an iterator


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it only renders it."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = nodes.CallBlock(self.call_method("_render"), [], [], body)
        block.set_lineno(line)
        return block

    def _render(self, caller: Macro) -> str:
        return caller()


@jinja2.pass_context
def _metered(context: Context, items: Iterable[Any]) -> _Metered:
    return _Metered(items, _budget(context))


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension])
    environment.filters |= {"tojson": _to_json, _METERED: _metered}
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _now}
    return environment


_ENVIRONMENT = _environment()
