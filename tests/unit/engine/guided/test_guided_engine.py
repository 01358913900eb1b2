"""Guides through the loop, on a real model: what is guided parses, and what is not is as it would be alone."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.guided import Guide, GuideCompiler, GuideType
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.engine.sampling import SamplingParameters, SamplingState
from python_backend.scheduling.scheduler_config import CapacityPolicy, SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from tests import tiny_llama
from tests.guided_output import END_ID, TOKENIZER_JSON, text_of

PROMPT = list(range(20, 60))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
}
GUIDES = {
    "schema": Guide(GuideType.JSON_SCHEMA, json.dumps(SCHEMA)),
    "date": Guide(GuideType.REGEX, r"\d{4}-[01]\d"),
    "sum": Guide(GuideType.EBNF_GRAMMAR, 'root ::= "(" root "+" [0-9] ")" | [0-9]{1,2}'),
}
TOO_MUCH = Guide(GuideType.REGEX, "([ab]{0,50}a[ab]{0,50}){50}")
Said = dict[str, Any]


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.engine(tmp_path_factory.mktemp("tiny"), quantize_lm_head=True)


@pytest.fixture(scope="module")
def compiler() -> GuideCompiler:
    return GuideCompiler(TOKENIZER_JSON, tiny_llama.VOCAB_SIZE, END_ID)


class Run:
    """Sequences that share an engine."""

    def __init__(self, engine_dir: Path, compiler: GuideCompiler, num_tokens: int = 2048, **config: Any) -> None:
        self._compiler = compiler
        executor = OpenVinoExecutor(engine_dir, max_kv_cache_tokens=num_tokens, mode=ExecutionMode.EXACT)
        limits: Said = {"max_batch_size": 8, "max_num_tokens": 64, "max_seq_len": 256, **config}
        self.engine = Engine(executor, SchedulerConfig(**limits), self._listen)
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.finished: dict[str, FinishReason] = {}
        self.pauses = 0

    def submit(self, name: str, guide: Guide | None, draft: list[int] | None = None, **said: Any) -> None:
        matcher = self._compiler.compile(guide).start() if guide else None
        state = SamplingState(SamplingParameters(**said), matcher) if said or matcher else None
        self.engine.submit(
            Sequence(
                id=name,
                prompt=np.array(PROMPT),
                max_new_tokens=150,
                end_id=matcher.end_id if matcher else None,
                sampling=state,
                draft=draft or [],
            )
        )

    def to_the_end(self) -> dict[str, list[int]]:
        while self.engine.step():
            self.engine.check_integrity()
            self.pauses += self.engine.statistics.requests.paused
        return self.tokens

    def text(self, name: str) -> str:
        assert self.finished[name] is FinishReason.STOP
        assert self.tokens[name][-1] == END_ID
        return text_of(self.tokens[name][:-1])

    def _listen(self, report: StepReport) -> None:
        for sequence, new, finish in report.progress:
            self.tokens[sequence.id] += new
            if finish:
                self.finished[sequence.id] = finish


@pytest.mark.parametrize("said", [{}, {"top_p": 1.0, "temperature": 2.0, "seed": 7}, {"top_k": 40, "seed": 1}])
def test_guided_and_others_share_a_batch(engine_dir: Path, compiler: GuideCompiler, said: Said) -> None:
    together = Run(engine_dir, compiler)
    for name, guide in GUIDES.items():
        together.submit(name, guide, **said)
        together.submit(f"free {name}", None, **said)
    together.to_the_end()
    parsed = json.loads(together.text("schema"))
    assert list(parsed) == ["name", "age", "tags"]
    assert 0 <= parsed["age"] <= 130
    assert set(parsed["tags"]) <= {"red", "green"}
    assert re.fullmatch(r"\d{4}-[01]\d", together.text("date"))
    assert re.fullmatch(r"\(*\d{1,2}(\+\d\))*", together.text("sum"))
    alone = Run(engine_dir, compiler)
    alone.submit("free date", None, **said)
    alone.to_the_end()
    # Drawn tokens may part later on, where another batch's rounding moves one across a border.
    compared = slice(None if not said else 30)
    assert alone.tokens["free date"][compared] == together.tokens["free date"][compared]
    assert len(together.tokens["free date"]) == 150


def test_a_pause_changes_nothing(engine_dir: Path, compiler: GuideCompiler) -> None:
    said: Said = {"top_p": 1.0, "seed": 3}
    calm = Run(engine_dir, compiler)
    tight = Run(engine_dir, compiler, num_tokens=256, capacity_policy=CapacityPolicy.MAX_UTILIZATION)
    for run in (calm, tight):
        for i in range(5):
            run.submit(str(i), GUIDES["schema"], **said)
        run.submit("free", None, **said)
    assert tight.to_the_end() == calm.to_the_end()
    assert tight.pauses
    assert not calm.pauses


def test_draft_tokens_change_nothing(engine_dir: Path, compiler: GuideCompiler) -> None:
    said: Said = {"top_p": 1.0, "seed": 5}
    plain = Run(engine_dir, compiler)
    plain.submit("a", GUIDES["schema"], **said)
    answer = plain.to_the_end()["a"]
    for draft in (answer[:10], [*answer[:5], 30, 31], [30], [*answer, 30]):
        run = Run(engine_dir, compiler)
        run.submit("a", GUIDES["schema"], draft=draft, **said)
        assert run.to_the_end()["a"] == answer


@pytest.mark.parametrize(
    "said",
    [
        {"min_tokens": 100},
        {"bad_words": tuple((token,) for token in range(3, tiny_llama.VOCAB_SIZE))},
        {"embedding_bias": np.where(np.arange(tiny_llama.VOCAB_SIZE) < 5, 0, -np.inf).astype(np.float32)},
        {"repetition_penalty": 5.0, "presence_penalty": 9.0, "frequency_penalty": 9.0},
    ],
)
def test_nothing_else_that_is_asked_for_breaks_the_guide(engine_dir: Path, compiler: GuideCompiler, said: Said) -> None:
    run = Run(engine_dir, compiler)
    run.submit("a", GUIDES["date"], **said)
    run.to_the_end()
    assert re.fullmatch(r"\d{4}-[01]\d", run.text("a"))


def test_a_guide_that_fails_ends_its_own_sequence_only(engine_dir: Path, compiler: GuideCompiler) -> None:
    run = Run(engine_dir, compiler)
    run.submit("good", GUIDES["schema"], top_p=1.0, seed=1)
    for seed in range(3):
        run.submit(f"bad {seed}", TOO_MUCH, top_p=1.0, temperature=5.0, seed=seed)
    run.to_the_end()
    assert json.loads(run.text("good"))
    assert FinishReason.ERROR in run.finished.values()
    assert run.engine.statistics.requests.active == 0
