"""Text by the target: batches of prompts continued with a KV cache, each token with the hidden state it was chosen by.

The hidden state after the last norm is all that the target's distribution depends on, and a hundredth of its size: a
draft is distilled from these states without running the target again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

#: Rows that have ended are taken out of a batch when they are this part of it.
_ENDED_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Text:
    """``token_ids`` i32 [tokens], of which the first ``prompt_tokens`` were given.

    ``states`` f16 [tokens - prompt_tokens, hidden size]: what each of the others was chosen by.
    """

    token_ids: torch.Tensor
    prompt_tokens: int
    states: torch.Tensor


@dataclass(slots=True)
class _Row:
    index: int
    token_ids: list[int]
    states: list[torch.Tensor]


class Generator:
    """Continues prompts with a causal language model, up to ``max_tokens`` with the prompt, or to ``end_id``."""

    def __init__(self, model: PreTrainedModel, *, max_tokens: int, end_id: int) -> None:
        self._model, self._max_tokens, self._end_id = model, max_tokens, end_id
        self._head = model.get_output_embeddings().weight
        #: The sum of the target's distributions over all tokens so far: how often it expects each token.
        self.expected_counts = torch.zeros(len(self._head), dtype=torch.float64)
        model.config._attn_implementation = _ATTENTION

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], random: torch.Generator
    ) -> list[Text]:
        """One text a prompt, each shorter than ``max_tokens``; temperature 0 is greedy."""
        longest = max(map(len, prompts))
        assert longest < self._max_tokens
        rows = [_Row(index, list(prompt), []) for index, prompt in enumerate(prompts)]
        padding = torch.tensor([longest - len(prompt) for prompt in prompts])
        step = torch.tensor([[self._end_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        heat = torch.tensor(temperatures)[:, None]
        cache = _Cache(self._max_tokens)
        live = rows
        for begin in range(self._max_tokens - longest + 1):
            states = self._states(step, padding, cache)
            logits = states @ self._head.T
            self._count(live, logits)
            chosen = _choose(logits, heat, random)
            for row, state, token_id in zip(live, states.half(), chosen.tolist(), strict=True):
                if not _ended(row, self._end_id):
                    row.states.append(state)
                    row.token_ids.append(token_id)
            going = torch.tensor([not _ended(row, self._end_id) for row in live])
            if not going.any() or begin == self._max_tokens - longest:
                break
            if (~going).float().mean() >= _ENDED_SHARE:
                cache.keep(going)
                padding, heat, chosen = padding[going], heat[going], chosen[going]
                live = [row for row, goes in zip(live, going.tolist(), strict=True) if goes]
            step = chosen[:, None]
        return [
            Text(torch.tensor(row.token_ids, dtype=torch.int32), len(prompts[row.index]), torch.stack(row.states))
            for row in rows
        ]

    def _states(self, step: torch.Tensor, padding: torch.Tensor, cache: _Cache) -> torch.Tensor:
        """The normed hidden states [rows, hidden size] of the last of the ``step``'s tokens [rows, tokens]."""
        slots = torch.arange(cache.tokens, cache.tokens + step.shape[1])
        positions = (slots[None, :] - padding[:, None]).clamp(min=0)
        seen = torch.arange(cache.tokens + step.shape[1])
        visible = (seen[None, None, :] <= slots[None, :, None]) & (seen[None, None, :] >= padding[:, None, None])
        visible |= seen[None, None, :] == slots[None, :, None]  # Padding sees itself: no row of nothing.
        found: Any = self._model.model(
            input_ids=step,
            position_ids=positions,
            attention_mask=visible[:, None],
            past_key_values=cache,
            cache_position=slots,
            use_cache=True,
        )
        cache.tokens += step.shape[1]
        states: torch.Tensor = found.last_hidden_state[:, -1]
        return states

    def _count(self, live: Sequence[_Row], logits: torch.Tensor) -> None:
        going = torch.tensor([not _ended(row, self._end_id) for row in live])
        self.expected_counts += logits[going].softmax(dim=-1).sum(dim=0)


def _ended(row: _Row, end_id: int) -> bool:
    return bool(row.states) and row.token_ids[-1] == end_id


def _choose(logits: torch.Tensor, temperatures: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A token a row: the likeliest at temperature 0, else a sample."""
    chosen = logits.argmax(dim=-1)
    hot = temperatures[:, 0] > 0
    if hot.any():
        cumulative = (logits[hot] / temperatures[hot]).softmax(dim=-1).cumsum(dim=-1)
        at = torch.rand(len(cumulative), 1, generator=random) * cumulative[:, -1:]
        chosen[hot] = torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return chosen


class _Cache:
    """Keys and values in place: transformers' own caches copy all of them every step."""

    def __init__(self, max_tokens: int) -> None:
        self.tokens = 0
        self._max_tokens = max_tokens
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [rows, heads, tokens, head size]; returns all that is stored."""
        if layer not in self._layers:
            rows, heads, _, size = key.shape
            room = (rows, heads, self._max_tokens, size)
            self._layers[layer] = (torch.zeros(room), torch.zeros(room))
        end = self.tokens + key.shape[2]
        for stored, new in zip(self._layers[layer], (key, value), strict=True):
            stored[:, :, self.tokens : end] = new
        keys, values = self._layers[layer]
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.tokens

    def keep(self, rows: torch.Tensor) -> None:
        self._layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self._layers.items()}


def _grouped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention without copies of keys and values for the query heads that share them."""
    rows, heads, tokens, size = query.shape
    groups = heads // key.shape[1]
    grouped = query.reshape(rows, key.shape[1], groups * tokens, size)
    mask = attention_mask.repeat(1, 1, groups, 1)
    attended = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, tokens, size).transpose(1, 2), None


_ATTENTION = "slipstream_grouped"
ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _grouped_attention)
