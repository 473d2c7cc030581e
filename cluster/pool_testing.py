"""The conformance suite of pools: every pool gives what one replica in this process gives."""

from collections.abc import Callable

import torch

from cluster.messages import Scored
from cluster.pool import LocalPool, Pool
from cluster.replica import ReplicaJob
from networks.counters import counter_random
from networks.spaces.space import Genes
from searchers.searcher import Part


def check_pool(make: Callable[[], Pool], job: ReplicaJob, *, steps: int = 3, candidates: int = 12) -> None:
    """Raise AssertionError where the pool that `make` builds for `job`, which trains a supernet, breaks the
    protocol or differs in one bit from `LocalPool`."""
    pool, reference = make(), LocalPool(job)
    try:
        assert (pool.step, pool.digest()) == (0, reference.digest()), "the beginning differs"
        assert pool.about[:2] == reference.about[:2], "it computes otherwise, or on other images"
        _check_training(pool, reference, steps)
        _check_scoring(pool, reference, candidates)
        _check_state(pool, reference, steps)
        _check_resets(pool, reference, steps, candidates)
    finally:
        pool.close()
        pool.close()


def _check_training(pool: Pool, reference: LocalPool, steps: int) -> None:
    expected = reference.train(steps)
    assert pool.train(steps) == expected, "training says something else"
    assert pool.step == steps
    assert pool.digest() == reference.digest(), "the weights differ after training"
    assert pool.train(0) == reference.train(0)
    assert pool.train(1) == reference.train(1), "training goes on otherwise in a second call"


def _check_scoring(pool: Pool, reference: LocalPool, number: int) -> None:
    """In the order of submission, however they are handed in and out; failures are results."""
    some = sample(reference, number)
    illegal = (99, *some[0][1:])
    asked = [*some[: number // 2], illegal, *some[number // 2 :]]
    reference.submit(asked)
    expected = essence(reference.collect(len(asked)))
    assert expected[number // 2][1] and not expected[number // 2][0], "illegal genes must fail"
    reference.train(1)
    pool.submit(asked[:2])
    pool.submit(asked[2:])
    pool.train(1)  # the weights of submission count
    found = essence(pool.collect(1)) + essence(pool.collect(0)) + essence(pool.collect(3))
    try:
        pool.collect(len(asked))
    except IndexError:
        found += essence(pool.collect(len(asked) - 4))
    else:
        raise AssertionError("more results were given than candidates submitted")
    assert found == expected, "scores differ, or their order"
    assert pool.collect(0) == []
    parts = [Part(0, 1), Part(1, 1), None]
    for each in (pool, reference):
        for part in parts:
            each.submit(some, part)
    found, expected = (essence(each.collect(len(parts) * len(some))) for each in (pool, reference))
    assert found == expected, "scores differ on a part of the images"


def _check_state(pool: Pool, reference: LocalPool, steps: int) -> None:
    digest = pool.digest()
    tensors, values = pool.state()
    assert values["step"] == pool.step
    assert all(tensor.device.type == "cpu" for tensor in tensors.values())
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = pool.train(steps)
    further = pool.digest()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items()), "a state changed"
    try:
        pool.load_state({"supernet.nothing": torch.zeros(1)}, values)
    except (KeyError, RuntimeError):
        pool.load_state(tensors, values)
    else:
        raise AssertionError("the state of another supernet was accepted")
    assert (pool.step, pool.digest()) == (values["step"], digest), "a state does not bring it back"
    assert pool.train(steps) == expected and pool.digest() == further, "it goes on otherwise from a state"
    reference.load_state(*pool.state())
    assert reference.digest() == further, "its state means something else to another pool"
    one = sample(reference, 1)
    for each in (pool, reference):
        each.submit(one)
    assert essence(pool.collect(1)) == essence(reference.collect(1)), "scores are not of the new weights"


def _check_resets(pool: Pool, reference: LocalPool, steps: int, number: int) -> None:
    """To the first two options of each gene, then to the second of them, re-based; then to another score."""
    reference.load_state(*pool.state())
    job = reference.replica.job
    for options, rebase, names in (((0, 1), False, job.scoring.names), ((1,), True, ("params",))):
        kept = tuple(tuple(values[i] for i in options) for values in reference.replica.space.kept)
        scoring = job.scoring.model_copy(update={"names": names})
        asked = sample(reference, 2)
        for each in (pool, reference):
            each.submit(asked)  # by the scores, and in the space, of now
            each.reset(job.model_copy(update={"kept": kept, "scoring": scoring}), rebase=rebase)
        assert pool.digest() == reference.digest(), "a reset changes weights"
        assert pool.train(steps) == reference.train(steps), "it goes on otherwise in a smaller space"
        assert pool.digest() == reference.digest(), "the weights differ in a smaller space"
        asked += sample(reference, number)
        for each in (pool, reference):
            each.submit(asked[2:])
        assert essence(pool.collect(len(asked))) == essence(reference.collect(len(asked))), "scores differ"


def sample(reference: LocalPool, number: int) -> list[Genes]:
    """Candidates of the pool's space."""
    space, seed = reference.replica.space, reference.replica.job.seed
    return [space.sample(counter_random(seed, "conformance", i)) for i in range(number)]


def essence(results: list[Scored]) -> list[tuple[dict[str, float], str]]:
    """What must be the same wherever it was computed."""
    return [(result.metrics, result.reason) for result in results]
