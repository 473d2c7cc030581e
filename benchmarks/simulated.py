"""A replica that only waits: what a pool sees of one that has a GPU, at no cost to this machine.

Imports no torch, so that dozens of such processes fit.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import ray

from cluster.messages import About, Hello, Pulse, Scored

Genes = tuple[int, ...]
BEGAN = "began"  # a metric: Unix seconds, so that idle time can be told afterwards
SHARES = 2**32


class SimulatedJob(NamedTuple):
    """`seconds` that a candidate takes on average, give or take `jitter` of them; `failing`: the share that
    fails."""

    seconds: float
    jitter: float = 0.5
    failing: float = 0.01
    supernet: None = None
    device: str = "cpu"


class SimulatedActor:
    """Answers as `cluster.replica_actor.ReplicaActor` does. What a candidate takes follows from its genes."""

    def setup(self, job: SimulatedJob) -> Hello:
        self._job = job
        self._place = f"simulated:{os.getpid()}"
        return Hello(
            About("simulated", "", self._place), os.getpid(), ray.get_runtime_context().get_node_id()
        )

    @ray.method(concurrency_group="control")
    def ping(self) -> Pulse:
        return Pulse()

    @ray.method(concurrency_group="control")
    def leave(self, generation: int) -> None:
        """There is no group."""

    def score(self, candidates: Sequence[Genes], part: object = None) -> list[Scored]:
        return [self._score(genes) for genes in candidates]

    def _score(self, genes: Genes) -> Scored:
        began, started = time.time(), time.monotonic()
        first, second = (draw(genes, part) for part in range(2))
        time.sleep(self._job.seconds * (1 + self._job.jitter * (2 * first - 1)))
        reason = "told to" if second < self._job.failing else ""
        metrics = {BEGAN: began} if reason else {BEGAN: began, "params": first}
        return Scored(metrics, reason, time.monotonic() - started, self._place)


def draw(genes: Genes, part: int) -> float:
    """A number from 0 to 1 of these genes."""
    digest = hashlib.sha256(repr((genes, part)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / SHARES
