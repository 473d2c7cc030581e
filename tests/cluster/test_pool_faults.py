"""What goes wrong with replicas, each at its moment: a `RayPool` on actors that are threads."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorUnschedulableError, OutOfMemoryError

from cluster import ray_pool, stalls
from cluster.members import PoolLost
from cluster.pool import LocalPool
from cluster.pool_testing import check_pool, essence, sample
from cluster.process_group import Lost
from cluster.ray_pool import RayPool
from networks.errors import UserError
from tests.cluster.fake_ray import FakeActor, FakeRay, install
from tests.cluster.pools import JOB


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    fake = install(monkeypatch)
    yield fake
    for actor in fake.actors:  # none of them may meet the real Ray
        actor.join()


@pytest.fixture(scope="module")
def local() -> LocalPool:
    return LocalPool(JOB)


@pytest.fixture(scope="module")
def digests(local: LocalPool) -> list[str]:
    """After each step, undisturbed."""
    state = local.state()
    found = [local.digest()]
    for _ in range(6):
        local.train(1)
        found.append(local.digest())
    local.load_state(*state)
    return found


@pytest.fixture
def pool(fake: FakeRay) -> Iterator[RayPool]:
    """Of one replica."""
    pool = RayPool(JOB, 1, retries=1)
    yield pool
    pool.close()


def at(name: str, number: int, act: Callable[[FakeActor], None]) -> Callable[[FakeActor, str], None]:
    """For `FakeRay.before`: act on who is called by this name for the number-th time, counted over all."""
    count = [0]

    def before(actor: FakeActor, called: str) -> None:
        count[0] += called == name
        if called == name and count[0] == number:
            act(actor)

    return before


def test_actors_that_are_threads_conform(fake: FakeRay) -> None:
    """The fake is like Ray as far as the pool sees."""
    check_pool(lambda: RayPool(JOB, 2), JOB)


# Deaths -------------------------------------------------------------------------------------------


def test_a_newcomers_state_never_replaces_one_that_is_further(
    fake: FakeRay, pool: RayPool, digests: list[str]
) -> None:
    pool.train(3)
    pool.state()
    pool._snapshot_due = 0.0
    fake.before = at("train", 1, FakeActor.die)
    pool.train(1)
    assert len(fake.actors) == 2
    assert min(pool._losses) == 3, "steps that a snapshot holds are trained again"
    assert pool._snapshot is not None and pool._snapshot.step >= 3
    assert pool.digest() == digests[4]


@pytest.mark.parametrize("call", ["setup", "train", "score", "state", "digest", "load_state"])
def test_a_process_without_memory_is_a_death(
    call: str, fake: FakeRay, local: LocalPool, digests: list[str]
) -> None:
    fake.before = at(call, 1, lambda actor: actor.die(OutOfMemoryError("the memory monitor")))
    candidates = sample(local, 3)
    with closing(RayPool(JOB, 1)) as pool:
        pool.load_state(*local.state())
        pool.train(2)
        pool.state()
        pool.submit(candidates)
        found = essence(pool.collect(3))
        assert pool.digest() == digests[2]
    assert len(fake.actors) == 2 and set(fake.actors) == set(fake.killed)
    state = local.state()
    local.train(2)
    local.submit(candidates)
    assert found == essence(local.collect(3))
    local.load_state(*state)


def test_it_gives_up_where_no_replica_finds_room(fake: FakeRay) -> None:
    fake.before = lambda actor, name: actor.die(ActorUnschedulableError("no such node"))
    with pytest.raises(PoolLost, match=r"ActorUnschedulableError.*no such node"):
        RayPool(JOB, 1, retries=2)
    assert set(fake.actors) == set(fake.killed)


def test_an_actor_that_cannot_start_is_ended(fake: FakeRay) -> None:
    data = JOB.data.model_copy(update={"name": "nothing_of_the_kind"})
    with pytest.raises(UserError):
        RayPool(JOB.model_copy(update={"data": data}), 2)
    assert len(fake.killed) == 2


def test_what_was_scored_before_a_death_is_read_and_the_next_is_charged(
    fake: FakeRay, local: LocalPool
) -> None:
    """It died while its state was awaited, with one candidate done, one begun and one waiting."""
    candidates = sample(local, 3)
    with closing(RayPool(JOB, 1, retries=0)) as pool:
        fake.before = at("score", 2, FakeActor.die)
        pool.submit(candidates)
        pool.state()
        found = pool.collect(3)
    assert [result.reason for result in found] == ["", "its process died 1 times", ""]


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
def test_the_others_leave_when_one_fails(told: bool, fake: FakeRay, digests: list[str]) -> None:
    """As NCCL needs, which notices nothing by itself. An error of a step is told in the answer; others end
    the call."""
    pool = RayPool(JOB, 2)
    left: list[FakeActor] = []

    def fail(*of: object) -> None:
        raise ZeroDivisionError("of a data set")

    def before(actor: FakeActor, name: str) -> None:
        left.extend([actor] * (name == "leave"))
        if name == "train" and actor is fake.actors[0]:
            replica = actor._instance._replica
            if told:
                replica.trainer.contribution = fail
            else:
                actor._instance.train = fail

    try:
        pool.train(1)
        fake.before = before
        with pytest.raises(ZeroDivisionError):
            pool.train(2)
        assert fake.actors[1] in left
        fake.before = lambda actor, name: None
        failing = fake.actors[0]._instance
        if told:
            del failing._replica.trainer.contribution
        else:
            del failing.train
        pool.train(2)
        assert pool.digest() == digests[3]
    finally:
        pool.close()


# Hangs --------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Tenths of a second for seconds and more. The event ends what hangs, after the test."""
    for name, seconds in (("STALL_S", 0.5), ("FIRST_S", 0.6), ("SLOWEST", 1)):
        monkeypatch.setattr(stalls, name, seconds)
    monkeypatch.setattr(stalls, "FLOORS", {"train": 1.5, "score": 1.5})
    event = threading.Event()
    yield event
    event.set()


def hang(event: threading.Event) -> None:
    """Until the test is over; then give the thread back."""
    event.wait(60)
    raise RuntimeError("the test is over")


def hang_at_step(step: int, event: threading.Event) -> Callable[[FakeActor], None]:
    """Make an actor hang at its share of a step, while it answers pings."""

    def act(actor: FakeActor) -> None:
        trainer = actor._instance._replica.trainer
        contribution = trainer.contribution

        def hanging(path: int) -> object:
            if trainer.step == step:
                hang(event)
            return contribution(path)

        trainer.contribution = hanging

    return act


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("step", [0, 2])
def test_a_replica_that_hangs_in_training_is_replaced(
    replicas: int, step: int, fake: FakeRay, digests: list[str], impatient: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One of two because the other waits for it; one alone because it takes far longer than it did."""
    if replicas == 1:
        monkeypatch.setattr(stalls, "UNKNOWN_S", 1.5)
    else:
        monkeypatch.setattr(stalls, "FLOORS", {"train": 60.0})
    with closing(RayPool(JOB, replicas)) as pool:
        fake.before = at("train", 1, hang_at_step(step, impatient))
        pool.train(2)
        pool.train(2)
        assert pool.digest() == digests[4]
        assert pool._members.deaths == 1


def test_a_replica_that_hangs_after_the_last_exchange_is_replaced(
    fake: FakeRay, digests: list[str], impatient: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits in an exchange then; but the other one is back from the call."""
    monkeypatch.setattr(stalls, "FLOORS", {"train": 60.0})
    with closing(RayPool(JOB, 2)) as pool:
        pool.train(2)
        trainer = fake.actors[0]._instance._replica.trainer
        trainer.apply = lambda *of: hang(impatient)
        pool.train(1)
        assert pool.digest() == digests[3]
        assert pool._members.deaths == 1


def test_a_replica_that_hangs_over_a_candidate_is_replaced(
    fake: FakeRay, local: LocalPool, impatient: threading.Event
) -> None:
    pool = RayPool(JOB, 2)
    candidates = sample(local, 8)

    def act(actor: FakeActor) -> None:
        actor._instance._replica.score = lambda candidates, part: hang(impatient)

    try:
        fake.before = at("score", 3, act)
        pool.submit(candidates)
        found = essence(pool.collect(8))
        assert pool._members.deaths == 1
    finally:
        pool.close()
    local.submit(candidates)
    assert found == essence(local.collect(8))


def test_replicas_that_are_slow_together_are_left_alone(
    fake: FakeRay, digests: list[str], impatient: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are held up twice as long as one alone would be."""
    monkeypatch.setattr(stalls, "FLOORS", {"train": 20.0})
    with closing(RayPool(JOB, 2)) as pool:
        pool.train(1)
        for actor in fake.actors:
            trainer = actor._instance._replica.trainer
            contribution = trainer.contribution

            def slow(path: int, contribution: Callable[[int], object] = contribution) -> object:
                time.sleep(0.5)  # of two paths: 1 s for a share
                return contribution(path)

            trainer.contribution = slow
        pool.train(1)
        assert pool._members.deaths == 0
        assert pool.digest() == digests[2]


def test_members_that_wait_for_each_other_in_vain_meet_again(
    fake: FakeRay, digests: list[str], impatient: threading.Event
) -> None:
    """Their exchange never ends, though all are there."""
    with closing(RayPool(JOB, 2)) as pool:
        pool.train(1)
        for actor in fake.actors:
            group = actor._instance._group
            left = threading.Event()
            group.leave = left.set

            def gather(*of: object, left: threading.Event = left) -> None:
                assert left.wait(20)
                raise Lost("told to leave")

            group.gather = gather
        pool.train(1)
        assert pool._members.deaths == 0
        assert pool.digest() == digests[2]


# The end ------------------------------------------------------------------------------------------


def test_a_meeting_that_cannot_be_held_leaves_no_replicas(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meeting(host: str) -> None:
        raise OSError("no port is free")

    monkeypatch.setattr(ray_pool, "Meeting", meeting)
    with pytest.raises(OSError, match="no port"):
        RayPool(JOB, 2)
    assert set(fake.actors) == set(fake.killed)


def test_replacements_that_are_starting_are_ended_too(fake: FakeRay, pool: RayPool) -> None:
    release = threading.Event()
    fake.before = at("setup", 1, lambda actor: release.wait(20) and None)
    pool.train(1)
    pool._members.bury(pool._members.alive[0])
    pool.close()
    release.set()
    assert len(fake.actors) == 2 and set(fake.actors) == set(fake.killed)
