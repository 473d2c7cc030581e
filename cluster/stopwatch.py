"""Where a search's time goes: inside training and scoring, and what weft itself adds."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from cluster.ledger import Row

TIMES = "times.json"  # in a run's folder


class Times(NamedTuple):
    """Seconds of one process: `startup` until its first step; `wall` from there to the last tell; `training`
    inside the pool's training, in which replicas exchange gradients and are replaced; `scoring` inside
    scores, divided by the replicas that share them. `began`: Unix seconds of the first step."""

    began: float
    startup: float
    wall: float
    training: float
    scoring: float

    @property
    def overhead(self) -> float:
        """The share of the wall time that was neither training nor scoring."""
        return (self.wall - self.training - self.scoring) / self.wall if self.wall else 0.0


class Stopwatch:
    """Starts with the first `start`. `since`: Unix seconds when the search, or its resume, was asked for."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._began: float | None = None
        self._start = self._last = self._training = self._seconds = 0.0

    def start(self) -> None:
        if self._began is None:
            self._began, self._start = time.time(), time.monotonic()

    def trained(self, seconds: float) -> None:
        self._training += seconds
        self._last = time.monotonic()

    def told(self, rows: Sequence[Row], replicas: int) -> None:
        """So many replicas shared in scoring these."""
        self._seconds += sum(row.seconds for row in rows) / max(1, replicas)
        self._last = time.monotonic()

    @property
    def times(self) -> Times:
        wall = max(0.0, self._last - self._start)
        began = self._since if self._began is None else self._began
        return Times(began, began - self._since, wall, self._training, self._seconds)
