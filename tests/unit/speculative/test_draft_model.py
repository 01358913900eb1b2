"""The draft model in the engine's process, next to one that computes everything again for every guess."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.executor import Executor
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.errors import SetupError
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import Sequence
from python_backend.scheduling.step_batch import StepBatch
from python_backend.speculative.draft_model import DraftModelProposer
from python_backend.speculative.step_cost import StepCost
from tests import tiny_llama
from tests.unit.engine.block_reading_executor import VOCABULARY, BlockReadingExecutor

PLENTY = 4096
COST = StepCost.through({1: 1.0, 9: 9.0}, PLENTY, per_drafting_sequence_s=0.5)


def next_token(tokens: list[int]) -> int:
    """It depends on every token before, and does not settle on one."""
    return reduce(lambda state, token: (state * 31 + token + 1) % 10007, tokens, 0) % VOCABULARY


class CheckingExecutor(BlockReadingExecutor):
    """Refuses batches that contradict themselves or read what nobody wrote, and counts what it computes."""

    def __init__(self, num_blocks: int = 256, tokens_per_block: int = 4) -> None:
        super().__init__(num_blocks, tokens_per_block)
        self.steps: list[list[int]] = []  # tokens of each sequence of each step

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        lengths = np.diff(batch.subsequence_begins)
        assert lengths.min() > 0
        positions = [np.arange(past, past + n) for past, n in zip(batch.past_lens, lengths, strict=True)]
        assert batch.position_ids.tolist() == np.concatenate(positions).tolist()
        assert batch.max_context_len == (batch.past_lens + lengths).max()
        written = []
        for s, (past, length) in enumerate(zip(batch.past_lens, lengths, strict=True)):
            table = batch.block_indices[batch.block_indices_begins[s] : batch.block_indices_begins[s + 1]]
            assert len(set(table)) == len(table)
            assert (self.cells[table].reshape(-1)[:past] >= 0).all()
            positions_here = range(past, past + length)
            written += [(table[p // self.tokens_per_block], p % self.tokens_per_block) for p in positions_here]
        assert len(set(written)) == len(written)
        self.steps.append(lengths.tolist())
        super().execute(batch)
        return np.array([next_token(context) for context in self._contexts], np.int32)


def proposer(executor: Executor, *, max_num_tokens: int = PLENTY, max_seq_len: int = PLENTY) -> DraftModelProposer:
    return DraftModelProposer(executor, COST, max_num_tokens=max_num_tokens, max_seq_len=max_seq_len)


def target(prompt: list[int], *, output: tuple[int, ...] = (1,), end_id: int | None = None) -> Sequence:
    sequence = Sequence(id="", prompt=np.array(prompt), max_new_tokens=1000, end_id=end_id)
    sequence.output += output
    return sequence


def known_tokens(sequence: Sequence) -> list[int]:
    return [*sequence.prompt.tolist(), *sequence.output]


def oracle(sequence: Sequence, guesses: int) -> list[int]:
    tokens, guessed = known_tokens(sequence), list[int]()
    while len(guessed) < guesses and (not guessed or guessed[-1] != sequence.end_id):
        guessed.append(next_token(tokens + guessed))
    return guessed


def check_nothing_is_held(draft: DraftModelProposer) -> None:
    draft.cache.check_integrity()
    assert draft.cache.statistics.free == draft.cache.statistics.max


def test_guesses_of_several_lengths_are_computed_together() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor)
    targets = [target([3, 1, 4]), target([1, 5]), target([9])]
    assert draft.propose(list(zip(targets, (4, 1, 2), strict=True))) == [
        oracle(sequence, n) for sequence, n in zip(targets, (4, 1, 2), strict=True)
    ]
    assert executor.steps == [[2, 3, 4], [1, 1], [1], [1]]


def test_a_prompt_of_one_token_is_enough() -> None:
    sequence = target([4], output=())
    assert proposer(CheckingExecutor()).propose([(sequence, 3)]) == [oracle(sequence, 3)]


def test_guesses_that_did_not_come_true_are_forgotten_however_far_the_target_went_on() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor)
    sequence = target([6, 2, 8])
    [guesses] = draft.propose([(sequence, 4)])
    sequence.output += [guesses[0], *((token + 1) % VOCABULARY for token in guesses)]
    executor.steps.clear()
    assert draft.propose([(sequence, 4)]) == [oracle(sequence, 4)]
    assert executor.steps == [[4], [1], [1], [1]]


@pytest.mark.parametrize("accepted", range(4))
def test_only_what_is_new_is_computed_after_a_verification(accepted: int) -> None:
    executor = CheckingExecutor()
    draft = proposer(executor)
    sequence = target(list(range(10)))
    [guesses] = draft.propose([(sequence, 3)])
    sequence.output += [*guesses[:accepted], (oracle(sequence, 4)[accepted] + 1) % VOCABULARY]
    executor.steps.clear()
    assert draft.propose([(sequence, 3)]) == [oracle(sequence, 3)]
    assert executor.steps == [[2 if accepted == 3 else 1], [1], [1]]  # the KV of the last guess is not there yet


def test_guesses_are_the_same_when_asked_for_again() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor)
    sequence = target([2, 7, 1])  # with its one token of output it fills a block
    assert draft.propose([(sequence, 2)]) == draft.propose([(sequence, 2)]) == [oracle(sequence, 2)]


def test_guesses_end_with_the_end_id() -> None:
    executor = CheckingExecutor()
    ending, other = target([8, 3]), target([1, 2, 3, 4])
    ending.end_id = oracle(ending, 3)[2]
    assert proposer(executor).propose([(ending, 6), (other, 6)]) == [oracle(ending, 3), oracle(other, 6)]
    assert [len(step) for step in executor.steps] == [2, 2, 2, 1, 1, 1]


def test_prompts_are_caught_up_with_in_chunks_behind_what_others_lack() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor, max_num_tokens=8)
    short, long = target([5, 6]), target(list(range(20)))
    assert draft.propose([(long, 2), (short, 2)]) == [[], oracle(short, 2)]
    assert draft.propose([(long, 2), (short, 2)]) == [[], oracle(short, 2)]
    assert draft.propose([(long, 2), (short, 2)]) == [[], oracle(short, 2)]
    assert draft.propose([(long, 2), (short, 2)]) == [oracle(long, 2), oracle(short, 2)]
    assert [sum(step) for step in executor.steps[::2]] == [8, 8, 8, 3]


def test_prompts_that_begin_alike_share_blocks() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor)
    system = list(range(40, 0, -1))
    first, second = target([*system, 1]), target([*system, 2])
    [guesses] = draft.propose([(first, 2)])
    first.output += guesses
    draft.propose([(first, 2)])
    executor.steps.clear()
    assert draft.propose([(second, 2)]) == [oracle(second, 2)]
    assert executor.steps == [[2], [1]]


def test_sequences_of_other_salts_share_nothing() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor)
    first, second = target([7] * 20), target([7] * 20)
    second.cache_salt = b"another tenant"
    for _ in range(2):
        draft.propose([(first, 1)])
    executor.steps.clear()
    assert draft.propose([(second, 1)]) == [oracle(second, 1)]
    assert executor.steps == [[21]]


def test_the_least_recently_used_lose_their_blocks() -> None:
    executor = CheckingExecutor(num_blocks=8)
    draft = proposer(executor)
    a, b, c = target([1] * 14), target([2] * 14), target([3] * 14)  # 4 blocks each
    draft.propose([(a, 2), (b, 2)])
    draft.propose([(a, 2)])
    assert draft.propose([(c, 2)]) == [oracle(c, 2)]  # at the cost of b
    executor.steps.clear()
    assert draft.propose([(a, 2)]) == [oracle(a, 2)]
    assert executor.steps == [[1], [1]]
    assert draft.propose([(b, 2)]) == [oracle(b, 2)]


def test_the_first_that_are_wanted_keep_their_blocks_when_not_all_find_room() -> None:
    executor = CheckingExecutor(num_blocks=8)
    draft = proposer(executor)
    targets = [target([i] * 10) for i in range(3)]
    for _ in range(3):
        wanted = [(sequence, 2) for sequence in targets]
        assert draft.propose(wanted) == [oracle(targets[0], 2), oracle(targets[1], 2), []]
        for sequence in targets:
            sequence.output.append(7)
    draft.forget(targets[0])
    assert draft.propose([(sequence, 2) for sequence in targets[1:]]) == [oracle(targets[1], 2), oracle(targets[2], 2)]


def test_sequences_that_no_cache_could_hold_get_no_guess_and_cost_nobody_blocks() -> None:
    executor = CheckingExecutor(num_blocks=8)
    draft = proposer(executor)
    short, long = target([1, 2]), target([3] * 40)
    draft.propose([(short, 2)])
    assert draft.propose([(long, 2)]) == [[]]
    executor.steps.clear()
    assert draft.propose([(long, 2), (short, 2)]) == [[], oracle(short, 2)]
    assert executor.steps == [[1], [1]]


def test_no_position_lies_beyond_the_draft_models_last() -> None:
    executor = CheckingExecutor()
    draft = proposer(executor, max_seq_len=8)
    near, beyond = target([1, 2, 3, 4, 5]), target([1, 2, 3, 4, 5, 6, 7, 8])
    assert draft.propose([(near, 9), (beyond, 9)]) == [oracle(near, 3), []]


def test_a_sequence_that_has_outgrown_the_draft_model_leaves_its_blocks_to_others() -> None:
    executor = CheckingExecutor(num_blocks=8)
    draft = proposer(executor, max_seq_len=16)
    outgrown, b, c = target([1] * 14), target([2] * 12), target([3] * 12)  # 4 blocks each
    draft.propose([(outgrown, 1)])
    outgrown.output += [5, 5]
    assert draft.propose([(outgrown, 2), (b, 2), (c, 2)]) == [[], oracle(b, 2), oracle(c, 2)]


def test_one_that_finds_no_room_leaves_what_it_had_to_those_after_it() -> None:
    executor = CheckingExecutor(num_blocks=8)
    draft = proposer(executor)
    a, b, c = target([1] * 14), target([2] * 14), target([3] * 5)
    draft.propose([(a, 2), (b, 2)])
    b.output += [7]
    assert draft.propose([(a, 2), (b, 2), (c, 2)]) == [oracle(a, 2), [], oracle(c, 2)]


def test_a_failed_step_costs_guesses_and_nothing_else() -> None:
    executor = CheckingExecutor(tokens_per_block=32)
    draft = proposer(executor)
    wanted = [(target([3, 1, 4]), 3), (target([1, 5, 9]), 3)]
    draft.propose(wanted)
    executor.fail_next = True
    assert draft.propose(wanted) == [[], []]
    draft.cache.check_integrity()
    executor.cells.fill(-1)  # what a failed step leaves behind may not be read
    assert draft.propose(wanted) == [oracle(sequence, n) for sequence, n in wanted]


def test_costs_are_those_of_the_steps() -> None:
    draft = proposer(CheckingExecutor(), max_num_tokens=8)
    assert draft.cost_s(1, 1) == pytest.approx(2.0)
    assert draft.cost_s(3, 4) == pytest.approx((6 + 2 * 0.5) + 3 * (3 + 2 * 0.5))
    assert draft.cost_s(6, 1) == pytest.approx(8 + 5 * 0.5)  # no step computes more tokens than that


def test_nothing_is_left_of_a_forgotten_sequence() -> None:
    draft = proposer(CheckingExecutor())
    sequence = target([1, 2, 3])
    draft.propose([(sequence, 5)])
    assert draft.cache.statistics.used > 0
    draft.forget(sequence)
    draft.forget(sequence)  # also when it was never guessed for
    check_nothing_is_held(draft)


PROMPTS = st.tuples(
    st.sampled_from([[], [1] * 9, list(range(17)), [1] * 30]), st.lists(st.integers(0, VOCABULARY - 1), min_size=1)
).map(lambda parts: parts[0] + parts[1])


@given(data=st.data(), num_blocks=st.integers(4, 40), max_num_tokens=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_guesses_are_right_in_any_interleaving(data: st.DataObject, num_blocks: int, max_num_tokens: int) -> None:
    executor = CheckingExecutor(num_blocks)
    draft = proposer(executor, max_num_tokens=max_num_tokens)
    targets: list[Sequence] = []
    for _ in range(data.draw(st.integers(1, 12))):
        end_id = data.draw(st.none() | st.integers(0, VOCABULARY - 1))
        targets += [target(prompt, end_id=end_id) for prompt in data.draw(st.lists(PROMPTS, max_size=3))]
        chosen = [sequence for sequence in targets if data.draw(st.booleans())]
        wanted = [(sequence, data.draw(st.integers(1, 6))) for sequence in chosen]
        executor.fail_next = data.draw(st.integers(0, 9)) == 0
        executor.steps.clear()
        for (sequence, n), guesses in zip(wanted, draft.propose(wanted), strict=True):
            right = oracle(sequence, n)
            assert guesses in (right, [])
            accepted = data.draw(st.integers(0, len(guesses)))
            others = data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5))
            sequence.output += [*guesses[:accepted], *others]
        assert sum(executor.steps[0] if executor.steps else []) <= max_num_tokens
        draft.cache.check_integrity()
        for sequence in [sequence for sequence in targets if data.draw(st.integers(0, 4)) == 0]:
            targets.remove(sequence)
            draft.forget(sequence)
    executor.fail_next = False
    for sequence in targets:  # alone, each is caught up with in so many calls
        if draft.cache.statistics.max * executor.tokens_per_block >= sequence.num_tokens:
            calls = [draft.propose([(sequence, 1)]) for _ in range(-(-sequence.num_tokens // max_num_tokens))]
            assert calls[-1] == [oracle(sequence, 1)]
    for sequence in targets:
        draft.forget(sequence)
    check_nothing_is_held(draft)


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.engine(tmp_path_factory.mktemp("tiny"))


def test_a_draft_that_is_its_target_knows_the_continuation(engine_dir: Path) -> None:
    def executor() -> OpenVinoExecutor:
        return OpenVinoExecutor(engine_dir, max_kv_cache_tokens=1024, mode=ExecutionMode.EXACT)

    targets = [Sequence(id=str(i), prompt=np.arange(20, 20 + 15 * i), max_new_tokens=24) for i in range(1, 5)]
    reports: list[StepReport] = []
    engine = Engine(executor(), SchedulerConfig(max_batch_size=8, max_num_tokens=64, max_seq_len=256), reports.append)
    for sequence in targets:
        engine.submit(sequence)
    while engine.step():
        pass
    draft = proposer(executor(), max_num_tokens=64)
    followed = [target(sequence.prompt.tolist(), output=tuple(sequence.output[:1])) for sequence in targets]
    for sequence in followed:
        while not draft.propose([(sequence, 1)])[0]:
            pass
    while len(followed[0].output) < 20:
        for sequence, whole, guesses in zip(followed, targets, draft.propose([(s, 3) for s in followed]), strict=True):
            known = len(sequence.output)
            assert guesses == whole.output[known : known + 3]
            sequence.output += whole.output[known : known + 4]


def test_an_engine_folder_is_loaded(engine_dir: Path) -> None:
    draft = DraftModelProposer.load(engine_dir, engine_dir, max_kv_cache_tokens=512, max_num_tokens=64)
    sequence = target([20, 30, 40])
    [guesses] = draft.propose([(sequence, 4)])
    assert len(guesses) == 4
    assert all(0 <= token < tiny_llama.VOCAB_SIZE for token in guesses)
    assert 0 < draft.cost_s(1, 1) < draft.cost_s(4, 4)


def test_a_cache_of_less_than_a_block_is_refused_by_the_name_of_its_setting(engine_dir: Path) -> None:
    with pytest.raises(SetupError, match="max_tokens_in_draft_kv_cache is 5; one block alone holds"):
        DraftModelProposer.load(engine_dir, engine_dir, max_kv_cache_tokens=5, max_num_tokens=64)


def test_a_draft_of_another_vocabulary_is_refused(engine_dir: Path, tmp_path: Path) -> None:
    other = tiny_llama.engine(tmp_path, tiny_llama.config().model_copy(update={"vocab_size": 384}))
    with pytest.raises(SetupError) as refused:
        DraftModelProposer.load(other, engine_dir, max_kv_cache_tokens=512, max_num_tokens=64)
    for said in (f"{other} has a vocabulary of 384 tokens", f"{engine_dir} one of 320"):
        assert said in str(refused.value)
