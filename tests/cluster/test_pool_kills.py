"""Replicas that are killed at random moments change nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

pytest.importorskip("ray")

from ray._private.state import actors

from cluster.pool import LocalPool, Pool
from cluster.pool_testing import essence, sample
from cluster.ray_pool import RayPool
from networks.counters import counter_random
from networks.spaces.space import Genes
from tests.cluster.pools import JOB, job_with, open_files, pids_of, runs

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]
ROUNDS = 8
STEPS = 60  # of a round
SEED = 11
LONG = job_with(steps=ROUNDS * STEPS).model_copy(
    update={"space": JOB.space.model_copy(update={"channels": 4})}
)


class Outcome(NamedTuple):
    losses: list[float]
    scores: list[tuple[dict[str, float], str]]
    digest: str


def search(pool: Pool, candidates: list[Genes], before: Callable[[int], None] = lambda part: None) -> Outcome:
    """Train and score by turns. `before` hears of each of the 2 * ROUNDS parts."""
    losses, scores = [], []
    for turn in range(ROUNDS):
        before(2 * turn)
        losses.append(pool.train(STEPS)["train_loss"])
        before(2 * turn + 1)
        pool.submit(candidates)
        scores += essence(pool.collect(len(candidates)))
    return Outcome(losses, scores, pool.digest())


class Killer:
    """Sends each signal to a random replica at a random moment of a part of the search."""

    def __init__(self, pool: RayPool, plan: dict[int, signal.Signals], part_seconds: float) -> None:
        self._pool, self._plan, self._part_seconds = pool, plan, part_seconds
        self._timers: list[threading.Timer] = []
        self._ended = threading.Event()
        self.sent: list[tuple[signal.Signals, int]] = []

    def __call__(self, part: int) -> None:
        if part in self._plan:
            rng = counter_random(SEED, "kill", part)
            delay = rng.random() * self._part_seconds
            self._timers.append(threading.Timer(delay, self._send, (self._plan[part], rng.random())))
            self._timers[-1].start()

    def _send(self, which: signal.Signals, draw: float) -> None:
        while not self._ended.wait(0.01):
            pids = [pid for pid in pids_of(self._pool) if runs(pid)]
            if pids:  # all may be dead from the signal before
                pid = pids[int(draw * len(pids))]
                os.kill(pid, which)
                self.sent.append((which, pid))
                return

    def end(self) -> None:
        self._ended.set()
        for timer in self._timers:
            timer.join()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("replicas", [1, 2])
def test_five_kills_and_one_stop_change_nothing(replicas: int) -> None:
    local = LocalPool(LONG)
    candidates = sample(local, 24)
    started = time.monotonic()
    expected = search(local, candidates)
    part_seconds = (time.monotonic() - started) / (2 * ROUNDS) / 2
    warm = RayPool(LONG, replicas, cpus=0.5)  # what Ray opens once is open after it
    warm.train(1)
    warm.close()

    files, living = open_files(), alive_actors()
    pool = RayPool(LONG, replicas, cpus=0.5)
    kill, stop = signal.SIGKILL, signal.SIGSTOP
    killer = Killer(pool, {1: kill, 2: kill, 5: kill, 6: kill, 8: stop, 11: kill}, part_seconds)
    try:
        found = search(pool, candidates, killer)
        killer.end()
        deaths = pool._members.deaths
    finally:
        pool.close()
    assert found == expected
    assert [which for which, _ in killer.sent].count(stop) == 1 and len(killer.sent) == 6
    assert deaths >= 5, "too few of them were noticed: the last may fall after the end"
    wait_until(lambda: not any(runs(pid) for _, pid in killer.sent), "a killed process goes on")
    wait_until(lambda: alive_actors() == living, "actors are left")
    wait_until(lambda: open_files() <= files + 2, "file handles are left")


def alive_actors() -> int:
    return sum(one["State"] != "DEAD" for one in actors().values())


def wait_until(true: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.2)
