"""When a server is given up, and how often it is replaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from python_backend.launcher.probe import Health, Verdict
from python_backend.launcher.watchdog import RestartBudget, Watchdog

FAILING = Verdict(Health.FAILING, "an error")
LATE = Verdict(Health.LATE, "no answer")


def test_gives_up_only_after_several_bad_answers_in_a_row() -> None:
    watchdog = Watchdog(patience=3)
    good = Verdict(Health.SERVING)
    assert [watchdog.judge(verdict, None) for verdict in (FAILING, FAILING, good, FAILING, FAILING)] == [None] * 5
    assert watchdog.judge(FAILING, None) == "an error (3 times in a row)"


def test_dead_stub_needs_no_patience() -> None:
    assert Watchdog(patience=3).judge(Verdict(Health.DEAD, "dead"), None) == "dead"


def test_full_queue_is_a_good_answer() -> None:
    watchdog = Watchdog(patience=2)
    for _ in range(5):
        assert watchdog.judge(FAILING, None) is None
        assert watchdog.judge(Verdict(Health.BUSY, "queue is full"), None) is None


def test_engine_that_makes_steps_is_busy_and_one_that_stops_hangs() -> None:
    watchdog = Watchdog(patience=3)
    assert [watchdog.judge(LATE, float(step)) for step in range(10)] == [None] * 10
    assert [watchdog.judge(LATE, 9.0) for _ in range(3)] == [None, None, "no answer (3 times in a row)"]


def test_error_counts_although_the_engine_makes_steps() -> None:
    watchdog = Watchdog(patience=2)
    assert [watchdog.judge(FAILING, float(step)) for step in range(2)] == [None, "an error (2 times in a row)"]


def test_full_queue_of_an_engine_that_makes_no_steps_is_a_hang() -> None:
    watchdog, full = Watchdog(patience=3), Verdict(Health.BUSY, "queue is full")
    assert [watchdog.judge(full, float(step)) for step in range(10)] == [None] * 10
    assert [watchdog.judge(full, 9.0) for _ in range(3)] == [None, None, "queue is full (3 times in a row)"]


@given(
    st.lists(st.floats(0, 50), max_size=60),
    st.integers(1, 5),
    st.floats(1, 100),
)
def test_budget_never_allows_more_restarts_than_fit_in_any_window(
    pauses_s: list[float], restarts: int, window_s: float
) -> None:
    budget = RestartBudget(restarts, window_s, first_pause_s=1.0, longest_pause_s=8.0)
    now_s, granted = 0.0, list[float]()
    for pause_s in pauses_s:
        now_s += pause_s
        recent = [time_s for time_s in granted if time_s > now_s - window_s]
        backoff_s = budget.take(now_s)
        assert backoff_s == (None if len(recent) == restarts else min(2.0 ** len(recent), 8.0))
        if backoff_s is not None:
            granted.append(now_s)
