"""Prompts that say what to do, in the demo model's chat form: to copy most of a text, or to answer from scratch."""

from __future__ import annotations

import inspect
import random
import statistics
import textwrap
from collections.abc import Callable, Iterator
from itertools import count

from tokenizers import Tokenizer

from client.chatml import chatml
from perf.prompts import Prompt, PromptSource

_PASSAGE_TOKENS = (150, 200)
_EDITS = (
    "Correct the spelling mistakes in this text. Write the whole text again.\n\n{}",
    "Repeat this text word for word:\n\n{}",
    "Write this text again and change nothing but the punctuation:\n\n{}",
)
_CODE_EDIT = "Add a comment to the first line of this function, and write the whole function again:\n\n```python\n{}```"
_FUNCTIONS = (textwrap.indent, textwrap.dedent, statistics.fmean, statistics.quantiles, statistics.mode)
_CODE_CHARACTERS = 800
_QUESTIONS = (
    "Why is the sky blue?", "How do I make a good cup of tea?", "What is the difference between a frog and a toad?",
    "Tell me a short story about a lighthouse keeper.", "How does a refrigerator work?", "Why do cats purr?",
    "Give me advice for a job interview.", "What is photosynthesis?", "Plan a weekend trip to the mountains.",
    "Explain gravity to a child.", "Which vegetables grow well in the shade?", "How can I fall asleep faster?",
    "Write a letter to a friend who has moved away.", "What is inflation?", "How are bridges built?",
    "Why do leaves change their colour in autumn?", "Describe a market in the early morning.",
    "What should I cook with potatoes and eggs?", "How does a bicycle stay upright?", "What do historians do?",
    "Explain what a database is.", "Why is the sea salty?", "How do I train for a long run?",
    "Write a poem about the first snow.",
)  # fmt: skip


class TaskSource:
    """Deals out prompts of one kind: "copy", "chat" or both in turn, "mixed".

    Each begins with a number of its own: none finds another in the KV cache.
    """

    def __init__(self, kind: str, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._serials = count(1)
        kinds: dict[str, Callable[[], Iterator[str]]] = {
            "copy": lambda: _copies(PromptSource(tokenizer, *_PASSAGE_TOKENS, seed), random.Random(seed)),
            "chat": lambda: _questions(random.Random(seed)),
        }
        self._tasks = [kinds[name]() for name in (kinds if kind == "mixed" else (kind,))]

    def take(self, count: int) -> list[Prompt]:
        """The next prompts. ValueError when the corpus has no word left to begin with."""
        return [self._prompt(next(self._serials)) for _ in range(count)]

    def _prompt(self, serial: int) -> Prompt:
        task = next(self._tasks[serial % len(self._tasks)])
        text = chatml(task, system=f"{serial:05d}. You are a helpful assistant.")
        return Prompt(text, tuple(self._tokenizer.encode(text).ids))


def _copies(passages: PromptSource, choice: random.Random) -> Iterator[str]:
    while True:
        if choice.randrange(4):
            yield choice.choice(_EDITS).format(passages.take(1)[0].text)
        else:
            yield _CODE_EDIT.format(inspect.getsource(choice.choice(_FUNCTIONS))[:_CODE_CHARACTERS])


def _questions(choice: random.Random) -> Iterator[str]:
    while True:
        yield from choice.sample(_QUESTIONS, len(_QUESTIONS))
