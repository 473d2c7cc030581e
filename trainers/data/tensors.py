"""Small data sets: all images lie on the device as uint8, and batches are made there."""

import copy
import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from networks.architecture import Shape, canonical_json, digest_of
from networks.errors import UserError
from trainers.data.augment import check_augment
from trainers.data.data import SPLITS, Batch, Split
from trainers.data.drawing import EpochOrder, Normaliser, full_steps, random_labels, slices, vary
from trainers.data.settings import DataSettings
from trainers.data.split import choose_splits


class Images(Protocol):
    """uint8 N x C x H x W: a tensor, or images that become one when they are taken."""

    def __getitem__(self, index: Tensor, /) -> Tensor: ...


class Part(NamedTuple):
    """One part that a set brings; labels int64 N."""

    images: Images
    labels: Tensor


class Held(NamedTuple):
    """One split in memory: images uint8 N x C x H x W, labels int64 N."""

    images: Tensor
    labels: Tensor


class Source(NamedTuple):
    """A set as it was read, before it is split: the parts that it brings."""

    classes: tuple[str, ...]
    parts: dict[Split, Part]


class TensorData:
    """A `Data` in memory. The digest covers pixels, labels, classes and split."""

    def __init__(self, source: Source, settings: DataSettings) -> None:
        self.classes = source.classes
        self._augment = settings.augment
        chosen = choose_splits(
            {part: read.labels for part, read in source.parts.items()}, self.classes, settings
        )
        self._splits: dict[Split, Held] = {}
        for split in SPLITS:
            part, positions = chosen[split]
            images, labels = source.parts[part]
            self._splits[split] = Held(images[positions], labels[positions])
        train = self._splits["train"].images
        self.image = Shape(*train.shape[1:])
        _check_shapes(self._splits)
        check_augment(self._augment, self.image)
        self.sizes: dict[Split, int] = {split: len(held.labels) for split, held in self._splits.items()}
        self.digest = _digest(self.classes, self._splits)
        self._normalise = Normaliser.of(train)
        self._order = EpochOrder(self.sizes["train"])

    def to(self, device: torch.device | str) -> Self:
        moved = copy.copy(self)
        moved._splits = {
            split: Held(images.to(device), labels.to(device))
            for split, (images, labels) in self._splits.items()
        }
        moved._normalise = self._normalise.to(device)
        moved._order = EpochOrder(self.sizes["train"], device)
        return moved

    def with_random_labels(self, seed: int) -> Self:
        train = self._splits["train"]
        labels = random_labels(self.sizes["train"], len(self.classes), seed).to(train.labels.device)
        other = copy.copy(self)
        other._splits = {**self._splits, "train": train._replace(labels=labels)}
        other.digest = digest_of([self.digest, "random labels", seed])
        other._order = EpochOrder(self.sizes["train"], train.labels.device)
        return other

    def steps_per_epoch(self, batch_size: int) -> int:
        return full_steps(self.sizes["train"], batch_size)

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        images, labels = self._splits["train"]
        index = self._order.batch(seed, step, batch_size)
        return vary(images[index], self._normalise, self._augment, seed, step), labels[index]

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        images, labels = self._splits[split]
        stretches = slices(split, len(labels), batch_size)
        return ((self._normalise(images[stretch]), labels[stretch]) for stretch in stretches)


def _check_shapes(splits: dict[Split, Held]) -> None:
    """Encoded images show their size only now."""
    shapes = {split: tuple(held.images.shape[1:]) for split, held in splits.items() if len(held.labels)}
    if len(set(shapes.values())) > 1:
        raise UserError("image_size", None, "a size, for a set whose parts differ", f"They have {shapes}.")


def _digest(classes: tuple[str, ...], splits: dict[Split, Held]) -> str:
    digest = hashlib.sha256(canonical_json(classes).encode())
    for split in SPLITS:
        images, labels = splits[split]
        digest.update(canonical_json([split, *images.shape]).encode())
        digest.update(images.numpy().data)
        digest.update(labels.numpy().data)
    return digest.hexdigest()
