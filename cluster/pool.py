"""The pool: the replicas of one supernet together, behind one interface wherever they are.

Held to `cluster.pool_testing.check_pool`.
"""

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from cluster.messages import About, Scored
from cluster.replica import Replica, ReplicaJob
from networks.spaces.space import Genes
from searchers.searcher import Part
from trainers.one_shot import rebased


class Crew(NamedTuple):
    """How many replicas there are now, on how many machines, and how many have died so far."""

    replicas: int
    machines: int
    deaths: int


ALONE = Crew(1, 1, 0)


class Pool(Protocol):
    """Trains the replicas in step, and scores candidates apart.

    Results depend on the job alone: not on how many replicas there are, nor on which of them died.
    """

    @property
    def about(self) -> About:
        """What computes, and on which images; the same for all replicas."""
        ...

    @property
    def step(self) -> int:
        """Training steps done."""
        ...

    @property
    def crew(self) -> Crew:
        """Who works now."""
        ...

    def train(self, steps: int) -> dict[str, float]:
        """Train on: metrics of these steps. Raises `Diverged` when a loss is no number."""
        ...

    def submit(self, candidates: Sequence[Genes], part: Part | None = None) -> None:
        """Queue candidates for scoring, with the weights of now; on a part of what they are scored on, where
        one is given."""
        ...

    def collect(self, number: int) -> list[Scored]:
        """Wait for the next results, in the order of submission. Raises IndexError for more than are
        queued."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights, momentum and step counter, on the CPU."""
        ...

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None: ...

    def reset(self, job: ReplicaJob, *, rebase: bool = False) -> None:
        """Go on as replicas of this job, which differs in `scoring` and `kept` alone, with the weights that
        are left. `rebase`: angles are measured from these from now on."""
        ...

    def digest(self) -> str:
        """SHA-256 over parameters and floating-point buffers."""
        ...

    def close(self) -> None:
        """Give everything back. A closed pool can be closed again."""
        ...


class LocalPool:
    """A pool of one replica in this process."""

    def __init__(self, job: ReplicaJob) -> None:
        self.replica = Replica(job)
        self._queue: deque[tuple[Genes, Part | None]] = deque()
        self._results: deque[Scored] = deque()

    @property
    def about(self) -> About:
        return self.replica.about

    @property
    def step(self) -> int:
        return self.replica.step

    @property
    def crew(self) -> Crew:
        return ALONE

    def train(self, steps: int) -> dict[str, float]:
        self._finish_scoring()
        return self.replica.train(steps)

    def submit(self, candidates: Sequence[Genes], part: Part | None = None) -> None:
        self._queue.extend((genes, part) for genes in candidates)

    def collect(self, number: int) -> list[Scored]:
        queued = len(self._results) + len(self._queue)
        if number > queued:
            raise IndexError(f"{number} results of {queued} candidates that are queued")
        while len(self._results) < number:
            self._score(number - len(self._results))
        return [self._results.popleft() for _ in range(number)]

    def _score(self, number: int) -> None:
        some = [self._queue.popleft() for _ in range(number)]
        for part, alike in groupby(some, key=itemgetter(1)):
            self._results += self.replica.score([genes for genes, _ in alike], part)

    def _finish_scoring(self) -> None:
        """With the weights of now, before they change."""
        self._score(len(self._queue))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = self.replica.state()
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._finish_scoring()
        self.replica.load_state(tensors, values)

    def reset(self, job: ReplicaJob, *, rebase: bool = False) -> None:
        self._finish_scoring()
        self.replica.reset(job)
        if rebase:
            tensors, values = self.state()
            self.replica.load_state(rebased(tensors), values)

    def digest(self) -> str:
        return self.replica.digest()

    def close(self) -> None:
        self._queue.clear()
        self._results.clear()
