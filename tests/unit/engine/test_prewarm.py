from __future__ import annotations

import logging
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.prewarm import prewarm
from python_backend.engine.prewarm_file import PrewarmPrompt, read_prewarm_file
from python_backend.errors import InvalidRequest, SetupError
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from tests.unit.engine.block_reading_executor import BlockReadingExecutor, next_token

SIZE = 4


class Reports(list[StepReport]):
    def __call__(self, report: StepReport) -> None:
        self.append(report)


def engine(executor: BlockReadingExecutor | None = None, *, reuse: bool = True, step_tokens: int = 16) -> Engine:
    config = SchedulerConfig(
        max_batch_size=8, max_num_tokens=step_tokens, max_seq_len=64, enable_kv_cache_reuse=reuse, max_queue_size=8
    )
    return Engine(executor or BlockReadingExecutor(32, SIZE), config, Reports())


def prompt(*tokens: int) -> npt.NDArray[np.int64]:
    return np.array(tokens, dtype=np.int64)


COMMON = list(range(10))  # two full blocks and two tokens


def serve(one: Engine, tokens: list[int], salt: bytes = b"", max_new_tokens: int = 3) -> Sequence:
    sequence = Sequence(id="r", prompt=prompt(*tokens), max_new_tokens=max_new_tokens, cache_salt=salt)
    one.submit(sequence)
    while one.step():
        pass
    return sequence


def test_requests_that_begin_alike_start_behind_the_prompt_and_at_least_behind_its_full_blocks() -> None:
    one = engine()
    report = prewarm(one, [prompt(*COMMON)])
    assert (report.prompts, report.skipped, report.tokens, report.blocks) == (1, 0, 8, 2)
    served = serve(one, [*COMMON, 40, 41])
    assert (served.reused_blocks, served.reused_tokens) == (3, 10)
    expected = [*COMMON, 40, 41]
    for _ in range(3):
        expected.append(next_token(expected))
    assert served.output == expected[-3:]
    assert serve(one, [*COMMON, 50, 51]).reused_tokens == 8  # the block of the last two is full now, and another's


def test_prompts_share_what_they_have_in_common() -> None:
    one = engine()
    report = prewarm(one, [prompt(*COMMON, 20, 21), prompt(*COMMON, 30, 31)])
    assert report.blocks == 2 + 1 + 1
    assert one.statistics.blocks.allocated_total == 3 + 1


def test_what_is_pinned_survives_any_pressure_and_all_cancellations() -> None:
    one = engine(BlockReadingExecutor(16, SIZE))
    prewarm(one, [prompt(*COMMON)])
    for token in range(20, 40):
        serve(one, [token] * 30)
    running = [Sequence(id=str(n), prompt=prompt(*COMMON, n), max_new_tokens=9) for n in range(4)]
    for sequence in running:
        one.submit(sequence)
    one.step()
    for sequence in running:
        assert one.cancel(sequence)
    one.check_integrity()
    blocks = one.statistics.blocks
    assert (blocks.pinned, blocks.used, blocks.evicted_total > 0) == (2, 2, True)
    assert serve(one, [*COMMON, 40]).reused_tokens >= 8


def test_another_salt_shares_nothing() -> None:
    one = engine()
    prewarm(one, [prompt(*COMMON)], cache_salt=b"tenant")
    assert serve(one, [*COMMON, 40]).reused_tokens == 0
    assert serve(one, [*COMMON, 40], salt=b"tenant").reused_tokens == 10


def test_a_prompt_of_less_than_a_block_pins_nothing() -> None:
    one = engine()
    assert prewarm(one, [prompt(1, 2, 3)]).blocks == 0
    assert prewarm(one, []).prompts == 0


def test_more_than_the_share_of_the_cache_is_refused_before_anything_is_computed() -> None:
    one = engine(BlockReadingExecutor(8, SIZE))
    with pytest.raises(
        SetupError, match=r"2 prewarm prompts fill 5 KV cache blocks of 4 tokens; 4 of 8 may be pinned \(50%\)"
    ):
        prewarm(one, [prompt(*COMMON, 20, 21), prompt(*range(40, 48))])
    assert one.statistics.iterations == 0
    assert prewarm(one, [prompt(*COMMON, 20, 21), prompt(*COMMON, 30, 31)]).blocks == 4


def test_a_request_that_no_longer_fits_beside_the_pinned_blocks_is_refused_and_one_that_shares_them_is_not() -> None:
    one = engine(BlockReadingExecutor(8, SIZE))
    prewarm(one, [prompt(*COMMON)])
    with pytest.raises(
        InvalidRequest, match=r"need 7 KV cache blocks; this engine has 8 of 4 tokens, 2 of them pinned"
    ):
        serve(one, [20] * 20, max_new_tokens=9)
    assert serve(one, [*COMMON, *range(20, 30)], max_new_tokens=9).finish_reason is FinishReason.LENGTH
    with pytest.raises(InvalidRequest, match="2 of them pinned"):
        one.submit(Sequence(id="r", prompt=prompt(*COMMON, *range(20, 30)), max_new_tokens=9, reads_cache=False))


def test_a_prompt_that_no_request_could_have_is_refused_by_name() -> None:
    with pytest.raises(SetupError, match=r"prewarm-2: 64 prompt \+ 1 new tokens make 65; max_seq_len is 64"):
        prewarm(engine(), [prompt(1), prompt(*[1] * 64)])


def test_an_engine_that_reuses_nothing_has_nothing_to_prewarm() -> None:
    with pytest.raises(SetupError, match="1 prompts are to be prewarmed, but enable_kv_cache_reuse is false"):
        prewarm(engine(reuse=False), [prompt(*COMMON)])


def test_a_prompt_that_cannot_be_computed_keeps_the_engine_from_starting() -> None:
    executor = BlockReadingExecutor()
    executor.fail_next = True
    with pytest.raises(SetupError, match="prewarm-1: the engine could not compute it"):
        prewarm(engine(executor), [prompt(*COMMON)])


def test_when_time_is_up_the_rest_is_skipped_and_the_engine_serves(caplog: pytest.LogCaptureFixture) -> None:
    seconds = count()
    one = engine(BlockReadingExecutor(128, SIZE), step_tokens=8)
    with caplog.at_level(logging.INFO):
        report = prewarm(
            one,
            [prompt(*COMMON), prompt(*[20] * 60), prompt(*[30] * 60)],
            time_limit_s=8.0,
            clock=lambda: float(next(seconds)),
        )
    assert (report.prompts, report.skipped, report.blocks) == (1, 2, 2)
    assert "prewarm: prompt=1 of 3 tokens=10 pinned_blocks=2" in caplog.text
    assert "prewarm stopped: time_limit_s=8 prompts=1 of 3" in caplog.text
    one.check_integrity()
    assert one.statistics.blocks.used == 2
    assert serve(one, [*COMMON, 40]).reused_tokens == 10


def test_nothing_can_be_pinned_once_the_engine_serves() -> None:
    one = engine()
    one.start()
    with pytest.raises(AssertionError, match="before the engine serves"):
        one.pin(Sequence(id="s", prompt=prompt(1), max_new_tokens=1))
    one.close()


def test_a_deadline_is_reported_and_the_loop_goes_on() -> None:
    now_s = [0.0]
    reports = Reports()
    one = Engine(BlockReadingExecutor(), engine().config, reports, lambda: now_s[0])
    hurried = Sequence(id="hurried", prompt=prompt(1, 2), max_new_tokens=20, timeout_s=0.5)
    patient = Sequence(id="patient", prompt=prompt(2, 1), max_new_tokens=3)
    one.submit(hurried)
    assert one.step()
    now_s[0] = 0.5
    assert not one.step()
    assert [(p.sequence, p.finish_reason) for p in reports[-1].progress] == [(hurried, FinishReason.TIMED_OUT)]
    assert reports[-1].at_s == 0.5
    one.submit(patient)
    while one.step():
        pass
    assert patient.finish_reason is FinishReason.LENGTH
    assert one.statistics.blocks.used == 0


class TestFile:
    def read(self, tmp_path: Path, content: str) -> list[PrewarmPrompt]:
        path = tmp_path / "prewarm.yaml"
        path.write_text(content, encoding="utf-8")
        return read_prewarm_file(path)

    def test_texts_and_conversations(self, tmp_path: Path) -> None:
        read = self.read(
            tmp_path,
            "- text: |-\n    You are a poet.\n\n    Answer in verse.\n"
            "- messages:\n    - {role: system, content: Grüße}\n"
            "- messages: {messages: [{role: system, content: x}], tools: []}\n",
        )
        assert read[0] == PrewarmPrompt(text="You are a poet.\n\nAnswer in verse.")
        assert read[1] == PrewarmPrompt(messages=[{"role": "system", "content": "Grüße"}])
        assert read[2].messages == {"messages": [{"role": "system", "content": "x"}], "tools": []}

    def test_json_is_read_and_an_empty_file_holds_no_prompts(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, '[{"text": "a\\nb"}]') == [PrewarmPrompt(text="a\nb")]
        assert self.read(tmp_path, "# nothing yet\n") == []

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("- text: a\n- txet: b", r'entry 2, txet: .*; did you mean "text"\?'),
            ("- text: a\n  messages: [{role: user}]", "entry 1: give either text or messages"),
            ("- {}", "entry 1: give either text or messages"),
            ("- text: ''", "entry 1, text: String should have at least 1 character"),
            ("- text: 5", "entry 1, text: Input should be a valid string"),
            ("text: a", "content: Input should be a valid list"),
            ("- text: [", "is no valid YAML"),
        ],
    )
    def test_a_fault_is_named_with_its_place(self, tmp_path: Path, content: str, message: str) -> None:
        with pytest.raises(SetupError, match=rf"prewarm file .*prewarm.yaml.*{message}"):
            self.read(tmp_path, content)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"nowhere\.yaml cannot be read: No such file"):
            read_prewarm_file(tmp_path / "nowhere.yaml")
