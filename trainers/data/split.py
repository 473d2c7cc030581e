"""Which images train, which validate and which test: a seeded rule that keeps the classes' shares.

The images of each class are shuffled by the counters (seed, path). Image number r (from 0) of a class of m
gets the place (r + 1/2) / m, and all images are ordered by place; equal places are ordered by the
shuffle. Every stretch of this order holds the classes in nearly their own shares, so the first images are
the test split, the next the validation split, and the rest trains.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from networks.counters import counter_generator
from networks.errors import UserError
from trainers.data.data import Split
from trainers.data.settings import DataSettings

DEFAULT_SHARE = 0.1


class Chosen(NamedTuple):
    """The images of one split: positions (ascending) in one part that the set brings."""

    part: Split
    positions: Tensor


def stratified_order(labels: Tensor, seed: int, *path: int | str) -> Tensor:
    """All positions, ordered by the rule above. `labels` is int64 N."""
    shuffle = torch.randperm(len(labels), generator=counter_generator(seed, *path))
    by_class = shuffle[torch.sort(labels[shuffle], stable=True).indices]
    counts = torch.bincount(labels)
    rank = torch.arange(len(labels)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    place = torch.empty(len(labels), dtype=torch.float64)
    place[by_class] = (rank.double() + 0.5) / counts[labels[by_class]]
    return shuffle[torch.sort(place[shuffle], stable=True).indices]


def choose_splits(
    own: Mapping[Split, Tensor], classes: Sequence[str], settings: DataSettings
) -> dict[Split, Chosen]:
    """The three splits of a set. `own` gives the labels of each part that the set brings; ``train`` must be
    there, and what is not there is taken from it.

    Raises `UserError` for an empty class, no validation images, shares that leave nothing to train on, and
    a share for a split that the set brings itself.
    """
    kept = {part: _limited(labels, settings, part) for part, labels in own.items()}
    pool = kept["train"]
    _check_classes(own["train"], pool, classes, settings)
    order = pool[stratified_order(own["train"][pool], settings.split_seed, "split")]
    splits: dict[Split, Chosen] = {}
    taken = 0
    asked: tuple[tuple[Split, float | int | None], ...] = (
        ("test", settings.test),
        ("validation", settings.validation),
    )
    for split, share in asked:
        if split in own:
            if share is not None:
                raise UserError(split, share, "nothing", f"This set brings its own {split} images.")
            splits[split] = Chosen(split, kept[split])
            continue
        count = _count(share, len(pool))
        splits[split] = Chosen("train", order[taken : taken + count].sort().values)
        taken += count
    if not len(splits["validation"].positions):
        raise UserError(
            "validation",
            settings.validation,
            "a share or count that gives at least one of the training images",
            f"There are {len(pool)} to take it from.",
        )
    splits["train"] = Chosen("train", order[taken:].sort().values)
    _check_training(own["train"][splits["train"].positions], len(pool), classes, settings)
    return splits


def _limited(labels: Tensor, settings: DataSettings, part: Split) -> Tensor:
    if settings.limit is None:
        return torch.arange(len(labels))
    return stratified_order(labels, settings.split_seed, "limit", part)[: settings.limit].sort().values


def _count(share: float | int | None, images: int) -> int:
    share = DEFAULT_SHARE if share is None else share
    return share if isinstance(share, int) else round(share * images)


def _check_classes(labels: Tensor, pool: Tensor, classes: Sequence[str], settings: DataSettings) -> None:
    if (empty := _empty_class(labels, classes)) is not None:
        raise UserError("path", _place(settings), "a set with images of every class", f"{empty!r} has none.")
    if (empty := _empty_class(labels[pool], classes)) is not None:
        raise UserError(
            "limit", settings.limit, "enough for an image of every class", f"{empty!r} would have none."
        )


def _check_training(labels: Tensor, pool: int, classes: Sequence[str], settings: DataSettings) -> None:
    if (empty := _empty_class(labels, classes)) is None:
        return
    shares = {"validation": settings.validation, "test": settings.test}
    given = {split: share for split, share in shares.items() if share is not None}
    field = max(given, key=lambda split: _count(given[split], pool), default="validation")
    raise UserError(
        field,
        shares[field],
        f"shares that leave an image of every class for training, of {pool}",
        f"{empty!r} would have none.",
    )


def _empty_class(labels: Tensor, classes: Sequence[str]) -> str | None:
    empty = torch.bincount(labels, minlength=len(classes)) == 0
    return classes[int(empty.int().argmax())] if bool(empty.any()) else None


def _place(settings: DataSettings) -> str:
    return ", ".join(map(str, settings.paths)) or settings.name
