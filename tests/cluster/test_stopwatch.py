"""Whose seconds are whose: training, scoring, and what weft itself adds."""

import pytest

from cluster import stopwatch
from cluster.stopwatch import Stopwatch
from cluster.tables import times_line
from tests.cluster.rows import row


class Clock:
    """Goes on when it is told to."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(stopwatch, "time", found)
    return found


def test_replicas_share_scoring_whichever_processes_they_were(clock: Clock) -> None:
    """Two replicas, one of which died twice: four processes answered, and two worked at any time."""
    watch = Stopwatch(since=980.0)
    watch.start()
    clock.now += 60
    watch.trained(57.0)
    clock.now += 20
    watch.told([row(seconds=9.0, place=place) for place in ("a:1", "a:2", "a:3", "a:4")], replicas=2)
    clock.now += 500  # the ranking does not count
    times = watch.times
    assert (times.began, times.startup, times.wall) == (1000.0, 20.0, 80.0)
    assert (times.training, times.scoring) == (57.0, 18.0)
    assert times.overhead == pytest.approx(5 / 80)
    assert times_line({**times._asdict(), "overhead": times.overhead}) == (
        "80 s from the first step to the last candidate: 71.2 % training, 22.5 % scoring, 6.2 % weft; "
        "20 s to start."
    )


def test_a_watch_that_was_never_started(clock: Clock) -> None:
    times = Stopwatch(since=980.0).times
    assert times.wall == times.overhead == times.startup == 0.0
