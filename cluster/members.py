"""The actors of a pool: started, watched, buried and replaced. What they work on is the pool's affair."""

import math
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray._private.state import state
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.dispatch import Chunk
from cluster.replica import About, ReplicaJob
from cluster.replica_actor import Hello, ReplicaActor
from networks.errors import UserError
from trainers.one_shot import OneShotSettings

LOOK_S = 1.0  # between looks at who still answers
STALL_S = 10.0  # unanswered for this long, or for five steps where that is longer: stalled
STALL_STEPS = 5
START_S = 300.0  # for the first replica, or the only one, to be there
READ_S = 60.0  # to read an answer that has arrived


class PoolLost(RuntimeError):
    """Replicas die again and again before anything comes of them."""


class Share(NamedTuple):
    """What one replica asks of Ray."""

    cpus: float
    gpus: float


@dataclass(eq=False)
class Member:
    """A replica that answers. `step`: how far it is trained; -1 for one that nobody has told yet.
    `calls`: what it is scoring, and what lies ready for it, oldest first."""

    actor: ActorHandle
    hello: Hello
    step: int = -1
    calls: deque[tuple[ray.ObjectRef, Chunk]] = field(default_factory=deque)
    ping: ray.ObjectRef | None = None
    pinged: float = 0.0


class Members:
    """`alive` holds those that answer; a replacement for each of the others is on its way.

    Gives up with `PoolLost` after more than `retries` deaths for each replica without `progressed`.
    """

    def __init__(
        self, job: ReplicaJob, number: int, share: Share, *, allow_mixed: bool, retries: int
    ) -> None:
        self.alive: list[Member] = []
        self.about: About | None = None  # the first one's
        self.step_seconds = 0.0  # of a training step or a candidate; the pool keeps it
        self.deaths = 0
        self._job, self._number, self._allow_mixed, self._retries = job, number, allow_mixed, retries
        self._share = share
        self._starting: dict[ray.ObjectRef, ActorHandle] = {}
        self._fruitless = 0
        self._looked = time.monotonic()
        try:
            for _ in range(number):
                self._start()
            deadline = time.monotonic() + START_S
            while len(self.alive) < number:
                self._admit_within(deadline)
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        actors = ray.remote(concurrency_groups={"control": 1})(ReplicaActor)
        actor = actors.options(**self._options()).remote()
        self._starting[actor.setup.remote(self._job)] = actor

    def _options(self) -> dict[str, Any]:
        """What each actor is created with."""
        return {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus}

    def admit(self, seconds: float = 0.0) -> None:
        """Take in those that have started. Raises `UserError` for one that computes otherwise than the
        others, or on other images, and what went wrong in one that cannot start."""
        if not self._starting:
            return
        waiting = list(self._starting)
        if ray.wait(waiting, num_returns=1, timeout=seconds)[0]:
            for ref in ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]:
                self._take_in(ref)

    def await_one(self) -> None:
        """Until there is at least one."""
        if not self.alive and not self._starting:
            raise RuntimeError("the pool is closed")
        deadline = time.monotonic() + START_S
        while not self.alive:
            self._admit_within(deadline)

    def _admit_within(self, deadline: float) -> None:
        self.admit(LOOK_S)
        if time.monotonic() > deadline:
            raise UserError(
                "resources.workers", self._number, "as many as Ray finds room for",
                f"After {START_S:.0f} s only {len(self.alive)} had started: other work may hold the cluster.",
            )  # fmt: skip

    def _take_in(self, ref: ray.ObjectRef) -> None:
        actor = self._starting.pop(ref)
        try:
            hello: Hello = ray.get(ref, timeout=READ_S)
            self._check(hello.about)
        except RayActorError as error:
            self._start()
            self.fruitless(error)
        except RayTaskError as error:
            ray.kill(actor)
            raise error.cause from None
        except UserError:
            ray.kill(actor)
            raise
        else:
            self.alive.append(Member(actor, hello))

    def _check(self, found: About) -> None:
        first = self.about = self.about or found
        if found.numerics != first.numerics and not self._allow_mixed:
            raise UserError(
                "allow_mixed", False, f"replicas that compute as the first one ({first.numerics})",
                f"The one at {found.place} computes with {found.numerics}: its results could differ in the "
                "last bits. --set allow_mixed=true accepts that.",
            )  # fmt: skip
        if found.data != first.data:
            raise UserError(
                "data", self._job.data.name, "the same images on every machine",
                f"Those at {found.place.partition(':')[0]} differ from those at "
                f"{first.place.partition(':')[0]}.",
            )  # fmt: skip

    def wait(self, refs: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
        """Those of the calls that have an answer: at least one. Meanwhile, who stalls is killed, and what
        it was called for then has an answer too."""
        while True:
            self._look()
            if ready := ray.wait(refs, num_returns=1, timeout=LOOK_S)[0]:
                others = [ref for ref in refs if ref != ready[0]]
                return ready + (ray.wait(others, num_returns=len(others), timeout=0)[0] if others else [])

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        for member in self.alive:
            if member.ping is None:
                member.ping, member.pinged = member.actor.ping.remote(), now
            elif ray.wait([member.ping], timeout=0)[0]:
                member.ping = None
            elif now - member.pinged > max(STALL_S, STALL_STEPS * self.step_seconds):
                end_process(member)

    def bury(self, member: Member) -> None:
        """One is dead: its replacement is started."""
        self.alive.remove(member)
        self.deaths += 1
        with suppress(Exception):  # dead as it is
            ray.kill(member.actor)
        self._start()

    def fruitless(self, why: object) -> None:
        """Something failed, and nothing came of it. Raises `PoolLost` when that was too often in a row."""
        self._fruitless += 1
        if self._fruitless > self._retries * self._number:
            last = " ".join(str(why).split())[:300]
            raise PoolLost(
                f"{self._fruitless} times in a row a replica failed before anything came of it; last: {last}"
            )

    def progressed(self) -> None:
        """A step was trained or a candidate scored."""
        self._fruitless = 0

    def close(self) -> None:
        for actor in [*(member.actor for member in self.alive), *self._starting.values()]:
            with suppress(Exception):  # dead already, or Ray is
                ray.kill(actor)
        self.alive.clear()
        self._starting.clear()


def end_process(member: Member) -> None:
    """Kill a replica that does not answer. Ray then takes it for dead, but its own way of killing asks the
    process, and a stopped one does not hear: it would keep its memory for ever."""
    ray.kill(member.actor)
    pid, node = member.hello.pid, member.hello.node
    if node == ray.get_runtime_context().get_node_id():
        kill(pid)
    else:
        there = NodeAffinitySchedulingStrategy(node, soft=True)  # soft: the node may be gone
        ray.remote(num_cpus=0)(kill_on).options(scheduling_strategy=there).remote(node, pid)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_on(node: str, pid: int) -> None:
    """Kill the process if this is its machine."""
    if ray.get_runtime_context().get_node_id() == node:
        kill(pid)


def check_replicas(supernet: OneShotSettings | None, number: int, share: Share) -> None:
    """Raise `UserError` for replicas that would have nothing to do, or that there is no room for."""
    if supernet is not None and supernet.paths_per_step < number:
        raise UserError(
            "supernet.paths_per_step", supernet.paths_per_step, f"at least the replicas ({number})",
            "A step gives each path to one replica, so some would be idle: lower resources.workers.",
        )  # fmt: skip
    room = rooms(share)
    if room is not None and room < number:
        asked = ", ".join(f"{amount:g} {key}" for key, amount in _request(share).items())
        raise UserError(
            "resources.workers", number, f"at most {room}",
            f"There is no room for more replicas with {asked} each.",
        )  # fmt: skip


def rooms(share: Share) -> int | None:
    """How many replicas the cluster, or the placement group that this process is in, can hold at most; None
    when the cluster can grow."""
    group = ray.util.get_current_placement_group()
    if group is not None:
        shapes: list[dict[str, Any]] = [dict(bundle) for bundle in group.bundle_specs]
        for key, amount in ray.get_runtime_context().get_assigned_resources().items():
            shapes[0][key] = shapes[0].get(key, 0) - amount  # where this process itself sits
    else:
        growth = state.get_cluster_config()
        if growth is not None and any(kind.max_count != 0 for kind in growth.node_group_configs):
            return None
        shapes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = _request(share)
    if not asked:
        return None
    return sum(
        max(0, min(math.floor(shape.get(key, 0) / amount + 1e-6) for key, amount in asked.items()))
        for shape in shapes
    )


def _request(share: Share) -> dict[str, float]:
    return {key: amount for key, amount in (("CPU", share.cpus), ("GPU", share.gpus)) if amount}
