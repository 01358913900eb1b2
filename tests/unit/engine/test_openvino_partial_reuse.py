"""A conversation on the real executor that goes on where the turn before it ended, in the middle of a block."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.engine.engine import Engine
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import Sequence
from python_backend.scheduling.step_batch import StepBatch
from tests import tiny_llama

TURNS = 60


class CountingExecutor(OpenVinoExecutor):
    computed = 0
    """Tokens so far."""

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        self.computed += batch.input_ids.size
        return super().execute(batch)


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.engine(tmp_path_factory.mktemp("tiny"), quantize_lm_head=True)


@pytest.fixture(scope="module")
def executor(engine_dir: Path) -> CountingExecutor:
    return CountingExecutor(engine_dir, max_kv_cache_tokens=1024, mode=ExecutionMode.EXACT)


def converse(executor: CountingExecutor, partial: bool) -> tuple[list[list[int]], int, int]:
    """The answers by turn; how many tokens were computed, and how many would have been if none had been computed twice.

    In every fourth turn the conversation goes on before the end of the answer, as after rejected draft tokens.
    """
    config = SchedulerConfig(max_batch_size=4, max_num_tokens=64, max_seq_len=512, enable_partial_reuse=partial)
    engine = Engine(executor, config, lambda _: None)
    random = Random(1)
    before = executor.computed
    text = [random.randrange(3, 250) for _ in range(20)]
    answers = []
    needed: set[tuple[int, ...]] = set()
    for turn in range(TURNS):
        sequence = Sequence(id=str(turn), prompt=np.array(text), max_new_tokens=random.randint(1, 4))
        engine.submit(sequence)
        while engine.step():
            pass
        answers.append(sequence.output)
        known = [*text, *sequence.output]
        needed.update(tuple(known[:end]) for end in range(1, len(known)))
        kept = sequence.output[:-2] if turn % 4 == 3 else sequence.output
        text += [*kept, *(random.randrange(3, 250) for _ in range(random.randint(1, 3)))]
    engine.check_integrity()
    return answers, executor.computed - before, len(needed)


def test_answers_are_the_same_and_hardly_a_token_is_computed_twice(executor: CountingExecutor) -> None:
    answers, computed, needed = converse(executor, True)
    same_answers, more_computed, _ = converse(executor, False)
    assert answers == same_answers
    # A block that was full before its last token was rejected is computed again.
    assert needed <= computed <= needed + 2 * executor.tokens_per_block
    assert more_computed > 4 * computed
