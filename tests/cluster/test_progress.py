"""Progress: what is counted, what is said when, and time left."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from cluster import progress as progress_module
from cluster.progress import PLAIN_EVERY, Progress, clock
from tests.cluster.rows import report, row
from tests.cluster.searches import small_recipe


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moments = Clock()
    monkeypatch.setattr(progress_module, "time", moments)
    return moments


def plain(tmp_path: Path, **changes: object) -> tuple[Progress, io.StringIO]:
    """Six candidates, rungs at 1, 2 and 4 of 4 epochs: 6 + 3 + 2 * 2 = 13 epochs are planned."""
    out = io.StringIO()
    console = Console(file=out, highlight=False, soft_wrap=True)
    return Progress(console, small_recipe(tmp_path, **changes), 6, lambda: 2), out


def test_epochs_are_planned_as_the_recipe_stops(tmp_path: Path, time: Clock) -> None:
    assert "epoch 0 of about 13" in plain(tmp_path)[0].line().plain
    for stopping in ({"kind": "none"}, {"kind": "asha", "eta": 2}):
        assert "epoch 0 of about 24" in plain(tmp_path, stopping=stopping)[0].line().plain


def test_candidates_are_counted_by_where_they_stand(tmp_path: Path, time: Clock) -> None:
    progress, _ = plain(tmp_path)
    with progress:
        assert "0/6 candidates · 0 done, 2 running, 0 stopped" in progress.line().plain
        for ask in range(6):
            progress.heard(report(ask, 1))
        progress.heard(report(0, 1))  # said again
        assert "0 done, 2 running, 6 waiting for their rung, 0 stopped · epoch 6 of" in progress.line().plain
        progress.committed(
            [row(ask, "promoted", ask / 10, epoch=1) for ask in (3, 4, 5)]
            + [row(ask, "stopped", 0.3, epoch=1) for ask in (0, 1)]
            + [row(2, "failed", None, epoch=1)]
        )
        text = progress.line().plain
        assert "3/6 candidates · 0 done, 2 running, 2 stopped, 1 failed" in text
        assert "best 50.00 % (WS(4, 0.75) seed 6)" in text
        progress.heard(report(5, 2, accuracy=0.99))  # counts once it is committed
        assert "best 50.00 %" in progress.line().plain and "epoch 7 of" in progress.line().plain
        progress.committed([row(3, "ok", 0.625, epoch=4), row(4, "ok", 0.5, epoch=4)])
        assert "5/6 candidates · 2 done, 2 running, 1 waiting for their rung" in progress.line().plain
        assert "best 62.50 % (WS(4, 0.75) seed 4)" in progress.line().plain


def test_time_left_is_what_is_planned_at_the_pace_since_the_first_report(tmp_path: Path, time: Clock) -> None:
    progress, _ = plain(tmp_path)
    with progress:
        assert "left" not in progress.line().plain
        time.now += 45  # workers start
        progress.heard(report(0, 1))
        assert progress.line().plain.endswith("epoch 1 of about 13")
        time.now += 20
        progress.heard(report(1, 1))
        progress.heard(report(2, 1))
        assert progress.line().plain.endswith("epoch 3 of about 13, 1:40 left")  # 10 epochs of 10 s
        time.now += 10
        for ask in range(3, 6):
            progress.heard(report(ask, 1))
        assert progress.line().plain.endswith("epoch 6 of about 13, 0:42 left")  # 7 of 6 s
        progress.committed([row(ask, "failed", None, epoch=1) for ask in range(6)])
        assert progress.line().plain.endswith("1:15 taken")


def test_after_a_resume_the_pace_is_of_this_process(tmp_path: Path, time: Clock) -> None:
    progress, _ = plain(tmp_path)
    progress.committed([row(ask, "promoted" if ask > 2 else "stopped", 0.5, epoch=1) for ask in range(6)])
    time.now += 5000
    with progress:
        assert progress.line().plain.endswith("epoch 6 of about 13")
        progress.heard(report(3, 1))  # what its checkpoint holds, again
        assert progress.line().plain.endswith("epoch 6 of about 13")
        time.now += 10
        progress.heard(report(3, 2))
        assert progress.line().plain.endswith("epoch 7 of about 13, 1:00 left")


def test_more_epochs_than_planned_leave_no_time_below_0(tmp_path: Path, time: Clock) -> None:
    progress, _ = plain(tmp_path)
    with progress:
        time.now += 10
        for ask in range(6):
            progress.heard(report(ask, 4))
            time.now += 10
        assert progress.line().plain.endswith("epoch 24 of about 13, 0:00 left")


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, time: Clock) -> None:
    """One at the start, one at the end, and between them never two within ten seconds; never cut off."""
    progress, out = plain(tmp_path)
    with progress:
        assert out.getvalue().count("\n") == 1
        for _ in range(50):
            progress.heard(report(0, 1))
        assert out.getvalue().count("\n") == 1
        time.now += PLAIN_EVERY
        progress.heard(report(1, 1))
        progress.heard(report(2, 1))
        assert out.getvalue().count("\n") == 2
        time.now += PLAIN_EVERY
        progress.committed([row(5, "ok", 0.5, epoch=4, names={"setting": "WS(4, 0.75) " * 9, "seed": 1})])
        assert out.getvalue().count("\n") == 3
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert "\x1b" not in out.getvalue() and "…" not in out.getvalue()
    assert re.search(r"epoch 7 of about 13, \d+:\d\d left$", lines[-1])


def test_a_terminal_gets_one_line_that_renews_itself(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, _environ={"TERM": "xterm"})
    with Progress(console, small_recipe(tmp_path), 6, lambda: 0) as progress:
        for ask in range(6):
            progress.heard(report(ask, 1))
    assert "\x1b[" in out.getvalue()
    assert "6 waiting for their rung" in out.getvalue()


def test_clock() -> None:
    assert [clock(s) for s in (0, 0.4, 59.6, 61, 3599, 3600, 3723)] == [
        "0:00", "0:00", "1:00", "1:01", "59:59", "1:00:00", "1:02:03",
    ]  # fmt: skip
