"""The conformance suite for data sets: ours pass it, and a user's own can be held to it."""

import torch

from networks.errors import UserError
from trainers.data.data import SPLITS, Batch, Data


def check_data(data: Data, batch_size: int = 4) -> None:
    """Raise AssertionError where `data` breaks a promise of `trainers.data.Data`."""
    assert isinstance(data, Data)
    assert len(set(data.classes)) == len(data.classes) >= 2
    assert data.digest and isinstance(data.digest, str)
    assert data.sizes["train"] >= batch_size and data.sizes["validation"] >= 1
    steps = data.steps_per_epoch(batch_size)
    assert steps == data.sizes["train"] // batch_size
    for asked in (data.steps_per_epoch, lambda size: data.train_batch(0, 0, size)):
        try:
            asked(data.sizes["train"] + 1)
        except UserError:
            continue
        raise AssertionError("a batch larger than the training split must be refused")
    _check_steps(data, steps, batch_size)
    for split in SPLITS:
        if data.sizes[split]:
            batches = list(data.batches(split, batch_size))
            _check_batches(data, batches)
            assert [len(y) for _, y in batches[:-1]] == [batch_size] * (len(batches) - 1)
            assert sum(len(y) for _, y in batches) == data.sizes[split]
            assert all(map(_same, batches, data.batches(split, batch_size))), "batches must not change"


def _check_steps(data: Data, steps: int, batch_size: int) -> None:
    """A step is a function of (seed, step): it does not matter what was asked for before."""
    asked = [(0, 0), (0, 1), (0, 2), (1, 0), (0, steps)]
    first = {key: data.train_batch(*key, batch_size) for key in asked}
    _check_batches(data, list(first.values()))
    assert all(len(y) == batch_size for _, y in first.values())
    for key in reversed(asked):
        assert _same(first[key], data.train_batch(*key, batch_size)), f"step {key} differs when asked again"
    for other in ((1, 0), (0, steps)):
        assert not _same(first[0, 0], first[other]), "seeds and epochs must have orders of their own"
    moved = data.to("cpu")
    assert moved.digest == data.digest and _same(first[0, 1], moved.train_batch(0, 1, batch_size))


def _check_batches(data: Data, batches: list[Batch]) -> None:
    for x, y in batches:
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.shape == (len(y), *data.image) and bool(x.isfinite().all())
        assert int(y.min()) >= 0 and int(y.max()) < len(data.classes)


def _same(one: Batch, two: Batch) -> bool:
    return torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
