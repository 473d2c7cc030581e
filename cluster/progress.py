"""Live progress of a search: a line that renews itself in a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster.ledger import Row
from cluster.recipe import HalvingStopping, Recipe
from cluster.trial import Report
from searchers.halving import planned_epochs

PLAIN_EVERY = 10.0  # seconds between plain lines


class Progress:
    """Hears of reports and committed rows; shows who is done, runs, waits or stopped, the best, time left.

    `running` tells how many candidates are being trained. Time left counts epochs: those that are planned
    if nothing fails, at the pace since the first report, so that the start of Ray does not count.
    """

    def __init__(self, console: Console, recipe: Recipe, candidates: int, running: Callable[[], int]) -> None:
        self._running = running
        self._console, self._metric, self._candidates = console, recipe.metric, candidates
        stopping = recipe.stopping
        eta = stopping.eta if isinstance(stopping, HalvingStopping) else 1
        marks = recipe.rungs if isinstance(stopping, HalvingStopping) else [recipe.training.epochs]
        self._planned = planned_epochs(candidates, marks, eta)
        self._epochs: dict[int, int] = {}
        self._ended: dict[int, str] = {}
        self._marks = set(marks[:-1])
        self._waiting: set[int] = set()
        self._best: tuple[float, str] | None = None
        self._started = self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # time and epochs of the first report
        self._live: Live | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._started = self._said = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(
                self.line(), console=self._console, refresh_per_second=4, get_renderable=self.line
            )
            self._live.__enter__()
        else:
            self._console.print(self.line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
        else:
            self._console.print(self.line())

    def heard(self, report: Report) -> None:
        with self._lock:
            self._epochs[report.ask_index] = max(report.epoch, self._epochs.get(report.ask_index, 0))
            if report.epoch in self._marks and report.status == "running":
                self._waiting.add(report.ask_index)
            else:
                self._waiting.discard(report.ask_index)
            if self._first is None:
                self._first = (time.monotonic(), sum(self._epochs.values()))
        self._say()

    def committed(self, rows: list[Row]) -> None:
        with self._lock:
            for row in rows:
                ask = row.candidate.ask_index
                self._epochs[ask] = max(row.epoch, self._epochs.get(ask, 0))
                self._waiting.discard(ask)
                if row.final:
                    self._ended[ask] = row.status
                value = row.metrics.get(self._metric)
                if value is not None and (self._best is None or value > self._best[0]):
                    self._best = (value, row.label)
        self._say()

    def line(self) -> Text:
        with self._lock:
            ended = list(self._ended.values())
            running = self._running() if len(ended) < self._candidates else 0
            counts = [f"{ended.count('ok')} done", f"{running} running"]
            if self._waiting:
                counts.append(f"{len(self._waiting)} waiting for their rung")
            counts.append(f"{ended.count('stopped')} stopped")
            if "failed" in ended:
                counts.append(f"{ended.count('failed')} failed")
            parts = [f"{len(ended)}/{self._candidates} candidates", ", ".join(counts)]
            if self._best is not None:
                parts.append(f"best {100 * self._best[0]:.2f} % ({self._best[1]})")
            parts.append(self._time_left())
        return Text(" · ".join(parts), no_wrap=True, overflow="ellipsis")

    def _time_left(self) -> str:
        trained = sum(self._epochs.values())
        now = time.monotonic()
        if len(self._ended) == self._candidates:
            return f"{clock(now - self._started)} taken"
        since, before = self._first or (now, trained)
        if trained == before:
            return f"epoch {trained} of about {self._planned}"
        left = max(0, self._planned - trained) * (now - since) / (trained - before)
        return f"epoch {trained} of about {self._planned}, {clock(left)} left"

    def _say(self) -> None:
        if self._live is None and time.monotonic() - self._said >= PLAIN_EVERY:
            self._said = time.monotonic()
            self._console.print(self.line())


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
