"""The text that a target writes, kept batch by batch: what was written before an interruption is not written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from build_engines.draft.generation import Generator, Text
from build_engines.draft.prompts import Prompt
from build_engines.draft.settings import TextSettings
from build_engines.progress import Report
from build_engines.quantization.transformers_model import transformers_model
from build_engines.sources.model_source import ModelSource
from build_engines.sources.special_tokens import SpecialTokens


@dataclass(frozen=True, slots=True)
class TargetTexts:
    """``temperatures`` [texts] and ``expected_counts`` f64 [vocabulary]: the sum of the target's distributions."""

    texts: list[Text]
    temperatures: list[float]
    expected_counts: torch.Tensor

    @property
    def tokens(self) -> int:
        """Tokens that the target wrote; prompts do not count."""
        return sum(len(text.states) for text in self.texts)


class TextWriter:
    """Writes the texts of one folder. Equal settings and threads write equal texts, however often it was stopped."""

    def __init__(self, source: ModelSource, settings: TextSettings, folder: Path, *, seed: int) -> None:
        self._source, self._settings, self._folder, self._seed = source, settings, folder, seed
        self._generator: Generator | None = None
        self._tokenizer = _tokenizer(source, folder)
        self._end_id = SpecialTokens.read(folder).end_id

    def write(
        self,
        tokens: int,
        draw: Callable[[int, np.random.Generator], Sequence[Prompt]],
        *,
        held_out: bool,
        report: Report,
        expired: Callable[[], bool],
    ) -> TargetTexts | None:
        """At least ``tokens`` of text after prompts that ``draw`` gives; None when ``expired`` before the end.

        ``draw`` takes their number and the random numbers to choose by; ``held_out`` text has others.
        """
        found, batch, name = 0, 0, "held-out" if held_out else "text"
        while found < tokens:
            report(found, tokens, f"{found} of {tokens} tokens of text")
            path = self._folder / f"{name}-{batch:04}.safetensors"
            if not path.is_file():
                if expired():
                    return None
                random = np.random.default_rng([self._seed, held_out, batch])
                self._write_batch(draw(self._settings.batch_size, random), random, path)
            found += len(load_file(path)["states"])
            batch += 1
        return _join(self._folder / f"{name}-{index:04}.safetensors" for index in range(batch))

    def _write_batch(self, prompts: Sequence[Prompt], random: np.random.Generator, path: Path) -> None:
        if self._generator is None:
            model = transformers_model(self._source.config, self._source.tensor)
            self._generator = Generator(model, max_tokens=self._settings.max_tokens, end_id=self._end_id)
        given = self._settings.temperatures
        temperatures = [given[index % len(given)] for index in range(len(prompts))]
        dice = torch.Generator().manual_seed(int(random.integers(2**63)))
        self._generator.expected_counts.zero_()
        texts = self._generator([self._ids(prompt) for prompt in prompts], temperatures, dice)
        tensors = {
            "token_ids": torch.cat([text.token_ids for text in texts]),
            "lengths": torch.tensor([len(text.token_ids) for text in texts]),
            "prompt_tokens": torch.tensor([text.prompt_tokens for text in texts]),
            "states": torch.cat([text.states for text in texts]),
            "temperatures": torch.tensor(temperatures, dtype=torch.float64),
            "expected_counts": self._generator.expected_counts,
        }
        draft = path.with_suffix(".part")
        save_file(tensors, draft)
        draft.replace(path)

    def _ids(self, prompt: Prompt) -> list[int]:
        """At most half of a text is prompt."""
        if prompt.chat and self._tokenizer.chat_template:
            message = [{"role": "user", "content": prompt.text}]
            text = self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        else:
            ids = self._tokenizer.encode(prompt.text)
        return ids[-(self._settings.max_tokens // 2) :] or [self._end_id]


def _tokenizer(source: ModelSource, folder: Path) -> PreTrainedTokenizerFast:
    for name, content in source.files.items():
        (folder / name).write_bytes(content)
    named = json.loads(source.files["tokenizer_config.json"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    if "chat_template.jinja" not in source.files and "chat_template" in named:
        tokenizer.chat_template = named["chat_template"]
    return tokenizer


def _join(paths: Iterator[Path]) -> TargetTexts:
    texts: list[Text] = []
    temperatures: list[float] = []
    counts: list[torch.Tensor] = []
    for path in paths:
        batch = load_file(path)
        given = batch["prompt_tokens"].tolist()
        ids = batch["token_ids"].split(batch["lengths"].tolist())
        states = batch["states"].split([len(x) - y for x, y in zip(ids, given, strict=True)])
        texts += [Text(*text) for text in zip(ids, given, states, strict=True)]
        temperatures += batch["temperatures"].tolist()
        counts.append(batch["expected_counts"])
    return TargetTexts(texts, temperatures, torch.stack(counts).sum(dim=0))
