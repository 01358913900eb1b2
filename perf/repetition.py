"""What drafts gain, by how much of an answer repeats what stood in the text before it: what look-up lives on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from perf.closed_loop import Load
from perf.record import RequestRecord

RUN_WORDS = 5
#: Shares of an answer between which pairs are told together.
BOUNDS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One request, answered with drafts and without."""

    repeated: float  #: share of the answer, see ``repeated_share``
    ratio: float  #: response time with drafts over that without


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs whose answers repeat about as much."""

    least: float
    most: float
    ratios: tuple[float, ...]

    @property
    def title(self) -> str:
        return f"{self.least:.0%} to {self.most:.0%}"

    @property
    def median(self) -> float:
        return median(self.ratios)


def repeated_share(prompt: str, answer: str, run_words: int = RUN_WORDS) -> float:
    """Share of the answer's words in runs of ``run_words`` or more that stood in the prompt or earlier in the answer.

    0 for an answer without words.
    """
    words = (prompt + answer).split()
    begin = len(words) - len(answer.split())  # a word that prompt and answer share counts as the prompt's
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for end in range(run_words, len(words) + 1):
        run = tuple(words[end - run_words : end])
        if run in seen and end - run_words >= begin:
            repeated.update(range(end - run_words, end))
        seen.add(run)
    return len(repeated) / (len(words) - begin) if len(words) > begin else 0.0


def pairs(load: Load, ours: Sequence[RequestRecord], theirs: Sequence[RequestRecord]) -> list[Pair]:
    """Of two sides that answered one load. An answer is read where drafts were left out."""
    prompts = [prompt for worker in load.workers for prompt in worker]
    return [
        Pair(repeated=repeated_share(prompt.text, their.text), ratio=our.duration_s / their.duration_s)
        for prompt, our, their in zip(prompts, ours, theirs, strict=True)
    ]


def bins(found: Sequence[Pair]) -> list[Bin]:
    """Those that are not empty, by rising shares."""
    result = []
    for least, most in pairwise(BOUNDS):
        ratios = [pair.ratio for pair in found if least <= pair.repeated < most or pair.repeated == most == BOUNDS[-1]]
        if ratios:
            result.append(Bin(least=least, most=most, ratios=tuple(ratios)))
    return result
