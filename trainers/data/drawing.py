"""What all data sets share: the order of an epoch, the size of a step, and normalisation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from networks.architecture import Shape
from networks.counters import counter_generator
from networks.errors import UserError
from trainers.data.augment import cut_out, draw_augment, shift_and_flip
from trainers.data.data import Split
from trainers.data.settings import Augment


def full_steps(images: int, batch_size: int) -> int:
    """Full batches in this many training images; `UserError` where there is none."""
    if not 1 <= batch_size <= images:
        raise UserError("batch_size", batch_size, f"1 to {images}, the number of training images")
    return images // batch_size


def slices(split: Split, images: int, batch_size: int) -> Iterator[slice]:
    """Consecutive stretches that cover a split."""
    if not images:
        raise UserError(split, 0, "at least one image", f"The set was opened without {split} images.")
    if batch_size < 1:
        raise UserError("batch_size", batch_size, "1 or more")
    return (slice(start, start + batch_size) for start in range(0, images, batch_size))


class EpochOrder:
    """The order of the training images in each epoch; the last one asked for is kept."""

    def __init__(self, images: int, device: torch.device | str = "cpu") -> None:
        self._images, self._device = images, device
        self._key: tuple[int, int] | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Positions in the training split of one step's images, int64 N."""
        epoch, place = divmod(step, full_steps(self._images, batch_size))
        if self._key != (seed, epoch):
            generator = counter_generator(seed, "epoch", epoch)
            self._order = torch.randperm(self._images, generator=generator).to(self._device)
            self._key = (seed, epoch)
        return self._order[place * batch_size : (place + 1) * batch_size]


def random_labels(images: int, classes: int, seed: int) -> Tensor:
    """A label for each training image, int64: drawn once, i.i.d. uniform, independent of the images
    (RLNAS, 2101.11834)."""
    return torch.randint(classes, (images,), generator=counter_generator(seed, "labels"))


class Normaliser:
    """(x - mean) / std for each channel of uint8 images; a channel that never changes is only centred."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std
        self._scale = 1 / std

    @classmethod
    def of(cls, images: Tensor) -> "Normaliser":
        """Of uint8 N x C x H x W. Counts of whole numbers, so that threads and order change nothing."""
        counts = torch.stack(
            [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
        )
        share = counts.double() / counts.sum(1, keepdim=True)
        value = torch.arange(256, dtype=torch.float64)
        mean = (share * value).sum(1, keepdim=True)
        std = (share * (value - mean).square()).sum(1, keepdim=True).sqrt()
        std = torch.where(std > 0, std, 1.0)
        return cls(mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1))

    def to(self, device: torch.device | str) -> "Normaliser":
        return Normaliser(self.mean.to(device), self.std.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().sub_(self.mean).mul_(self._scale)


def vary(images: Tensor, normalise: Normaliser, augment: Augment, seed: int, step: int) -> Tensor:
    """uint8 images of one training step, N x C x H x W, to what the network sees."""
    if not (augment.crop or augment.flip or augment.cutout):
        return normalise(images)
    draws = draw_augment(augment, Shape(*images.shape[1:]), len(images), seed, step).to(images.device)
    return cut_out(normalise(shift_and_flip(images, augment, draws)), augment, draws)
