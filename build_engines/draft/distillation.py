"""Distillation: the draft learns the target's distributions on text that the target wrote.

The loss is KL(target || draft) over the draft's vocabulary (Zhou et al., 2023, DistillSpec), and the cross entropy
with the target's likeliest token, which is what greedy verification asks for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from build_engines.draft.generation import Text
from build_engines.draft.settings import TrainingSettings
from build_engines.draft.student import Student
from build_engines.progress import Report

_SAVE_EVERY_S = 60.0


class Distillation:
    """Trains ``student``. The state is saved every minute: a run that was stopped goes on from there.

    Steps depend on the seed and their number only, so that it makes no difference to the result how often it was
    stopped. With another number of threads sums are rounded differently.
    """

    def __init__(
        self, student: Student, texts: Sequence[Text], settings: TrainingSettings, state_file: Path, *, seed: int
    ) -> None:
        self._student, self._texts, self._settings = student, texts, settings
        self._state_file, self._seed = state_file, seed
        weights = list(student.trained.values())
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [w for w in weights if w.ndim == 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
        self.step = 0
        if state_file.is_file():
            self._restore()

    def run(self, *, report: Report, expired: Callable[[], bool]) -> bool:
        """Train to the last step; False when ``expired`` before. The state is saved in both cases."""
        steps, saved_s = self._settings.steps, time.monotonic()
        loss = math.nan
        while self.step < steps and not expired():
            report(self.step, steps, f"step {self.step} of {steps}, loss {loss:.3f}")
            loss = self._train()
            self.step += 1
            if time.monotonic() - saved_s > _SAVE_EVERY_S:
                self._save()
                saved_s = time.monotonic()
        self._save()
        return self.step == steps

    def _train(self) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss = self.loss(self._batch())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._student.trained.values(), 1.0)
        self._optimizer.step()
        return loss.item()

    def loss(self, texts: Sequence[Text]) -> torch.Tensor:
        """The mean over all tokens that the target wrote."""
        head = self._student.head
        with torch.no_grad():
            expected = functional.linear(torch.cat([text.states for text in texts]).float(), head).log_softmax(dim=-1)
        found = functional.linear(self._student.states(texts), head).log_softmax(dim=-1)
        divergence = (expected.exp() * (expected - found)).sum(dim=-1).mean()
        return divergence + self._settings.greedy_weight * functional.nll_loss(found, expected.argmax(dim=-1))

    def _batch(self) -> list[Text]:
        """The step's texts: all are seen once before any is seen again."""
        size = min(self._settings.batch_size, len(self._texts))
        a_round = len(self._texts) // size
        order = np.random.default_rng([self._seed, self.step // a_round]).permutation(len(self._texts))
        begin = self.step % a_round * size
        return [self._texts[index] for index in order[begin : begin + size]]

    def _learning_rate(self) -> float:
        settings = self._settings
        if self.step < settings.warmup_steps:
            return settings.learning_rate * (self.step + 1) / settings.warmup_steps
        rest = (self.step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        return settings.learning_rate * (1 + math.cos(math.pi * rest)) / 2

    def _save(self) -> None:
        draft = self._state_file.with_suffix(".part")
        state = {"step": self.step, "weights": self._student.trained, "optimizer": self._optimizer.state_dict()}
        torch.save(state, draft)
        draft.replace(self._state_file)

    def _restore(self) -> None:
        state: dict[str, Any] = torch.load(self._state_file, weights_only=True)
        for name, weight in state["weights"].items():
            self._student.trained[name].data.copy_(weight)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
