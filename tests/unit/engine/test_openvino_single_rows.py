"""In exact mode a sequence's logits are the same to the last bit, alone or among others, on any copy of the graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.engine.sampling import SamplingParameters, SamplingState
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import Sequence
from tests import tiny_llama

HOT = SamplingParameters(temperature=2.0, top_p=1.0, seed=7, return_generation_logits=True)
LENGTH = 30


@pytest.fixture(scope="module")
def executors(tmp_path_factory: pytest.TempPathFactory) -> list[OpenVinoExecutor]:
    """With one graph, two and three."""
    engine_dir = tiny_llama.engine(tmp_path_factory.mktemp("single_rows"))
    return [
        OpenVinoExecutor(engine_dir, max_kv_cache_tokens=2048, mode=ExecutionMode.EXACT, num_graphs=graphs)
        for graphs in (1, 2, 3)
    ]


def sequence(name: str, prompt: list[int]) -> Sequence:
    return Sequence(id=name, prompt=np.array(prompt), max_new_tokens=LENGTH, sampling=SamplingState(HOT))


def logits_of_first(
    executor: OpenVinoExecutor, prompt: list[int], others: list[list[int]]
) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Tokens and logits of the first sequence; the others come one by one, every third step."""
    first, found = sequence("first", prompt), []

    def listen(report: StepReport) -> None:
        if first in report.details:
            found.append(np.array(report.details[first].generation_logits))

    config = SchedulerConfig(max_batch_size=8, max_num_tokens=512, max_seq_len=1024, enable_kv_cache_reuse=False)
    engine = Engine(executor, config, listen)
    engine.submit(first)
    steps, waiting = 0, [sequence(f"other {index}", other) for index, other in enumerate(others)]
    while engine.step():
        steps += 1
        if waiting and steps % 3 == 0:
            engine.submit(waiting.pop())
    assert not waiting
    return first.output, np.concatenate(found)


@pytest.mark.parametrize("prompt_tokens", [1, 2, 40])
def test_logits_alone_are_those_among_others(executors: list[OpenVinoExecutor], prompt_tokens: int) -> None:
    random = np.random.default_rng(prompt_tokens)
    prompt = random.integers(3, 250, prompt_tokens).tolist()
    others = [random.integers(3, 250, length).tolist() for length in (1, 5, 33, 70)]
    alone = logits_of_first(executors[0], prompt, [])
    for executor in executors:
        among = logits_of_first(executor, prompt, others)
        assert alone[0] == among[0]
        np.testing.assert_array_equal(alone[1], among[1])
