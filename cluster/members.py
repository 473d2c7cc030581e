"""The actors of a pool: started, watched, buried and replaced. What they work on is the pool's affair."""

import logging
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray._private.state import state
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actors import Died, answer, end_process
from cluster.dispatch import Chunk
from cluster.messages import About, Hello, Pulse
from cluster.replica import ReplicaJob
from cluster.replica_actor import ReplicaActor
from cluster.stalls import Usual, hangs, stuck
from networks.errors import CannotGoOn, UserError
from trainers.one_shot_settings import OneShotSettings

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between looks at who still answers
FRESH_S = 3.0  # how long what a replica said of itself counts
START_S = 300.0  # for the first replica, or the only one, to be there
ELASTIC_S = 1800.0  # the same where machines come and go
GRACE_S = 1.0  # for a process to end by itself
END_S = 10.0  # to have processes on other machines killed


class PoolLost(CannotGoOn):
    """Replicas die again and again before anything comes of them."""


class Share(NamedTuple):
    """What one replica asks of Ray."""

    cpus: float
    gpus: float


@dataclass(eq=False)
class Member:
    """A replica that answers. `step`: how far it is trained; -1 for one that nobody has told yet. `warm`: it
    has trained a step. `calls`: what it is scoring, and what lies ready for it, oldest first. `called`: when
    it last was, together with others; `answered`: when it last did, other than to pings. `pulse`: what it was
    at when the ping sent at `felt` came. `elastic`: it came with spare room and may go with it."""

    actor: ActorHandle
    hello: Hello
    elastic: bool = False
    step: int = -1
    warm: bool = False
    calls: deque[tuple[ray.ObjectRef, Chunk]] = field(default_factory=deque)
    ping: ray.ObjectRef | None = None
    pinged: float = 0.0
    called: float = 0.0
    answered: float = 0.0
    pulse: Pulse = field(default_factory=Pulse)
    felt: float = -math.inf


class Members:
    """`alive` holds those that answer; a replacement for each of the others is on its way.

    `number` of them lie in the caller's placement group and are waited for. `elastic` more are asked of the
    cluster at large, which may never have room for them: they join when they are there, and when their
    machines go, others are asked for.

    Gives up with `PoolLost` after more than `retries` deaths for each replica without `progressed`.
    """

    def __init__(
        self,
        job: ReplicaJob,
        number: int,
        share: Share,
        *,
        allow_mixed: bool,
        retries: int,
        elastic: int = 0,
    ) -> None:
        self.alive: list[Member] = []
        self.about: About | None = None  # the first one's
        self.usual = Usual()  # the pool keeps it
        self.deaths = 0
        self.job, self._number, self._allow_mixed, self._retries = job, number, allow_mixed, retries
        self._share, self._elastic = share, elastic
        self._starting: dict[ray.ObjectRef, tuple[ActorHandle, bool]] = {}  # and whether it is elastic
        self._fruitless = 0
        self._looked = time.monotonic()
        try:
            for _ in range(number):
                self._start()
            deadline = time.monotonic() + START_S
            while len(self.alive) < number:
                self._admit_within(deadline)
            for _ in range(elastic):
                self._start(elastic=True)
        except BaseException:
            self.close()
            raise

    def _start(self, elastic: bool = False) -> None:
        actors = ray.remote(concurrency_groups={"control": 1})(ReplicaActor)
        actor = actors.options(**self._options(elastic)).remote()
        self._starting[actor.setup.remote(self.job)] = actor, elastic

    def _options(self, elastic: bool) -> dict[str, Any]:
        """What each actor is created with. A placement group cannot grow, so elastic ones stand outside."""
        asked = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus}
        return {**asked, "scheduling_strategy": PlacementGroupSchedulingStrategy(None)} if elastic else asked

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
        deadline = time.monotonic() + (ELASTIC_S if self._elastic else START_S)
        while not self.alive:
            self._admit_within(deadline)

    def _admit_within(self, deadline: float) -> None:
        self.admit(LOOK_S)
        if time.monotonic() > deadline:
            raise UserError(
                "resources.workers", self._number, "as many as Ray finds room for",
                f"Only {len(self.alive)} had started in time: other work may hold the cluster.",
            )  # fmt: skip

    def _take_in(self, ref: ray.ObjectRef) -> None:
        actor, elastic = self._starting.pop(ref)
        try:
            hello: Hello = answer(ref)
            self._check(hello.about)
        except Died as error:
            end_process(actor)
            self._start(elastic)
            self.fruitless(error)
        except BaseException as error:
            end_process(actor)
            if not elastic or not isinstance(error, UserError):
                raise
            self._elastic -= 1  # another would come to the same machine
            log.warning("going on without one of the replicas up to max_workers: %s", error)
        else:
            self.alive.append(Member(actor, hello, elastic))
            log.info("a replica joined at %s; there are %d", hello.about.place, len(self.alive))

    def _check(self, found: About) -> None:
        self.about = self.about or found
        check_alike(self.about, found, self.job, allow_mixed=self._allow_mixed)

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
            if member.ping is not None and ray.wait([member.ping], timeout=0)[0]:
                with suppress(Died):  # its calls tell of that
                    member.pulse, member.felt = answer(member.ping), member.pinged
                member.ping = None
            if member.ping is None:
                member.ping, member.pinged = member.actor.ping.remote(), now
            elif now - member.pinged > self.usual.patience:
                end_process(member.actor, member.hello.node, member.hello.pid)
        fresh = [member for member in self.alive if now - member.felt <= FRESH_S]
        for member in fresh:
            waited = max([self._back(member, now), *(other.pulse.waiting for other in fresh)])
            if hangs(member.pulse, waited, member.warm, self.usual):
                end_process(member.actor, member.hello.node, member.hello.pid)
        if len(fresh) == len(self.alive) and stuck([member.pulse for member in fresh], self.usual):
            for member in fresh:
                member.actor.leave.remote(member.pulse.generation)

    def _back(self, member: Member, now: float) -> float:
        """For how long another has been back from the calls that this one was called with."""
        return max(
            (now - other.answered for other in self.alive if other.answered > member.called), default=0.0
        )

    def bury(self, member: Member) -> None:
        """One is dead, or as good: its replacement is started."""
        self.alive.remove(member)
        self.deaths += 1
        end_process(member.actor, member.hello.node, member.hello.pid)
        log.warning("the replica at %s is gone; there are %d", member.hello.about.place, len(self.alive))
        self._start(member.elastic)

    def begin_anew(self, job: ReplicaJob) -> None:
        """Those that start from now on are replicas of this job; those that are just starting start again."""
        self.job = job
        starting, self._starting = list(self._starting.values()), {}
        for actor, elastic in starting:
            end_process(actor)
            self._start(elastic)

    def fruitless(self, why: object) -> None:
        """Something failed, and nothing came of it. Raises `PoolLost` when that was too often in a row."""
        self._fruitless += 1
        if self._fruitless > self._retries * (self._number + self._elastic):
            last = " ".join(str(why).split())[:300]
            raise PoolLost(
                f"{self._fruitless} times in a row a replica failed before anything came of it; last: {last}"
            )

    def progressed(self) -> None:
        """A step was trained or a candidate scored."""
        self._fruitless = 0

    def close(self) -> None:
        """End all processes, also those that are stopped or still starting."""
        ends = [(member.actor, member.hello.node, member.hello.pid) for member in self.alive]
        ends += [(actor, "", 0) for actor, _ in self._starting.values()]
        killers = [end_process(*end, grace=GRACE_S) for end in ends]
        self.alive.clear()
        self._starting.clear()
        elsewhere = [killer for killer in killers if killer is not None]
        if elsewhere:
            with suppress(Exception):  # Ray itself may be gone
                ray.wait(elsewhere, num_returns=len(elsewhere), timeout=END_S)


def check_alike(first: About, found: About, job: ReplicaJob, *, allow_mixed: bool) -> None:
    """Raise `UserError` for a replica that computes otherwise than the first, or on other images."""
    if found.numerics != first.numerics and not allow_mixed:
        raise UserError(
            "allow_mixed", False, f"replicas that compute as the first one ({first.numerics})",
            f"The one at {found.place} computes with {found.numerics}: its results could differ in the "
            "last bits. --set allow_mixed=true accepts that.",
        )  # fmt: skip
    if found.data != first.data:
        raise UserError(
            "data", job.data.name, "the same images on every machine",
            f"Those at {found.place.partition(':')[0]} differ from those at "
            f"{first.place.partition(':')[0]}.",
        )  # fmt: skip


def check_replicas(supernet: OneShotSettings | None, number: int, share: Share, elastic: int = 0) -> None:
    """Raise `UserError` for replicas that would have nothing to do, or that there is no room for; nobody
    promises room for elastic ones."""
    if supernet is not None and supernet.paths_per_step < number + elastic:
        field = "resources.max_workers" if elastic else "resources.workers"
        raise UserError(
            "supernet.paths_per_step", supernet.paths_per_step, f"at least the replicas ({number + elastic})",
            f"A step gives each path to one replica, so some would be idle: lower {field}.",
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
