from __future__ import annotations

import pytest

from python_backend.scheduling import FinishReason
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
