"""What every data set is to those who train on it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from networks.architecture import Shape

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Batch = tuple[Tensor, Tensor]


@runtime_checkable
class Data(Protocol):
    """Labelled images in three splits. Held to `trainers.data.testing.check_data`.

    Batches are (x, y): x float32 N x C x H x W, normalised by mean and standard deviation of the training
    split; y int64 N, a position in `classes`. `digest` names content and split.
    """

    @property
    def image(self) -> Shape: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def sizes(self) -> Mapping[Split, int]: ...

    @property
    def digest(self) -> str: ...

    def to(self, device: torch.device | str) -> Self:
        """The same data, with batches on this device."""
        ...

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in the training split. `UserError` where the batch is larger than the split."""
        ...

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """The augmented batch of one training step, a function of its arguments alone.

        Epoch e holds the steps from e * steps_per_epoch on, and every image at most once. Its order comes
        from the counters (seed, "epoch", e), the augmentation from (seed, "augment", step).
        """
        ...

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """All images of a split, in order and not augmented; the last batch may be smaller. `UserError`
        where the split is empty."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """Data that gains from knowing which training batches come next."""

    def read_ahead(self, seed: int, steps: Sequence[int], batch_size: int) -> None:
        """These steps are asked for next, in this order; what was announced before and is not among them is
        forgotten. Changes no batch: one that was not announced is read when it is asked for."""
        ...


@runtime_checkable
class Relabelled(Protocol):
    """Data whose training labels can be replaced; every set that comes with weft is such."""

    def with_random_labels(self, seed: int) -> Data:
        """The same images, the training labels drawn once, i.i.d. uniform, from (seed, "labels"). The
        other splits keep theirs. The digest differs."""
        ...
