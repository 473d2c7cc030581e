"""Where a search's time goes: inside training and scoring, and what weft itself adds."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from cluster.ledger import Row


class Times(NamedTuple):
    """Seconds of one process: `wall` from its first step to the last tell; `training` inside the pool's
    training; `scoring` inside scores, divided by the replicas that computed them. `began`: Unix seconds."""

    began: float
    wall: float
    training: float
    scoring: float

    @property
    def overhead(self) -> float:
        """The share of the wall time that was neither training nor scoring."""
        return (self.wall - self.training - self.scoring) / self.wall if self.wall else 0.0


class Stopwatch:
    """Starts with the first `start`."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._start = self._last = self._training = self._seconds = 0.0
        self._places: set[str] = set()

    def start(self) -> None:
        if self._began is None:
            self._began, self._start = time.time(), time.monotonic()

    def trained(self, seconds: float) -> None:
        self._training += seconds
        self._last = time.monotonic()

    def told(self, rows: Sequence[Row]) -> None:
        self._seconds += sum(row.seconds for row in rows)
        self._places |= {row.place for row in rows}
        self._last = time.monotonic()

    @property
    def times(self) -> Times:
        wall = max(0.0, self._last - self._start)
        scoring = self._seconds / max(1, len(self._places))
        return Times(self._began or 0.0, wall, self._training, scoring)
