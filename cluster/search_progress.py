"""Live progress of a search over choices: a line that renews itself in a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster.progress import PLAIN_EVERY, clock
from cluster.search_messages import SearchReport
from cluster.search_report import number
from cluster.tables import approximate


class SearchProgress:
    """Hears of reports; shows the stage, how far it is, the best so far and the time that the stage has
    left at its pace since its first report. `started`: Unix seconds of the call, to tell how long it took
    until the first step."""

    def __init__(self, console: Console, metric: str, started: float | None = None) -> None:
        self._asked_at = started
        self._console, self._metric = console, metric
        self._report: SearchReport | None = None
        self._first: tuple[float, int] | None = None
        self._started = self._said = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self.line)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
        elif self._report is not None:
            self._console.print(self.line())

    def heard(self, report: SearchReport) -> None:
        if self._report is None and self._asked_at is not None and report.began:
            self._console.print(f"start-up took {max(0.0, report.began - self._asked_at):.1f} s")
        new = self._report is None or _part(report) != _part(self._report)
        if new:
            self._first = (time.monotonic(), _done(report))
        self._report = report
        if self._live is None and (new or time.monotonic() - self._said >= PLAIN_EVERY):
            self._said = time.monotonic()
            self._console.print(self.line())

    def line(self) -> Text:
        report = self._report
        if report is None:
            return Text("starting")
        parts = [_stage(report)]
        if "train_loss" in report.metrics:
            parts.append(f"loss {report.metrics['train_loss']:.3f}")
        if report.best is not None:
            parts.append(f"best {self._metric} {number(report.best)}")
        parts.append(self._time_left(report))
        return Text(" · ".join(part for part in parts if part), no_wrap=True, overflow="ellipsis")

    def _time_left(self, report: SearchReport) -> str:
        now = time.monotonic()
        if report.stage == "shrinking":
            return ""
        if report.done:
            return f"{clock(now - self._started)} taken"
        assert self._first is not None
        since, before = self._first
        done = _done(report) - before
        if not done:
            return ""
        total = report.steps if report.stage == "training" else report.planned
        return f"{clock((total - _done(report)) * (now - since) / done)} left"


def _done(report: SearchReport) -> int:
    return report.step if report.stage == "training" else report.asked


def _part(report: SearchReport) -> tuple[str, int, int]:
    """What the time left is told of."""
    return report.stage, report.supernet, report.rung


def _stage(report: SearchReport) -> str:
    which = f" {report.supernet + 1}" if report.supernet else ""
    if report.stage == "training":
        rung = f"rung {report.rung}, {approximate(report.left)} candidates left: " if report.rung else ""
        return f"{rung}training the supernet{which}, step {report.step} of {report.steps}"
    if report.stage == "shrinking":
        return f"rung {report.rung}: {approximate(report.left)} candidates are left"
    if report.stage == "done":
        return f"{report.asked} candidates"
    words = {"search": "searching", "random": "scoring random candidates", "ranking": "ranking scores"}
    return f"{words[report.stage]}, {report.asked} of {report.planned} candidates"
