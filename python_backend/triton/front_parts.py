"""What answers a request of the front door: one part for each row, or for each sequence where text is made here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from secrets import randbits
from typing import Any

import numpy as np

from python_backend.contract import TENSORRT_LLM_BLS
from python_backend.engine.drafter import DraftStatistics
from python_backend.engine.sampling import SamplingParameters
from python_backend.errors import InvalidRequest, Unsupported
from python_backend.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, Recorder
from python_backend.scheduling.sequence import Sequence
from python_backend.speculative.ngram import NgramProposer
from python_backend.speculative.round_length import RoundLength
from python_backend.speculative.rounds import RoundDrafter, Rounds
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.stop_criteria import StopCriteria, StoppingDetokenizer
from python_backend.text.tokenizer import Tokenizer
from python_backend.triton.answer import Answer
from python_backend.triton.front_reply import FrontReply
from python_backend.triton.front_request import (
    AnswerForm,
    Arrays,
    Speculation,
    engine_inputs,
    preprocessing_inputs,
    preprocessing_outputs,
)
from python_backend.triton.interruption import Interruption
from python_backend.triton.other_model import OtherModel, Server
from python_backend.triton.passed_on import PassedOn
from python_backend.triton.request_row import Row
from python_backend.triton.round_answer import NEW_BLOCKS, REUSED_BLOCKS, SCHEDULED, RoundAnswer
from python_backend.triton.round_models import DraftEngine, EngineCalls, Lookup
from python_backend.triton.settings import BlsSettings, Drafting
from python_backend.triton.tensors import check_required

Part = PassedOn | RoundAnswer

#: Outputs of an engine that an answer made here is built from, and the flag that asks for each.
_FROM_ENGINE = {
    "output_log_probs": "return_log_probs",
    "generation_logits": "return_generation_logits",
    "context_logits": "return_context_logits",
    **dict.fromkeys((SCHEDULED, REUSED_BLOCKS, NEW_BLOCKS), "return_perf_metrics"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request on its way through the threads."""

    front: Arrays
    outputs: tuple[str, ...]
    reply: FrontReply
    arrival_s: float
    timeout_s: float | None

    @property
    def deadline_s(self) -> float | None:
        return None if self.timeout_s is None else self.arrival_s + self.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One row of a job."""

    job: Job
    interruption: Interruption
    batch_index: int | None
    inputs: Arrays  # the engine's
    form: AnswerForm
    drafts: Speculation


class FrontParts:
    """Knows the models behind the front door and makes parts that call them."""

    def __init__(self, settings: BlsSettings, *, decoupled: bool) -> None:
        """Raises SetupError when the tokenizer cannot be loaded. ``decoupled``: this model is, and the engine too."""
        self._settings = settings
        self._decoupled = decoupled
        self._is_ours = settings.target_backend == "python"
        self._tokenizer = Tokenizer.load(settings.tokenizer_dir)
        server = Server()
        self._preprocessing = OtherModel("preprocessing", server, streams=False)
        self._engine = OtherModel(settings.tensorrt_llm_model_name, server, streams=decoupled)
        self._draft_engine = OtherModel(settings.tensorrt_llm_draft_model_name, server, streams=False)
        self._lengths = RoundLength()
        self.recorder = Recorder()

    @property
    def statistics(self) -> DraftStatistics:
        """Of the rounds."""
        return self._lengths.statistics

    def of(self, job: Job, interruption: Interruption) -> Iterator[Part]:
        """Raises ModelError when `preprocessing` refuses, InvalidRequest and Unsupported for what it does not see."""
        settings = self._settings
        check_required(job.front, TENSORRT_LLM_BLS)
        call = self._preprocessing.call(preprocessing_inputs(job.front), preprocessing_outputs(job.front))
        (tokens,) = call.responses()
        rows = engine_inputs(job.front, tokens, added=self._is_ours)
        for index, inputs in enumerate(rows):
            asked = _Asked(
                job=job,
                interruption=interruption,
                batch_index=index if len(rows) > 1 else None,
                inputs=inputs,
                form=AnswerForm.of(
                    inputs,
                    exclude_input_in_output=settings.exclude_input_in_output,
                    vocab_size=self._tokenizer.vocab_size,
                ),
                drafts=Speculation.of(job.front, index, default=settings.num_draft_tokens, most=settings.max_draft_len),
            )
            if not self._decoupled:
                _refuse_several(len(rows), asked.form)
            if self._is_ours and settings.drafter.is_in_engine:
                yield self._passed_on(asked)
            else:
                yield from (self._in_rounds(asked, index) for index in range(asked.form.num_return_sequences))

    def _passed_on(self, asked: _Asked) -> PassedOn:
        _refuse_draft_logits(asked.drafts, self._settings.drafter)
        own: Arrays = {
            "exclude_input_in_output": np.array([[asked.form.exclude_input_in_output]]),
            "num_draft_tokens": np.array([[asked.drafts.num_draft_tokens]], np.int32),
        }
        return PassedOn(
            engine=self._engine,
            inputs=asked.inputs | own,
            outputs=asked.job.outputs,
            request_id=asked.job.reply.request_id,
            sequences=asked.form.num_return_sequences,
            batch_index=asked.batch_index,
            interruption=asked.interruption,
            deadline_s=asked.job.deadline_s,
        )

    def _in_rounds(self, asked: _Asked, index: int) -> RoundAnswer:
        job, form = asked.job, asked.form
        sequence = Sequence(
            id=job.reply.request_id,
            prompt=form.prompt,
            max_new_tokens=form.max_tokens,
            end_id=form.end_id,
            timeout_s=job.timeout_s,
            arrival_s=job.arrival_s,
        )
        calls = self._calls(asked, index)
        rounds = Rounds(
            sequence=sequence,
            target=calls,
            drafter=self._drafter(asked, calls),
            length=self._lengths,
            most=asked.drafts.num_draft_tokens,
            is_greedy=_is_greedy(asked.inputs),
        )
        several = form.num_return_sequences > 1
        answer = Answer(
            request=form,
            sequence=sequence,
            outputs=frozenset(job.outputs),
            detokenizer=self._detokenizer(form),
            batch_index=asked.batch_index,
            sequence_index=index if several else None,
        )
        return RoundAnswer(
            rounds=rounds,
            answer=answer,
            interruption=asked.interruption,
            accumulates=self._settings.accumulate_tokens,
            count_drafts=self._count_drafts,
        )

    def _count_drafts(self, sequence: Sequence) -> None:
        if sequence.draft_tokens:
            self.recorder.count(DRAFT_TOKENS, self._settings.drafter.value, sequence.draft_tokens)
            self.recorder.count(ACCEPTED_DRAFT_TOKENS, self._settings.drafter.value, sequence.accepted_draft_tokens)

    def _calls(self, asked: _Asked, index: int) -> EngineCalls:
        row = Row(asked.inputs, 0)
        seed = row.integer("seed") if "seed" in asked.inputs else row.integer("random_seed")
        return EngineCalls(
            model=self._engine,
            inputs=asked.inputs,
            outputs=tuple(name for name, flag in _FROM_ENGINE.items() if row.flag(flag)),
            request_id=asked.job.reply.request_id,
            seed=randbits(64) if seed is None else (seed + index) % 2**64,
            draws_by_position=self._is_ours,
            interruption=asked.interruption,
            shows_end_id=self._is_ours,
            streams=self._decoupled,
        )

    def _drafter(self, asked: _Asked, calls: EngineCalls) -> RoundDrafter | None:
        """None where rounds are of no use: a guide's state and the logits of the prompt do not outlive a call."""
        drafter, with_logits = self._settings.drafter, asked.drafts.use_draft_logits
        _refuse_draft_logits(asked.drafts, drafter)
        whole = Row(asked.inputs, 0)
        if whole.text("guided_decoding_guide_type") or whole.flag("return_context_logits"):
            return None
        match drafter:
            case Drafting.NGRAM:
                return Lookup(NgramProposer())
            case Drafting.DRAFT_MODEL:
                return DraftEngine(
                    self._draft_engine, calls, with_logits=with_logits, is_greedy=_is_greedy(asked.inputs)
                )
            case _:
                return None

    def _detokenizer(self, form: AnswerForm) -> Detokenizer | StoppingDetokenizer:
        skip = self._settings.skip_special_tokens
        criteria = StopCriteria.of(self._tokenizer, form.stop_words, skip)
        if criteria:
            return StoppingDetokenizer(self._tokenizer, criteria, skip)
        return Detokenizer(self._tokenizer, skip)


def _refuse_draft_logits(drafts: Speculation, drafter: Drafting) -> None:
    """Raises InvalidRequest where no draft model is called whose logits could be used."""
    if drafts.use_draft_logits and drafter is not Drafting.DRAFT_MODEL:
        raise InvalidRequest(
            f'use_draft_logits needs a draft model; drafter is "{drafter.value}". Leave it out, or set drafter '
            "in tensorrt_llm_bls/config.pbtxt."
        )


def _refuse_several(rows: int, form: AnswerForm) -> None:
    """Raises Unsupported when what is asked for takes more than the one response of a model that is not decoupled."""
    asked = {
        f"the request has {rows} prompts": rows > 1,
        f"num_return_sequences is {form.num_return_sequences}": form.num_return_sequences > 1,
        "stream is true": form.streaming,
    }
    for what in (what for what, is_so in asked.items() if is_so):
        raise Unsupported(
            f"{what}; a model that is not decoupled answers with one response for one prompt. "
            "Leave it out, or serve the profile whose model_transaction_policy is decoupled."
        )


def _is_greedy(inputs: Arrays) -> bool:
    row = Row(inputs, 0)
    said: dict[str, Any] = {
        "temperature": row.number("temperature"),
        "top_k": row.integer("runtime_top_k"),
        "top_p": row.number("runtime_top_p"),
    }
    if said["top_p"] is not None and said["top_p"] <= 0:
        said["top_p"] = None
    return SamplingParameters(**{name: value for name, value in said.items() if value is not None}).is_greedy
