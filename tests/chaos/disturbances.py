"""What is done to a search, each a script.

A script runs in the round's one thread. Its first ``yield None`` ends what it prepares before the search
starts; it goes on at its moment. A second one means that nothing more is to be done, but that what it holds
is held until the round is judged. Every other ``yield`` gives a number of seconds, or a condition.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.chaos.processes import Held, Process
from tests.chaos.ray_nodes import REPLICA, TRIAL
from tests.chaos.stage import Stage
from tests.chaos.subjects import SubjectName

Condition = Callable[[], bool]
Script = Iterator[float | Condition | None]
# Of those that rounds are drawn for. Topologies are played by name (--subject topologies --only trial).
ALL: tuple[SubjectName, ...] = ("search", "grid", "shrinking", "nat")
POOLS: tuple[SubjectName, ...] = ("search", "shrinking", "nat")  # replicas compute
WINDOW = (-0.08, 0.85)
HEAD_S = 90.0  # for a driver to notice that its cluster is gone
RIVAL_S = 90.0  # for a second driver to be refused


class Disturbance(NamedTuple):
    """`window`: parts of the undisturbed search, between which the moment lies; 0 is its first commit. A part
    below 0 lies in the start-up: each hundredth is a second after the run is there. `said`: for the table."""

    name: str
    said: str
    script: Callable[[Stage], Script]
    subjects: tuple[SubjectName, ...]
    window: tuple[float, float]


DISTURBANCES: dict[str, Disturbance] = {}


def disturbance(
    name: str, said: str, subjects: tuple[SubjectName, ...] = ALL, window: tuple[float, float] = WINDOW
) -> Callable[[Callable[[Stage], Script]], Callable[[Stage], Script]]:
    """Enter a script under this name."""

    def enter(script: Callable[[Stage], Script]) -> Callable[[Stage], Script]:
        DISTURBANCES[name] = Disturbance(name, said, script, subjects, window)
        return script

    return enter


def either(*conditions: Condition) -> Condition:
    return lambda: any(condition() for condition in conditions)


def resumed(stage: Stage) -> Script:
    """Another driver, once what it needs at its start is there."""
    yield lambda: not stage.outages
    stage.resume()


class Sought:
    """One of Ray's workers of a kind, as soon as there is one."""

    def __init__(self, stage: Stage, kinds: tuple[str, ...]) -> None:
        self._stage, self._kinds = stage, kinds
        self.found: list[Process] = []

    def there(self) -> bool:
        self.found = self._stage.site.nodes.workers(self._kinds)
        return bool(self.found) or self._stage.ended

    def choose(self) -> Process | None:
        """None when the search has ended meanwhile."""
        return self._stage.rng.choice(self.found) if self.found else None


def computing(stage: Stage) -> tuple[str, ...]:
    """What computes: replicas, or trials of candidates."""
    return REPLICA if stage.subject.name in POOLS else TRIAL


# Processes -------------------------------------------------------------------------------------------------


def kill_one(stage: Stage, kinds: tuple[str, ...]) -> Script:
    yield None
    sought = Sought(stage, kinds)
    yield sought.there
    if victim := sought.choose():
        Held(victim.pid).send(signal.SIGKILL)
        stage.struck()


@disturbance("replica", "SIGKILL to a replica", POOLS)
def kill_replica(stage: Stage) -> Script:
    return kill_one(stage, REPLICA)


@disturbance("trial", "SIGKILL to the process of a Tune trial")
def kill_trial(stage: Stage) -> Script:
    return kill_one(stage, TRIAL)


@disturbance("stopped", "SIGSTOP to what computes for longer than its deadline, then SIGCONT")
def stop_one(stage: Stage) -> Script:
    yield None
    sought = Sought(stage, computing(stage))
    yield sought.there
    victim = sought.choose()
    if victim is None:
        return
    with paused([victim]):
        stage.struck()
        yield stage.tempo.stopped_s


@disturbance("node", "SIGKILL to a node: its raylet and all of its workers")
def kill_node(stage: Stage) -> Script:
    yield None
    nodes, kinds = stage.site.nodes, computing(stage)
    busy = lambda: [one for one in nodes.alive[1:] if nodes.workers(kinds, one)]  # noqa: E731
    yield either(lambda: bool(busy()), lambda: stage.ended)
    if not stage.ended:
        nodes.kill(stage.rng.choice(busy() or nodes.alive[1:]))
        stage.struck()


@disturbance("driver", "SIGKILL to the driver; resumed from another folder and machine")
def kill_driver(stage: Stage) -> Script:
    yield None
    if stage.ended:
        return
    with stage.held():
        gone = stage.end_driver()
        stage.struck()
        yield gone
        yield from resumed(stage)


@disturbance("head", "SIGKILL to the head, with the driver or without; resumed on a new cluster")
def kill_head(stage: Stage) -> Script:
    yield None
    if stage.ended:
        return
    site, driver = stage.site, stage.driver
    both = stage.tempo.quick or stage.rng.random() < 0.5  # a driver that ran there dies with it
    with stage.held():
        site.nodes.kill(site.nodes.nodes[0])
        stage.struck()
        site.begin_cluster()
        if both:
            yield stage.end_driver()
        yield either(lambda: driver.status is not None, lambda: stage.since_struck > HEAD_S)
        stage.expect(driver.status not in (None, 0), f"without a head the driver goes on: {driver.status}")
        if driver.status is None:
            yield stage.end_driver()
        site.nodes.ready()
        yield from resumed(stage)


@contextmanager
def paused(processes: list[Process]) -> Iterator[None]:
    """Meanwhile they are stopped."""
    held = [Held(one.pid) for one in processes]
    try:
        for one in held:
            one.send(signal.SIGSTOP)
        yield
    finally:
        for one in held:
            one.send(signal.SIGCONT)
            one.close()


@disturbance("rival", "a second driver for the same run", window=(0.02, 0.6))
def second_driver(stage: Stage) -> Script:
    yield None
    sought = Sought(stage, TRIAL)
    yield sought.there
    if stage.ended:
        return
    with paused(sought.found):  # a second driver takes longer to start than what is left of a short search
        rival = stage.rival()
        stage.struck()
        yield either(lambda: rival.status is not None, lambda: stage.since_struck > RIVAL_S)
    said = rival.output[-300:]
    stage.expect(rival.status == 2, f"the second driver ended with {rival.status}, not 2: {said}")
    stage.expect("no other process is driving" in said, f"the second driver is not refused: {said}")
    stage.expect(len(stage.attempts) == 1, "the first driver did not go on")
