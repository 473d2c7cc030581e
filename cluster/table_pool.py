"""A table in the place of replicas: what is known already, read in microseconds."""

import hashlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cluster.messages import About, Scored
from cluster.pool import ALONE
from cluster.replica import ReplicaJob
from cluster.trial import place
from networks.spaces.space import Genes
from searchers.searcher import Part
from trainers.table import Table


class TablePool:
    """The pool's interface over a table. There is nothing to train. What the table lacks of a candidate's
    `names` is the reason of its result."""

    step = 0
    crew = ALONE

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        self._table, self._names = table, tuple(names)
        self._queue: deque[Genes] = deque()
        self.about = About("table", "", place())

    def train(self, steps: int) -> dict[str, float]:
        assert not steps, "a table has nothing to train"
        return {}

    def submit(self, candidates: Sequence[Genes], part: Part | None = None) -> None:
        assert part is None, "a table has no batches"
        self._queue.extend(candidates)

    def collect(self, number: int) -> list[Scored]:
        found = [self._table.find(self._queue.popleft(), self._names) for _ in range(number)]
        return [Scored(one.metrics, one.reason, 0.0, self.about.place) for one in found]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"step": 0}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        pass

    def reset(self, job: ReplicaJob, *, rebase: bool = False) -> None:
        raise ValueError("a table has no replicas")

    def digest(self) -> str:
        return ""

    def close(self) -> None:
        self._queue.clear()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of their names for a folder."""
    if path.is_dir():
        return hashlib.sha256("\n".join(sorted(one.name for one in path.iterdir())).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
