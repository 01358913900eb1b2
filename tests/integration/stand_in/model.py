"""A stand-in for TensorRT-LLM's C++ backend: Triton's Python backend with a text that is known beforehand.

It answers as that backend documents and no kinder. Its "language model" continues a prompt `<name> ...<|im_start|>`
with the script of that name, token by token, whatever stands there so far; behind the last token comes the end.
At random, a token is the script's or, with the rest of the probability, the one with the next id.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
MARKER, END = "<|im_start|>", "<|im_end|>"
SURE = 0.75  # probability of the script's token when drawing
NEVER = -1e4  # logit of tokens that cannot come

Vector = npt.NDArray[np.float64]


class Refused(Exception):
    """Goes to the client as it is."""


@dataclass(eq=False)
class Call:
    """One row of a request while it runs."""

    row: dict[str, npt.NDArray[Any]]
    stopped: threading.Event = field(default_factory=threading.Event)
    scheduled_ns: int = 0

    def number(self, name: str, default: float) -> float:
        return self.row[name].reshape(-1)[0].item() if name in self.row else default

    @property
    def prompt(self) -> list[int]:
        return list(self.row["input_ids"].reshape(-1)[: int(self.number("input_lengths", 0))].tolist())

    @property
    def draft(self) -> list[int]:
        return list(self.row["draft_input_ids"].reshape(-1).tolist()) if "draft_input_ids" in self.row else []

    @property
    def is_greedy(self) -> bool:
        return self.number("runtime_top_k", 0) == 1 or not (
            self.number("runtime_top_k", 0) or self.number("runtime_top_p", 0)
        )


class TritonPythonModel:
    """Each row of a request is served by a thread of its own, a token a step."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        said = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._excludes_input = said["exclude_input_in_output"] == "true"
        self._max_draft_len = int(said["max_draft_len"])
        self._step_s = float(said["step_ms"]) / 1000
        self._wrong_every = int(said["wrong_every"])  # for a draft: how often the script's token is not the one
        self._tokenizer = Tokenizer.from_file(str(Path(said["gpt_model_path"]) / "tokenizer.json"))
        self._vocab_size = self._tokenizer.get_vocab_size()
        self._marker, self._end = (self._tokenizer.token_to_id(token) for token in (MARKER, END))
        texts = json.loads((Path(said["gpt_model_path"]) / "scripts.json").read_text())
        self._scripts = {
            name: [*self._tokenizer.encode(text, add_special_tokens=False).ids, self._end]
            for name, text in texts.items()
        }
        self._running: dict[str, list[Call]] = {}
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        kinds = ("running", "stopped", "tokens", "calls")
        gauge = pb_utils.MetricFamily.GAUGE
        self._families = {k: pb_utils.MetricFamily(name=f"stand_in_{k}", description=k, kind=gauge) for k in kinds}
        self._metrics = {k: self._families[k].Metric(labels={"model": args["model_name"]}) for k in kinds}

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            try:
                self._accept(request)
            except Refused as error:
                _refuse(request.get_response_sender(), error)

    def _count(self, name: str, change: int) -> None:
        with self._counting:  # two threads in one metric at once take Triton down
            self._metrics[name].increment(change)

    def _accept(self, request: Any) -> None:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        sender, request_id = request.get_response_sender(), request.request_id()
        if "stop" in inputs and inputs["stop"].reshape(-1)[0]:
            if not request_id:
                raise Refused("Trying to stop a request but request ID is not provided")
            with self._lock:
                for call in self._running.get(request_id, []):
                    if not call.stopped.is_set():
                        self._count("stopped", 1)
                    call.stopped.set()
            sender.send(pb_utils.InferenceResponse([]), flags=FINAL)
            return
        rows = len(inputs["input_lengths"])
        if rows > 1 and not self._decoupled:
            raise Refused("Batch size > 1 requires the tensorrt_llm backend to be using decoupled transaction policy")
        calls = [Call({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(rows)]
        for call in calls:
            self._check(call)
        wanted = frozenset(request.requested_output_names())
        if not {"output_ids", "sequence_length"} <= wanted:
            raise Refused("output_ids and sequence_length must be among the requested outputs")
        with self._lock:
            self._running.setdefault(request_id, []).extend(calls)
        reply = Reply(sender, wanted, rows)
        for index, call in enumerate(calls):
            threading.Thread(target=self._serve, args=(call, index, reply, request_id), daemon=True).start()

    def _check(self, call: Call) -> None:
        if call.number("streaming", 0) and not self._decoupled:
            raise Refused("Streaming is only supported if model is deployed using decoupled mode.")
        if len(call.draft) > self._max_draft_len:
            raise Refused(
                f"Assertion failed: Number of draft tokens ({len(call.draft)}) is larger than maximum number of draft "
                f"tokens ({self._max_draft_len})"
            )
        if "draft_logits" in call.row and call.row["draft_logits"].shape[1:] != (len(call.draft), self._vocab_size):
            raise Refused(f"Assertion failed: draft_logits has shape {call.row['draft_logits'].shape}")

    def _serve(self, call: Call, index: int, reply: Reply, request_id: str) -> None:
        self._count("running", 1)
        self._count("calls", 1)
        call.scheduled_ns = time.monotonic_ns()
        streams = bool(call.number("streaming", 0))
        output: list[int] = []
        told = 0
        ended = False
        random = np.random.default_rng(int(call.number("seed", 0)))
        while not (ended or call.stopped.is_set()):
            time.sleep(self._step_s)
            if reply.is_cancelled():
                self._count("stopped", 1)
                call.stopped.set()
                break
            step, ended = self._step(call, output, random)
            output += step
            ended = ended or bool(call.draft) or len(output) >= call.number("request_output_len", 0)
            if streams and not ended:
                reply.send(self._outputs(call, output, told, index, reply))
                told = len(output)
        with self._lock:
            self._running[request_id].remove(call)
        self._count("tokens", len(output))
        self._count("running", -1)
        tensors = [] if call.stopped.is_set() else self._outputs(call, output, told, index, reply, last=True)
        reply.end(tensors)

    def _step(self, call: Call, output: list[int], random: np.random.Generator) -> tuple[list[int], bool]:
        """The tokens of one step, without the one that ends generation, and whether that came."""
        end_id = int(call.number("end_id", -1))
        room = int(call.number("request_output_len", 0)) - len(output)
        tokens: list[int] = []
        for place in range(len(call.draft) + 1):
            chances = self._chances(call, [*output, *tokens])
            guess = call.draft[place] if place < len(call.draft) else None
            token = self._chosen(call, chances, place, guess, random)
            if token == end_id:
                return tokens, True  # its length does not grow with the end token
            tokens.append(token)
            if token != guess or len(tokens) == room:
                break
        return tokens, False

    def _chosen(self, call: Call, chances: Vector, place: int, guess: int | None, random: np.random.Generator) -> int:
        if guess is None or "draft_logits" not in call.row:
            return int(random.choice(self._vocab_size, p=chances))
        logits = call.row["draft_logits"][0, place].astype(np.float64)
        drafted = np.exp(logits - logits.max())
        drafted /= drafted.sum()
        if chances[guess] >= random.random() * drafted[guess]:
            return guess
        rest = np.maximum(chances - drafted, 0)
        return int(random.choice(self._vocab_size, p=rest / rest.sum()))

    def _chances(self, call: Call, output: list[int]) -> Vector:
        """The distribution of the next token, [vocabulary]."""
        text = call.prompt + output
        marker = text.index(self._marker)
        script = self._scripts[self._tokenizer.decode(text[:marker]).split()[0]]
        position = len(text) - marker - 1
        token = script[position % len(script)]
        if self._wrong_every and position % self._wrong_every == self._wrong_every - 1:
            token = 300 if token != 300 else 301
        if token == call.number("end_id", -1) and len(output) < call.number("min_tokens", 0):
            token = 299
        chances = np.zeros(self._vocab_size)
        chances[token] = 1.0 if call.is_greedy else SURE
        chances[(token + 1) % self._vocab_size] += 1 - chances[token]
        return chances

    def _outputs(
        self, call: Call, output: list[int], told: int, index: int, reply: Reply, *, last: bool = False
    ) -> list[Any]:
        tokens = output[told:]
        excludes = bool(call.number("exclude_input_in_output", self._excludes_input))
        shown = tokens if excludes or call.number("streaming", 0) else call.prompt + tokens
        arrays: dict[str, npt.NDArray[Any]] = {
            "output_ids": np.array([[shown]], np.int32).reshape(1, 1, len(shown)),
            "sequence_length": np.array([[len(shown)]], np.int32),
        }
        if call.number("return_log_probs", 0):
            arrays["output_log_probs"] = log_probs(tokens)[None, None]
            arrays["cum_log_probs"] = log_probs(tokens).sum(keepdims=True)[None]
        if call.number("return_generation_logits", 0):
            rows = [self._chances(call, output[:place]) for place in range(told, len(output))]
            chances = np.array(rows).reshape(1, 1, len(tokens), self._vocab_size)
            arrays["generation_logits"] = np.log(np.maximum(chances, np.exp(NEVER))).astype(np.float32)
        if call.number("return_perf_metrics", 0) and last:
            arrays["first_scheduled_time_ns"] = np.array([[call.scheduled_ns]], np.int64)
            arrays["kv_cache_alloc_new_blocks"] = np.array([[1]], np.int32)
            arrays["kv_cache_reused_blocks"] = np.array([[len(call.prompt) // 32]], np.int32)
        if reply.rows > 1:
            arrays["batch_index"] = np.array([[index]], np.int32)
        return [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in reply.wanted]


class Reply:
    """The way back of one request, shared by its rows."""

    def __init__(self, sender: Any, wanted: frozenset[str], rows: int) -> None:
        self.wanted, self.rows = wanted, rows
        self._sender, self._open, self._lock = sender, rows, threading.Lock()

    def send(self, tensors: list[Any]) -> None:
        with self._lock:
            self._sender.send(pb_utils.InferenceResponse(tensors))

    def is_cancelled(self) -> bool:
        """Whether the client has left; for a part that has not ended."""
        with self._lock:
            return bool(self._sender.is_cancelled())

    def end(self, tensors: list[Any]) -> None:
        with self._lock:
            self._open -= 1
            self._sender.send(pb_utils.InferenceResponse(tensors), flags=0 if self._open else FINAL)


def log_probs(tokens: list[int]) -> npt.NDArray[np.float32]:
    """A log probability by the token alone, so that those of an answer can be told from its tokens."""
    return -(np.array(tokens, np.float32) % 7) / 8


def _refuse(sender: Any, error: Exception) -> None:
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)
