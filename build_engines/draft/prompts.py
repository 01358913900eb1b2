"""What the target is asked when it writes the text that a draft learns from: requests about topics, and passages.

A draft has to learn how the target writes, not what is true: any mix of ordinary requests will do (Zhou et al., 2023,
DistillSpec, who find that text by the target itself is what matters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from python_backend.errors import SetupError

REQUESTS = (
    "What is {}?", "Explain {} to a child.", "Tell me about {}.", "Why is {} important?", "How does {} work?",
    "Write a short story about {}.", "Write a poem about {}.", "What is the history of {}?",
    "Give me five tips about {}.", "Give me three interesting facts about {}.", "Write an email to a friend about {}.",
    "Write an email to my manager about {}.", "List the advantages and disadvantages of {}.",
    "What are the most common mistakes with {}?", "How do I get started with {}?", "Compare {} with its alternatives.",
    "Write a blog post about {}.", "Write a speech about {}.", "Summarize what experts say about {}.",
    "Write a dialogue between two people who disagree about {}.", "What questions should I ask about {}?",
    "Make a weekly plan for {}.", "Describe {} in one paragraph.", "Write a product description for {}.",
    "Write a Python function for a program about {}.", "Write a Python class that models {}.",
    "Write a small JavaScript program about {}, with comments.", "Write an SQL query for a database about {}.",
    "Write an essay about the future of {}.", "What would the world be like without {}?", "Invent a joke about {}.",
    "Translate into simpler words what people mean by {}.", "I am worried about {}. What should I do?",
    "Who are the most famous people connected with {}?", "What are the steps of {}?", "Define {} and give an example.",
    "Write a checklist for {}.", "Write a quiz with answers about {}.", "Is {} good or bad?", "Convince me of {}.",
    "hi! can you help me with {}", "Write a letter of complaint about {}.", "Write a news report about {}.",
    "What should a beginner know about {}?", "Explain step by step how to teach {}.", "Describe a day in {}.",
)  # fmt: skip
TOPICS = (
    "photosynthesis", "the Roman Empire", "black holes", "baking bread", "machine learning", "the water cycle",
    "a lighthouse keeper", "job interviews", "climate change", "the French Revolution", "healthy breakfasts",
    "electric cars", "learning the piano", "sorting a list", "vaccines", "the moon", "saving money", "dinosaurs",
    "a lost dog", "democracy", "prime numbers", "time management", "volcanoes", "the internet", "gardening",
    "chess", "sleep", "the stock market", "coral reefs", "public speaking", "Shakespeare", "a dragon and a knight",
    "recursion", "solar panels", "the human heart", "moving to a new city", "inflation", "Mars", "coffee",
    "reading a file", "friendship", "the Second World War", "bees", "yoga", "a library", "gravity", "probability",
    "working from home", "old cameras", "earthquakes", "a birthday party", "the Silk Road", "hash tables", "stress",
    "rainforests", "football", "DNA", "renting a flat", "ancient Egypt", "a bank account", "whales", "painting",
    "the periodic table", "travelling by train", "patience", "robots", "fractions", "the ocean", "losing weight",
    "space travel", "a restaurant", "quantum computers", "weather forecasts", "bicycles", "the Industrial Revolution",
    "learning a language", "a haunted house", "cooking pasta", "antibiotics", "social media", "the Great Wall",
    "networks of friends", "jazz", "camping", "planets", "a shopping list", "credit cards", "the brain", "tea",
    "binary search", "wolves", "school uniforms", "glass", "running a marathon", "bridges", "a small village",
)  # fmt: skip
PASSAGE_REQUESTS = (
    "Summarize this text:\n\n{}", "Rewrite this text in modern English:\n\n{}", "What is this about?\n\n{}",
    "Continue this text:\n\n{}", "Who is mentioned in this text?\n\n{}",
)  # fmt: skip
#: Every tenth topic and passage is for the evaluation only.
_HELD_OUT = 10
_CHAT, _PASSAGE = 0.8, 0.9
#: Characters of a passage.
_SHORTEST, _LONGEST = 60, 200


@dataclass(frozen=True, slots=True)
class Prompt:
    """``chat``: a user's message, to be put into the chat template; otherwise the beginning of a text."""

    text: str
    chat: bool


def prompts(
    count: int, requests: Sequence[str], passages: Sequence[str], random: np.random.Generator, *, held_out: bool
) -> list[Prompt]:
    """Drawn at random from ``requests``. Without any: built-in ones, some about ``passages``, some their beginnings.

    Those with ``held_out`` share no topic and no passage with those without.
    """
    own, topics, texts = (_part(of, held_out) for of in (requests, TOPICS, passages))
    if own:
        return [Prompt(own[index], chat=True) for index in random.integers(len(own), size=count)]
    drawn = []
    for _ in range(count):
        kind, request, topic = random.random(), random.integers(2**31), random.integers(2**31)
        if kind < _CHAT or not texts:
            text = REQUESTS[request % len(REQUESTS)].format(topics[topic % len(topics)])
        elif kind < _PASSAGE:
            text = PASSAGE_REQUESTS[request % len(PASSAGE_REQUESTS)].format(texts[topic % len(texts)])
        else:
            text = texts[topic % len(texts)]
        drawn.append(Prompt(text, chat=kind < _PASSAGE or not texts))
    return drawn


def _part(of: Sequence[str], held_out: bool) -> list[str]:
    return [x for index, x in enumerate(of) if (index % _HELD_OUT == 0) == held_out]


def read_requests(files: Sequence[Path]) -> list[str]:
    """One request a line. Raises SetupError when a file cannot be read, or too few are there to hold some out."""
    try:
        lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"draft.text.prompts cannot be read ({error}). Name UTF-8 files, one request a line."
        ) from error
    requests = [line for line in lines if line]
    if len(requests) < _HELD_OUT:
        raise SetupError(
            f"draft.text.prompts has {len(requests)} requests; at least {_HELD_OUT} are needed, one of which is held "
            "out for the evaluation. Add some, one a line."
        )
    return requests


def passages_of(text: str) -> list[str]:
    """The paragraphs of ``text`` that are neither very short nor long."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return [paragraph for paragraph in paragraphs if _SHORTEST <= len(paragraph) <= _LONGEST]
