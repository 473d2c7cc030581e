"""Where a search stands: best so far over its evaluations, and its leaders."""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from cluster.ledger import Ledger, Row, read_segment

LEADERS = 50


class Best(NamedTuple):
    """The best metric after `step` evaluations, the last of them committed at `time` (Unix ms)."""

    step: int
    value: float
    time: int


RankKey = tuple[bool, int, float, int]


def rank_key(row: Row, metric: str) -> RankKey:
    """Sorts rows best first: those trained longer before those stopped earlier (their metrics do not
    compare), then the higher metric, then the earlier ask. Failed ones and NaN come last (first True)."""
    value = row.metrics.get(metric, math.nan)
    unusable = row.status == "failed" or math.isnan(value)
    return unusable, -row.epoch, 0.0 if unusable else -value, row.candidate.ask_index


class Standing:
    """Fed with every segment in order. A row is one evaluation: a candidate at a rung.

    A candidate is ranked by its newest row (`rank_key`); failed ones and NaN have no rank. Holds one small
    tuple a candidate.
    """

    def __init__(self, ledger: Ledger, metric: str) -> None:
        self._ledger, self._metric = ledger, metric
        self._scores: dict[str, tuple[RankKey, int]] = {}  # id -> key, segment
        self._step, self._best = 0, -math.inf

    def update(self, segment: int, rows: Sequence[Row]) -> list[Best]:
        """Count these rows; the best so far after each, from the first usable one on."""
        points = []
        for row in rows:
            self._step += 1
            key = rank_key(row, self._metric)
            if key[0]:
                self._scores.pop(row.candidate.id, None)
            else:
                self._scores[row.candidate.id] = key, segment
                self._best = max(self._best, row.metrics[self._metric])
            if self._best > -math.inf:
                points.append(Best(self._step, self._best, row.time))
        return points

    def leaders(self) -> list[Row]:
        """The newest rows of the best candidates, best first."""
        ids = heapq.nsmallest(LEADERS, self._scores, key=self._scores.__getitem__)
        files = self._ledger.segments()
        newest: dict[str, Row] = {}
        for segment in sorted({self._scores[one][1] for one in ids}):
            newest.update((row.candidate.id, row) for row in read_segment(files[segment]))
        return [newest[one] for one in ids]
