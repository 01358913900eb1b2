"""The arrival pattern of every benchmark here: N workers, each sends its next request when its last one has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perf.prompts import Prompt
from perf.record import RequestRecord


class UnequalWork(Exception):
    """A side did other work than was asked for, so its figures would say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run asks for: a list of prompts for each worker, each continued by exactly ``max_tokens`` tokens."""

    workers: tuple[tuple[Prompt, ...], ...]
    max_tokens: int

    @classmethod
    def deal(cls, prompts: Sequence[Prompt], workers: int, max_tokens: int) -> Load:
        """Gives the prompts out in turn, an equal number to each worker."""
        if not prompts or len(prompts) % workers:
            raise ValueError(f"{len(prompts)} prompts cannot be shared equally by {workers} workers.")
        return cls(workers=tuple(tuple(prompts[index::workers]) for index in range(workers)), max_tokens=max_tokens)

    def check(self, records: Sequence[RequestRecord]) -> None:
        """UnequalWork unless the records answer this load: prompts of the same lengths, each answer in full length."""
        asked = sorted(len(prompt.token_ids) for worker in self.workers for prompt in worker)
        read = sorted(record.input_tokens for record in records)
        if read != asked:
            raise UnequalWork(
                f"{len(asked)} prompts of {sum(asked)} tokens were sent, {len(read)} of {sum(read)} were answered. "
                "Do both sides use the tokenizer of the same engine directory?"
            )
        for record in records:
            if record.output_tokens != self.max_tokens:
                raise UnequalWork(f"an answer has {record.output_tokens} tokens; {self.max_tokens} were asked for.")
