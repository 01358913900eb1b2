from __future__ import annotations

import numpy as np
import pytest

from python_backend.scheduling import BlockManager, FinishReason, Scheduler, SchedulerConfig, Sequence, StepPlan
from tests.unit.scheduling.simulated_engine import PAUSING, VOCABULARY, config, engine, generate, spans

PROMPT = (1, 2, 3)


@pytest.mark.parametrize("right", range(5))
def test_right_guesses_are_accepted_and_the_target_adds_one_token(right: int) -> None:
    truth = generate(PROMPT, 9)
    draft = [*truth[1 : 1 + right], *((token + 1) % VOCABULARY for token in truth[1 + right : 5])]
    one = engine(config(), tokens_per_block=2)
    sequence = one.add(list(PROMPT), 9)
    one.step()
    sequence.draft = draft
    assert spans(one.step()) == [(3, 4, 5)]
    assert sequence.output == truth[: right + 2]
    assert (sequence.draft_tokens, sequence.accepted_draft_tokens) == (4, right)
    assert sequence.draft == []
    one.drain()


def test_a_draft_may_come_with_the_prompt() -> None:
    truth = generate(PROMPT, 4)
    one = engine(config())
    one.add(list(PROMPT), 4, drafter=lambda s: truth[len(s.output) : 3])
    assert spans(one.step()) == [(0, 3, 4)]
    one.check_results()
    assert not one.live


def test_a_draft_waits_for_the_last_chunk_of_the_prompt() -> None:
    truth = generate([1] * 7, 3)
    one = engine(config(tokens=5))
    sequence = one.add([1] * 7, 3)
    sequence.draft = truth[:2]
    assert [spans(one.step()) for _ in range(2)] == [[(0, 5, 0)], [(5, 7, 3)]]
    one.check_results()


def test_a_draft_is_cut_to_what_may_still_be_generated() -> None:
    one = engine(config())
    sequence = one.add([1], 3)
    sequence.draft = [0] * 9
    assert spans(one.step()) == [(0, 1, 3)]
    one.drain()


def test_drafts_leave_every_sequence_its_own_token() -> None:
    one = engine(config(batch=3, tokens=4))
    everyone = [one.add([start], 9) for start in range(3)]
    one.step()
    for sequence in everyone:
        sequence.draft = [0] * 4
    assert [rows for *_, rows in spans(one.step())] == [2, 1, 1]
    one.drain()


def test_drafts_pause_nobody() -> None:
    one = engine(config(policy=PAUSING), num_blocks=7, tokens_per_block=2)
    drafting, other = one.add([1, 2], 11), one.add([2, 1], 3)
    one.step()
    drafting.draft = [0] * 10  # would fill all 5 blocks that are left, one of which the other needs now
    plan = one.step()
    assert plan is not None
    assert not plan.paused
    assert [(entry.sequence, entry.rows) for entry in plan.entries] == [(drafting, 8), (other, 1)]
    one.drain()


def test_an_end_id_inside_an_accepted_draft_ends_the_output_there() -> None:
    truth = generate(PROMPT, 9)
    end = truth[2]
    one = engine(config())
    sequence = one.add(list(PROMPT), 9, end_id=end, drafter=lambda s: truth[len(s.output) : 8])
    one.drain()
    assert sequence.output == truth[: truth.index(end) + 1]
    assert sequence.finish_reason is FinishReason.STOP


class Rounds:
    """A scheduler whose requests end with their draft, and which computes what `generate` says."""

    def __init__(self, settings: SchedulerConfig, num_blocks: int = 16, tokens_per_block: int = 2) -> None:
        self.scheduler = Scheduler(settings, BlockManager(num_blocks, tokens_per_block))

    def add(self, prompt: list[int], draft: list[int], max_new_tokens: int = 9, end_id: int | None = None) -> Sequence:
        sequence = Sequence(
            id="", prompt=np.array(prompt), max_new_tokens=max_new_tokens, end_id=end_id, draft=draft,
            ends_after_draft=True,
        )  # fmt: skip
        self.scheduler.add(sequence, 0.0)
        return sequence

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule(0.0)
        assert plan is not None
        sampled = []
        for entry in plan.entries:
            known = entry.sequence.prompt.tolist() + entry.sequence.output
            sampled += [generate(known + list(entry.draft[:i]), 1)[0] for i in range(entry.rows)]
        self.scheduler.advance(plan, sampled)
        self.scheduler.check_integrity()
        return plan


@pytest.mark.parametrize("right", range(4))
def test_a_request_that_brings_a_draft_ends_once_it_is_verified(right: int) -> None:
    truth = generate(PROMPT, 9)
    rounds = Rounds(config())
    draft = [*truth[:right], *((token + 1) % VOCABULARY for token in truth[right:3])]
    sequence = rounds.add(list(PROMPT), draft)
    rounds.step()
    assert sequence.output == truth[: right + 1]
    assert (sequence.finish_reason, rounds.scheduler.is_idle) == (FinishReason.LENGTH, True)
    assert (sequence.draft_tokens, sequence.accepted_draft_tokens) == (3, right)
    assert rounds.scheduler.blocks.statistics.used == 0


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3])
def test_it_ends_though_max_new_tokens_cut_the_draft(max_new_tokens: int) -> None:
    truth = generate(PROMPT, 9)
    rounds = Rounds(config())
    sequence = rounds.add(list(PROMPT), truth[:6], max_new_tokens)
    rounds.step()
    assert (sequence.output, sequence.finish_reason) == (truth[:max_new_tokens], FinishReason.LENGTH)
    assert sequence.draft_tokens == sequence.accepted_draft_tokens == max_new_tokens - 1


def test_it_ends_though_the_budget_cut_the_draft() -> None:
    truth = generate([1] * 7, 9)
    rounds = Rounds(config(tokens=4))
    sequence = rounds.add([1] * 7, truth[:4])
    plans = [rounds.step() for _ in range(2)]
    assert [spans(plan) for plan in plans] == [[(0, 4, 0)], [(4, 7, 2)]]
    assert (sequence.output, sequence.finish_reason) == (truth[:2], FinishReason.LENGTH)


def test_it_ends_though_no_room_was_left_for_any_of_the_draft() -> None:
    truth = generate([1] * 8, 9)
    rounds = Rounds(config(tokens=4))
    sequence = rounds.add([1] * 8, truth[:4])
    plans = [rounds.step() for _ in range(2)]
    assert [spans(plan) for plan in plans] == [[(0, 4, 0)], [(4, 8, 1)]]
    assert (sequence.output, sequence.finish_reason) == (truth[:1], FinishReason.LENGTH)
    assert (sequence.draft_tokens, sequence.accepted_draft_tokens) == (0, 0)


def test_it_ends_though_the_blocks_of_others_cut_the_draft() -> None:
    truth = generate([1] * 3, 9)
    rounds = Rounds(config(policy=PAUSING), num_blocks=6)
    other = Sequence(id="", prompt=np.array([0] * 4), max_new_tokens=2)
    rounds.scheduler.add(other, 0.0)
    rounds.step()
    sequence = rounds.add([1] * 3, truth[:6], max_new_tokens=7)
    plan = rounds.step()
    assert [entry.rows for entry in plan.entries] == [1, 4]  # 3 blocks are left, for 3 tokens of the prompt and 3
    assert (sequence.output, sequence.finish_reason) == (truth[:4], FinishReason.LENGTH)


def test_an_end_id_in_its_draft_makes_it_stop() -> None:
    truth = generate(PROMPT, 9)
    end = truth[2]
    rounds = Rounds(config())
    sequence = rounds.add(list(PROMPT), truth[:6], end_id=end)
    rounds.step()
    kept = truth.index(end) + 1
    assert (sequence.output, sequence.finish_reason) == (truth[:kept], FinishReason.STOP)
    assert (sequence.draft_tokens, sequence.accepted_draft_tokens) == (6, kept)


def test_without_a_draft_it_is_one_token() -> None:
    rounds = Rounds(config())
    sequence = rounds.add(list(PROMPT), [])
    rounds.step()
    assert (sequence.output, sequence.finish_reason) == (generate(PROMPT, 1), FinishReason.LENGTH)


def test_the_next_round_starts_behind_the_accepted_tokens() -> None:
    truth = generate(PROMPT, 9)
    rounds = Rounds(config())
    rounds.add(list(PROMPT), truth[:4])
    rounds.step()
    following = rounds.add([*PROMPT, *truth[:5]], truth[5:7])
    plan = rounds.step()
    assert plan.entries[0].start >= 6  # KV of 7 tokens was there, in blocks of 2
    assert following.output == truth[5:8]
