"""A pool of actors, on the Ray that the session shares."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("ray")

import ray
import torch
from ray._private.state import actors
from ray.actor import ActorHandle
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster import members, stalls
from cluster.members import Members, PoolLost, Share, rooms
from cluster.pool import LocalPool
from cluster.pool_testing import check_pool, essence, sample
from cluster.ray_pool import RayPool
from networks.errors import UserError
from tests.cluster.hanging import HangingActor
from tests.cluster.pools import DEADLY, JOB, DeadlyActor, job_with, pids_of, runs
from trainers.data import DataSettings
from trainers.training import Diverged

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]
HALF = 0.5  # a CPU: four replicas on two
QUARTER = 0.25  # beside the two that other tests share


@pytest.fixture(scope="module")
def local() -> LocalPool:
    return LocalPool(JOB)


@pytest.fixture(scope="module")
def pair(shared_ray: None) -> Iterator[RayPool]:
    """Two replicas for all tests that leave them as they were, or as good."""
    pool = RayPool(JOB, 2, cpus=HALF)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    "replicas", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_it_conforms(replicas: int) -> None:
    pids: list[int] = []

    def make() -> RayPool:
        pool = RayPool(JOB, replicas, cpus=HALF)
        pids.extend(pids_of(pool))
        return pool

    check_pool(make, JOB)
    assert len(pids) == replicas
    wait_until(lambda: not any(runs(pid) for pid in pids), "processes of a closed pool are left")


def test_all_replicas_hold_the_same_weights(pair: RayPool, local: LocalPool) -> None:
    pair.load_state(*local.state())
    pair.train(3)
    digests = ray.get([member.actor.digest.remote() for member in pair._members.alive], timeout=30)
    assert len(digests) == 2 and set(digests) == {pair.digest()}


def test_a_loss_that_is_no_number_is_told_and_the_step_is_not_applied(
    pair: RayPool, local: LocalPool
) -> None:
    tensors, values = local.state()
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
    pair.load_state(broken, values)
    with pytest.raises(Diverged, match=f"step {pair.step};"):
        pair.train(3)
    assert pair.step == values["step"]
    pair.load_state(tensors, values)
    assert pair.digest() == local.digest()
    pair.train(1)


# Deaths -------------------------------------------------------------------------------------------


def test_survivors_go_on_and_the_dead_are_replaced(pair: RayPool, local: LocalPool) -> None:
    state = local.state()
    candidates = sample(local, 8)
    local.train(6)
    local.submit(candidates)
    expected = local.digest(), essence(local.collect(8))
    local.load_state(*state)

    pair.load_state(*state)
    pair.train(2)
    doomed, survivor = pids_of(pair)
    os.kill(doomed, signal.SIGKILL)
    pair.train(4)
    assert survivor in pids_of(pair)
    pair.submit(candidates)
    os.kill(pids_of(pair)[0], signal.SIGKILL)
    assert (pair.digest(), essence(pair.collect(8))) == expected
    settle(pair, 2)
    assert not {doomed, survivor} & set(pids_of(pair))


@pytest.mark.slow
def test_when_all_die_the_last_known_state_is_trained_again(pair: RayPool, local: LocalPool) -> None:
    state = local.state()
    local.train(5)
    expected = local.digest()
    local.load_state(*state)
    pair.load_state(*state)
    pair.train(5)
    settle(pair, 2)
    for pid in pids_of(pair):
        os.kill(pid, signal.SIGKILL)
    assert pair.digest() == expected
    assert pair.step == state[1]["step"] + 5


def settle(pool: RayPool, replicas: int) -> None:
    """Wait for the replacements, as training or scoring does in passing."""
    end = time.monotonic() + 60
    while len(pool._members.alive) < replicas:
        assert time.monotonic() < end, "no replacement came"
        pool._members.admit(0.2)
    pool.digest()  # all are brought level before


@pytest.mark.slow
def test_a_replica_that_hangs_but_answers_pings_is_replaced(
    monkeypatch: pytest.MonkeyPatch, local: LocalPool
) -> None:
    monkeypatch.setattr(members, "ReplicaActor", HangingActor)
    monkeypatch.setattr(stalls, "STALL_S", 2.0)
    state = local.state()
    expected = local.train(5), local.digest()
    local.load_state(*state)
    pool = RayPool(JOB, 2, cpus=HALF)
    try:
        pool.load_state(*state)
        _, hanging = pids_of(pool)
        started = time.monotonic()
        assert (pool.train(5), pool.digest()) == expected
        assert time.monotonic() - started < 30
        assert not runs(hanging) and pool._members.deaths == 1
    finally:
        pool.close()


@pytest.mark.slow
def test_a_candidate_that_kills_fails_alone(monkeypatch: pytest.MonkeyPatch, local: LocalPool) -> None:
    monkeypatch.setattr(members, "ReplicaActor", DeadlyActor)
    candidates = [*sample(local, 5), DEADLY, *sample(local, 9)[5:]]
    pool = RayPool(JOB, 1, retries=1)
    try:
        pool.submit(candidates)
        outcomes = pool.collect(len(candidates))
    finally:
        pool.close()
    assert [genes for genes, outcome in zip(candidates, outcomes, strict=True) if outcome.reason] == [DEADLY]
    assert outcomes[5].reason == "its process died 2 times" and outcomes[5].metrics == {}


@pytest.mark.slow
def test_it_gives_up_when_replicas_die_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSettings(name="tests.cluster.deadly:die")
    with pytest.raises(PoolLost, match="2 times in a row"):
        RayPool(JOB.model_copy(update={"data": data}), 1, retries=1)


# Refusals -----------------------------------------------------------------------------------------


def test_replicas_without_work_are_refused() -> None:
    with pytest.raises(UserError, match="idle") as caught:
        RayPool(job_with(paths_per_step=3), 4, cpus=HALF)
    assert caught.value.field == "supernet.paths_per_step"
    assert "replicas (4)" in str(caught.value)


def test_more_replicas_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(UserError, match="at most 2") as caught:
        RayPool(job_with(paths_per_step=8), 5)
    assert (caught.value.field, caught.value.value) == ("resources.workers", 5)
    with pytest.raises(UserError, match="at most 0"):
        RayPool(JOB, 1, gpus=1)
    assert rooms(Share(0.25, 0)) == 8


def other_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Every actor but the first gets these variables."""
    usual, created = Members._options, []

    def options(self: Members, elastic: bool) -> dict[str, Any]:
        created.append(1)
        later = {"runtime_env": {"env_vars": variables}} if len(created) > 1 else {}
        return {**usual(self, elastic), **later}

    monkeypatch.setattr(Members, "_options", options)


@pytest.mark.slow
def test_replicas_that_compute_otherwise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other_environment(monkeypatch, ATEN_CPU_CAPABILITY="default")
    with pytest.raises(UserError, match="last bits") as caught:
        RayPool(JOB, 2, cpus=HALF)
    assert caught.value.field == "allow_mixed"
    assert "DEFAULT" in str(caught.value)


@pytest.mark.slow
def test_other_numerics_can_be_accepted_but_other_images_never(monkeypatch: pytest.MonkeyPatch) -> None:
    other_environment(monkeypatch, ATEN_CPU_CAPABILITY="default", WEFT_TEST_IMAGES="1")
    data = DataSettings(name="tests.cluster.pools:varying")
    with pytest.raises(UserError, match="same images") as caught:
        RayPool(JOB.model_copy(update={"data": data}), 2, cpus=HALF, allow_mixed=True)
    assert caught.value.field == "data"


# Where they stand ---------------------------------------------------------------------------------


def group_of(actor: object) -> str:
    """The placement group that the process of an actor, which calls this, is in."""
    group = ray.util.get_current_placement_group()
    return "" if group is None else str(group.id.hex())


@ray.remote(num_cpus=QUARTER)
def search_in_a_trial() -> tuple[int | None, str, set[str]]:
    """How many replicas there is room for, how three are refused, and where two stand."""
    refusal = ""
    try:
        RayPool(JOB, 3, cpus=QUARTER)
    except UserError as error:
        refusal = str(error)
    pool = RayPool(JOB, 2, cpus=QUARTER)
    pool.train(1)
    calls = [member.actor.__ray_call__.remote(group_of) for member in pool._members.alive]
    groups = set(ray.get(calls, timeout=30))
    pool.close()
    return rooms(Share(QUARTER, 0)), refusal, groups


@pytest.mark.slow
def test_replicas_stand_in_the_placement_group_of_their_caller() -> None:
    """As in a trial of Tune: a process in the first bundle, its replicas in the others."""
    group = placement_group([{"CPU": QUARTER}] * 3)
    ray.get(group.ready(), timeout=60)
    try:
        place = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        call = search_in_a_trial.options(scheduling_strategy=place).remote()
        room, refusal, groups = ray.get(call, timeout=200)
    finally:
        remove_placement_group(group)
    assert room == 2 and "at most 2" in refusal
    assert groups == {group.id.hex()}


# Coming and going ---------------------------------------------------------------------------------


@ray.remote
class Other:
    """Holds CPUs for somebody else's work."""


@pytest.mark.slow
def test_spare_room_is_joined_when_it_is_there_and_changes_nothing(pair: RayPool, local: LocalPool) -> None:
    """One replica that is promised, and one that comes when others go. The pair has half of the machine."""
    state, candidates = local.state(), sample(local, 8)
    local.train(8)
    local.submit(candidates)
    expected = local.digest(), essence(local.collect(8))
    local.load_state(*state)
    settle(pair, 2)
    wait_until(lambda: ray.available_resources().get("CPU") == 2 * HALF, "earlier pools hold their share")
    other = Other.options(num_cpus=2 * HALF - QUARTER).remote()
    pool = RayPool(JOB, 1, cpus=QUARTER, elastic=1)
    try:
        pool.load_state(*state)
        pool.train(2)
        assert pool.crew == (1, 1, 0), "there was no room for more"
        ray.kill(other)
        settle(pool, 2)
        pool.train(2)
        _, came = pids_of(pool)
        os.kill(came, signal.SIGKILL)  # as when its machine goes
        pool.train(4)
        assert pool.crew.deaths == 1
        settle(pool, 2)
        pool.submit(candidates)
        assert (pool.digest(), essence(pool.collect(8))) == expected
    finally:
        pool.close()


@pytest.mark.slow
def test_the_promised_one_may_die_while_another_goes_on(local: LocalPool) -> None:
    state = local.state()
    local.train(6)
    expected = local.digest()
    local.load_state(*state)
    pool = RayPool(JOB, 1, cpus=HALF, elastic=1)
    try:
        pool.load_state(*state)
        settle(pool, 2)
        pool.train(2)
        promised, came = pids_of(pool)
        os.kill(promised, signal.SIGKILL)
        pool.train(4)
        assert came in pids_of(pool)
        assert pool.digest() == expected
    finally:
        pool.close()


@pytest.mark.slow
def test_spare_room_that_computes_otherwise_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, local: LocalPool, caplog: pytest.LogCaptureFixture
) -> None:
    other_environment(monkeypatch, ATEN_CPU_CAPABILITY="default")
    pool = RayPool(JOB, 1, cpus=HALF, elastic=1)
    try:
        wait_until(lambda: pool._members.admit(0.2) or not pool._members._starting, "it never came")
        pool.train(1)
        assert pool.crew == (1, 1, 0)
    finally:
        pool.close()
    assert "going on without one" in caplog.text and "last bits" in caplog.text


def test_more_that_come_and_go_than_paths_are_refused() -> None:
    with pytest.raises(UserError, match=r"replicas \(6\).*lower resources.max_workers") as caught:
        RayPool(job_with(paths_per_step=5), 2, cpus=HALF, elastic=4)
    assert caught.value.field == "supernet.paths_per_step"


@ray.remote(num_cpus=QUARTER)
def search_beside_a_group() -> list[str]:
    pool = RayPool(JOB, 1, cpus=QUARTER, elastic=1)
    try:
        settle(pool, 2)
        calls = [member.actor.__ray_call__.remote(group_of) for member in pool._members.alive]
        found: list[str] = ray.get(calls, timeout=30)
        return found
    finally:
        pool.close()


@pytest.mark.slow
def test_spare_room_lies_outside_of_the_placement_group() -> None:
    group = placement_group([{"CPU": QUARTER}] * 2)
    ray.get(group.ready(), timeout=60)
    try:
        place = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        call = search_beside_a_group.options(scheduling_strategy=place).remote()
        assert ray.get(call, timeout=200) == [group.id.hex(), ""]
    finally:
        remove_placement_group(group)


# Giving back --------------------------------------------------------------------------------------


def test_nothing_is_left_of_closed_and_refused_pools(pair: RayPool) -> None:
    """After all the pools of this module."""
    settle(pair, 2)
    kept = set(pids_of(pair))
    wait_until(
        lambda: {one["Pid"] for one in actors().values() if one["State"] != "DEAD"} <= kept, "actors are left"
    )


def test_processes_of_a_closed_pool_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each worker that is killed by a signal Ray tells the user that it died unexpectedly."""
    pool = RayPool(JOB, 2, cpus=QUARTER)
    pids = pids_of(pool)
    monkeypatch.setattr(os, "kill", lambda *of: pytest.fail(f"killed: {of}"))
    monkeypatch.setattr(members, "GRACE_S", 20.0)
    pool.close()
    assert not any(runs(pid) for pid in pids)


@pytest.mark.slow
def test_closing_ends_processes_that_are_stopped() -> None:
    """At once: Ray's own kill asks them first, and they do not hear; nor does one that is still starting."""
    pool = RayPool(JOB, 2, cpus=HALF)
    pids = pids_of(pool)
    try:
        os.kill(pids[0], signal.SIGSTOP)
        pool._members.bury(pool._members.alive[1])
        ((starting, _),) = pool._members._starting.values()
        wait_until(lambda: known(starting).get("Pid"), "the replacement has no process")
        pids.append(known(starting)["Pid"])
        os.kill(pids[-1], signal.SIGSTOP)
    finally:
        pool.close()
    try:
        wait_until(lambda: not any(runs(pid) for pid in pids), "they are left to Ray, for five seconds", 2)
    finally:
        for pid in filter(runs, pids):
            os.kill(pid, signal.SIGKILL)


def known(actor: ActorHandle) -> dict[str, Any]:
    """What Ray knows of an actor; nothing at first."""
    return dict(actors(actor._ray_actor_id.hex()))


def wait_until(true: Callable[[], object], otherwise: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)
