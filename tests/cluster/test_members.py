"""Answers, hangs and ends of a pool's replicas, without a Ray."""

import subprocess
import sys
import time
from typing import Any

import pytest

pytest.importorskip("ray")

import ray
import torch
from ray import exceptions
from torch import Tensor

from cluster import actors, replica_actor
from cluster.actors import Died, answer, kill
from cluster.members import check_alike
from cluster.messages import About, Pulse
from cluster.process_group import Lost, Seat
from cluster.replica import Replica
from cluster.replica_actor import ReplicaActor
from cluster.stalls import Clock, Timed, Usual, hangs, stuck
from networks.errors import UserError
from tests.cluster.pools import JOB

# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("gone", None),
        exceptions.OutOfMemoryError("the memory monitor"),
        exceptions.NodeDiedError("its machine"),
        exceptions.ActorUnschedulableError("no room"),
        exceptions.ObjectLostError("00", None, ""),
        exceptions.OwnerDiedError("00", None, ""),
        exceptions.GetTimeoutError("never read"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_nobodys_error_is_a_death(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(ref: object, timeout: float) -> Any:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(Died, match=type(error).__name__):
        answer(None)


def test_an_error_of_the_users_code_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(ref: object, timeout: float) -> Any:
        raise exceptions.RayTaskError("train", "", ZeroDivisionError("theirs"))

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ZeroDivisionError, match="theirs"):
        answer(None)


# Hanging or slow ----------------------------------------------------------------------------------

STEPS = Usual(0.5, {"train": 0.6})
SLOW_STEPS = Usual(4.0, {"train": 40.0})
CANDIDATES = Usual(2.0, {"score": 9.0})
NOTHING = Usual()


@pytest.mark.parametrize(
    ("task", "working", "waited", "warm", "usual", "hanging"),
    [
        ("train", 11, 11, True, STEPS, True),
        ("train", 9, 9, True, STEPS, False),  # ten seconds are borne
        ("train", 11, 2, True, STEPS, False),  # the others were as late as this one until now
        ("train", 2, 11, True, STEPS, False),  # what the others wait for is on its way
        ("train", 19, 19, True, SLOW_STEPS, False),  # five median steps
        ("train", 21, 21, True, SLOW_STEPS, True),
        ("train", 59, 59, False, STEPS, False),  # the first share of a replica
        ("train", 61, 61, False, STEPS, True),
        ("train", 599, 0, True, STEPS, False),  # nobody to compare with
        ("train", 601, 0, True, STEPS, True),
        ("train", 799, 0, True, SLOW_STEPS, False),
        ("train", 801, 0, True, SLOW_STEPS, True),
        ("train", 3599, 0, False, NOTHING, False),
        ("train", 3601, 0, False, NOTHING, True),
        ("score", 179, 179, True, CANDIDATES, False),  # 20 times the slowest
        ("score", 181, 0, True, CANDIDATES, True),
        ("score", 61, 0, True, Usual(0.1, {"score": 0.2}), True),
        ("score", 3599, 3599, True, NOTHING, False),  # the first candidate of all
        ("state", 3599, 3599, True, STEPS, False),
        ("", 0, 9999, True, STEPS, False),
    ],
)
def test_who_hangs(task: str, working: float, waited: float, warm: bool, usual: Usual, hanging: bool) -> None:
    assert hangs(Pulse(task, working), waited, warm, usual) == hanging


def test_an_exchange_is_stuck_when_all_wait_for_it() -> None:
    long, short, busy = Pulse("train", 0, 61, 3), Pulse("train", 0, 59, 3), Pulse("train", 61, 0, 3)
    assert stuck([long, long], STEPS)
    assert not stuck([long, short], STEPS)
    assert not stuck([long, busy], STEPS)
    assert not stuck([long, long], SLOW_STEPS)
    assert not stuck([long, long], NOTHING)  # buffers of unknown size on a network of unknown speed
    assert not stuck([long], STEPS)


def test_the_slowest_of_each_task_is_remembered() -> None:
    usual = Usual()
    usual.heard("train", 0.5, 0.9)
    usual.heard("score", 3.0, 7.0)
    usual.heard("train", 0.4, 0.7)
    assert usual == Usual(0.4, {"train": 0.9, "score": 7.0})
    assert usual.patience == 10
    usual.heard("score", 3.0, 7.0)
    assert usual.patience == 15


class Waiting:
    rank, size = 0, 2

    def __init__(self, clock: Clock) -> None:
        self.seen = Pulse()
        self._clock = clock

    def gather(self, own: list[Tensor], sizes: list[int], owners: list[int]) -> list[Tensor]:
        time.sleep(0.02)
        self.seen = self._clock.pulse(7)
        raise Lost("gone")


def test_a_clock_tells_work_from_waiting() -> None:
    clock = Clock()
    assert clock.pulse(7) == Pulse("", 0, 0, 7)
    group = Waiting(clock)
    with clock.task("train"):
        time.sleep(0.02)
        before = clock.pulse(7)
        with pytest.raises(Lost):
            Timed(group, clock).gather([torch.zeros(1)], [1, 1], [0, 1])
        after = clock.pulse(7)
    assert before.working >= 0.02 and before.waiting == 0
    assert group.seen.waiting >= 0.02 and group.seen.working == 0
    assert after.task == "train" and after.working < 0.02 and after.waiting == 0
    assert clock.pulse(7) == Pulse("", 0, 0, 7)


# Told to leave ------------------------------------------------------------------------------------


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> ReplicaActor:
    """In this process."""
    actor = ReplicaActor()
    actor._replica = Replica(JOB)
    return actor


def test_who_was_told_to_leave_before_it_came_does_not_join(actor: ReplicaActor) -> None:
    actor.leave(5)
    started = time.monotonic()
    trained = actor.train(Seat(5, 0, 2, "127.0.0.1", 1), 2)
    assert (trained.lost, trained.losses, trained.step) == ("told to leave", (), 0)
    assert time.monotonic() - started < 5
    assert actor.train(Seat(6, 0, 1, "", 0), 1).losses, "the next generation is another matter"


def test_who_is_told_to_leave_while_it_joins_does_not_train(
    actor: ReplicaActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Joined:
        rank, size = 0, 2

    def join(seat: Seat) -> Joined:
        actor.leave(seat.generation)  # on the other thread, while this one is here
        return Joined()

    monkeypatch.setattr(replica_actor, "join", join)
    assert actor.train(Seat(5, 0, 2, "", 0), 2).lost == "told to leave"
    assert actor._group is None


# Others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "other"), [("AVX2, 1 thread", "AVX2, 2 threads"), ("AVX512, 1 thread", "AVX2, 1 thread")]
)
def test_a_replica_that_computes_otherwise_is_refused(first: str, other: str) -> None:
    """Another number of threads or other instructions: the message names both."""
    reference, found = About(first, "d", "one:1"), About(other, "d", "two:2")
    check_alike(reference, reference, JOB, allow_mixed=False)
    with pytest.raises(UserError, match="last bits") as caught:
        check_alike(reference, found, JOB, allow_mixed=False)
    assert caught.value.field == "allow_mixed"
    assert f"({first})" in str(caught.value) and f"two:2 computes with {other}" in str(caught.value)
    check_alike(reference, found, JOB, allow_mixed=True)
    with pytest.raises(UserError, match="differ from those at one"):
        check_alike(reference, About(other, "e", "two:2"), JOB, allow_mixed=True)


def test_a_replica_sets_its_threads_itself() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert ", 1 thread, " in Replica(JOB).about.numerics
    finally:
        torch.set_num_threads(before)


def test_only_workers_of_ray_are_killed() -> None:
    """By the time that a death is told, the number may be another process's."""
    wait = "import sys; print(flush=True); sys.stdin.read()"
    for title, killed in (("something", False), ("ray::ReplicaActor", True)):
        command = [sys.executable, "-c", wait, title]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # until it runs, it bears the name of this process
            kill(process.pid)
            if killed:
                assert process.wait(10) == -9
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)
                assert process.stdin is not None
                process.stdin.close()
    kill(process.pid)  # there is none now


def test_a_process_that_ends_by_itself_is_not_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)", "ray::"]) as process:
        kill(process.pid, grace=20)
        assert process.wait(10) == 0


def test_a_process_is_killed_where_ray_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*of: object) -> None:
        raise RuntimeError("Ray is gone")

    monkeypatch.setattr(ray, "kill", gone)
    monkeypatch.setattr(actors, "actors", gone)
    assert actors.end_process(object()) is None
    killed: list[int] = []
    monkeypatch.setattr(actors, "kill", lambda pid, grace: killed.append(pid))
    monkeypatch.setattr(
        ray, "get_runtime_context", lambda: type("Here", (), {"get_node_id": lambda s: "n"})()
    )
    actors.end_process(object(), "n", 12)
    assert killed == [12]
