"""Asks the server for one token, as a client would. Only that tells whether it serves.

A killed stub leaves ``/v2/health/ready`` at 200, and so does a server that hangs with a corrupted heap.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import Enum, auto
from http.client import HTTPException

from python_backend.launcher.model_repository import ModelRepository, RepositoryModel
from python_backend.launcher.own_http import open_url

TEXT_DOORS = ("ensemble", "tensorrt_llm_bls")
ENGINE_DOOR = "tensorrt_llm"
DEAD_STUB = re.compile(r"Stub process '[^']*' is not healthy")
FULL_QUEUE = re.compile(r"max_queue_size|maximum queue size", re.IGNORECASE)  # ours; Triton's, TensorRT-LLM's
STEPS = re.compile(r'^nv_trt_llm_general_metrics\{.*general_type="iteration_counter".*\} (?P<count>\S+)$', re.MULTILINE)


class Health(Enum):
    """What an answer says about the server."""

    SERVING = auto()
    BUSY = auto()  # it refuses politely: a queue is full
    LATE = auto()  # no answer in time: perhaps it hangs
    FAILING = auto()  # an error, or no connection: perhaps for good
    DEAD = auto()  # it says itself that it cannot serve again


@dataclass(frozen=True, slots=True)
class Verdict:
    """Health, and the words for it."""

    health: Health
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A one-token request to each of the models that clients talk to."""

    http_url: str
    metrics_url: str
    bodies: dict[str, dict[str, object]]  # model -> JSON
    timeout_s: float = 30.0

    @classmethod
    def of(cls, repository: ModelRepository, http_url: str, metrics_url: str) -> Probe | None:
        """The probe for these models; None when none of them is one that we know how to ask."""
        models = repository.models
        doors = [name for name in TEXT_DOORS if name in models] or [name for name in [ENGINE_DOOR] if name in models]
        return cls(http_url, metrics_url, {name: _body(models[name]) for name in doors}) if doors else None

    def ask(self) -> Verdict:
        """The first answer that is not good, or a good one."""
        for model, body in self.bodies.items():
            verdict = self._ask(model, body)
            if verdict.health is not Health.SERVING:
                return verdict
        return Verdict(Health.SERVING)

    def engine_steps(self) -> float | None:
        """How many steps the engine has made; None where the metrics do not tell."""
        try:
            with open_url(self.metrics_url, timeout=self.timeout_s) as answer:
                counts = STEPS.findall(answer.read().decode())
        except (OSError, HTTPException):
            return None
        return sum(map(float, counts)) if counts else None

    def _ask(self, model: str, body: dict[str, object]) -> Verdict:
        try:
            return judge(model, *self._post(model, body))
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return Verdict(Health.LATE, f"{model} did not answer within {self.timeout_s:g} s")
            return Verdict(Health.FAILING, f"{model} cannot be reached: {reason}")

    def _post(self, model: str, body: dict[str, object]) -> tuple[int, str]:
        request = urllib.request.Request(
            f"{self.http_url}/v2/models/{model}/generate",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with open_url(request, timeout=self.timeout_s) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode(errors="replace")


def judge(model: str, status: int, answer: str) -> Verdict:
    """What an answer means; ``/generate`` reports some errors with status 200."""
    try:
        message = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        if status == 200:
            return Verdict(Health.SERVING)
        message = answer.strip()
    if stub := DEAD_STUB.search(message):
        return Verdict(Health.DEAD, stub.group())
    return Verdict(Health.BUSY if FULL_QUEUE.search(message) else Health.FAILING, f"{model} answered: {message}")


def _body(model: RepositoryModel) -> dict[str, object]:
    """A request for one token, ahead of all others where the model knows priorities."""
    body: dict[str, object] = {"text_input": "Hello", "max_tokens": 1}
    if model.name == ENGINE_DOOR:
        body = {"input_ids": [1], "input_lengths": 1, "request_output_len": 1}
    return body | ({"priority": 1.0} if "priority" in model.inputs else {})
