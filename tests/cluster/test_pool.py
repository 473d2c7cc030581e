import math

import pytest
import torch

from cluster.dispatch import CALL_S, Chunk, Dispatch
from cluster.messages import Scored
from cluster.pool import LocalPool
from cluster.pool_testing import check_pool
from cluster.process_group import padded, separated
from tests.cluster.pools import JOB, job_with
from trainers.group import Alone, shares
from trainers.training import Diverged


def test_the_local_pool_conforms() -> None:
    check_pool(lambda: LocalPool(JOB), JOB)


def test_a_loss_that_is_no_number_stops_training_before_the_step() -> None:
    pool = LocalPool(job_with(lr=1e30))
    with pytest.raises(Diverged, match="step"):
        pool.train(40)
    assert 0 < pool.step < 40


# Who computes which path --------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_every_member_has_work(members: int) -> None:
    owners = shares([5, 1, 1, 3, 2, 2], members)
    assert set(owners) == set(range(members))


def test_the_largest_work_is_given_out_first() -> None:
    assert shares([1, 9, 4, 4], 2) == [1, 0, 1, 1]
    assert shares([2, 2, 2, 2], 2) == [0, 1, 0, 1]


def test_rows_are_put_together_in_path_order() -> None:
    sizes, owners = [2, 3, 1, 2], [1, 0, 0, 1]
    buffers = [torch.full((size,), float(path)) for path, size in enumerate(sizes)]
    shared = [[buffers[path] for path in range(4) if owners[path] == member] for member in (0, 1)]
    rows = [padded(own, sizes, owners, 2) for own in shared]
    assert [len(row) for row in rows] == [4, 4]
    assert all(map(torch.equal, separated(rows, sizes, owners), buffers))
    assert Alone().gather(buffers, sizes, [0] * 4) == buffers


# Handing candidates out ---------------------------------------------------------------------------


def result(number: int, seconds: float = 0.01) -> Scored:
    return Scored({"score": float(number)}, "", seconds, "here")


def results_of(chunk: Chunk, seconds: float = 0.01) -> list[Scored]:
    return [result(genes[0], seconds) for genes in chunk.candidates]


def filled(number: int, retries: int = 3) -> Dispatch:
    dispatch = Dispatch(retries)
    dispatch.submit([(i,) for i in range(number)])
    return dispatch


def chunk_of(dispatch: Dispatch, replicas: int = 2) -> Chunk:
    chunk = dispatch.next_chunk(replicas)
    assert chunk is not None
    return chunk


def test_results_leave_in_the_order_of_submission() -> None:
    dispatch = filled(3)
    first, second, third = (chunk_of(dispatch) for _ in range(3))
    assert dispatch.next_chunk(2) is None
    dispatch.done(third, results_of(third))
    dispatch.done(first, results_of(first))
    assert dispatch.ready(1) and not dispatch.ready(2)
    assert dispatch.take(1) == [result(0)]
    dispatch.done(second, results_of(second))
    assert dispatch.ready(2) and not dispatch.ready(3) and not dispatch.outstanding
    assert dispatch.take(2) == [result(1), result(2)]
    assert dispatch.queued == 0


@pytest.mark.parametrize(
    ("seconds", "length"),
    [(1e-6, math.ceil(99 / 4)), (0.05, round(CALL_S / 0.05)), (0.2, 2), (2 * CALL_S, 1)],
)
def test_chunks_are_sized_by_measured_seconds_and_by_what_is_left(seconds: float, length: int) -> None:
    dispatch = filled(100)
    first = chunk_of(dispatch)
    assert len(first.numbers) == 1, "nothing is measured yet"
    dispatch.done(first, results_of(first, seconds))
    assert len(chunk_of(dispatch).numbers) == length


def test_more_replicas_get_smaller_chunks_of_what_is_left() -> None:
    dispatch = measured(40, retries=0)
    assert [len(chunk_of(dispatch, replicas).numbers) for replicas in (2, 2, 16)] == [10, 8, 1]


def test_what_nobody_began_keeps_its_place() -> None:
    dispatch = filled(2)
    first, second = chunk_of(dispatch), chunk_of(dispatch)
    dispatch.returned(second)
    dispatch.returned(first)
    assert [chunk_of(dispatch) for _ in range(2)] == [first, second]


def measured(number: int, retries: int) -> Dispatch:
    """One whose next chunk has several candidates."""
    dispatch = filled(number + 1, retries)
    first = chunk_of(dispatch)
    dispatch.done(first, results_of(first))
    return dispatch


def test_a_candidate_is_blamed_only_when_it_was_alone() -> None:
    dispatch = measured(8, retries=1)
    chunk = chunk_of(dispatch, replicas=1)
    assert chunk.numbers == (1, 2, 3, 4)
    dispatch.died(chunk, "there")
    deadly = 2
    while (one := dispatch.next_chunk(1)) is not None and one.numbers[0] <= 4:
        assert len(one.numbers) == 1, "what a process died of goes alone"
        if one.numbers[0] == deadly:
            dispatch.died(one, "there")
        else:
            dispatch.done(one, results_of(one))
    assert one is not None and len(one.numbers) > 1
    assert dispatch.ready(5)
    outcomes = dispatch.take(5)
    assert [bool(outcome.reason) for outcome in outcomes] == [False, False, True, False, False]
    assert outcomes[deadly] == Scored({}, "its process died 2 times", 0.0, "there")


def test_without_retries_the_first_death_alone_is_the_last() -> None:
    dispatch = filled(1, retries=0)
    dispatch.died(chunk_of(dispatch), "there")
    assert not dispatch.outstanding
    assert dispatch.take(1)[0].reason == "its process died 1 times"
