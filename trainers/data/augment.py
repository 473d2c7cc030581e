"""Random crop, flip and cutout of a whole batch at once, on whatever device the batch is."""

import torch
from torch import Tensor
from torch.nn import functional

from networks.architecture import Shape
from networks.counters import counter_generator
from networks.errors import UserError
from trainers.data.settings import Augment

TOP, LEFT, FLIP, CUT_ROW, CUT_COLUMN = range(5)


def check_augment(augment: Augment, image: Shape) -> None:
    """Raise `UserError` where padding or square are as large as the image."""
    side = min(image.h, image.w)
    for name, pixels in (("crop", augment.crop), ("cutout", augment.cutout)):
        if pixels >= side:
            raise UserError(f"augment.{name}", pixels, f"0 to {side - 1} pixels, for images of side {side}")


def draw_augment(augment: Augment, image: Shape, count: int, seed: int, step: int) -> Tensor:
    """The numbers that one batch needs, int64 5 x count (rows TOP to CUT_COLUMN), from the counters
    (seed, "augment", step). Drawn on the CPU, so that every device sees the same."""
    generator = counter_generator(seed, "augment", step)
    shifts = 2 * augment.crop + 1
    highs = (shifts, shifts, 2, image.h, image.w)
    return torch.stack([torch.randint(high, (count,), generator=generator) for high in highs])


def shift_and_flip(images: Tensor, augment: Augment, draws: Tensor) -> Tensor:
    """Crop and flip of uint8 images, N x C x H x W, in one indexing."""
    n, _, h, w = images.shape
    if not (augment.crop or augment.flip):
        return images
    padded = functional.pad(images, (augment.crop,) * 4)
    row = torch.arange(n, device=images.device)
    if augment.flip:
        padded, row = torch.cat((padded, padded.flip(3))), row + n * draws[FLIP]
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)
    return windows[row, :, draws[TOP], draws[LEFT]].contiguous()


def cut_out(images: Tensor, augment: Augment, draws: Tensor) -> Tensor:
    """Cutout of normalised images (zero is the mean colour), N x C x H x W. The square may hang over."""
    if not augment.cutout:
        return images
    n, _, h, w = images.shape
    rows = _stretch(draws[CUT_ROW], augment.cutout, h).view(n, 1, h, 1)
    columns = _stretch(draws[CUT_COLUMN], augment.cutout, w).view(n, 1, 1, w)
    return images.mul_((~(rows & columns)).float())


def _stretch(centre: Tensor, length: int, size: int) -> Tensor:
    """N x size: which positions lie in the stretch of this length around each centre."""
    offset = torch.arange(size, device=centre.device) - (centre - length // 2).unsqueeze(1)
    return (offset >= 0) & (offset < length)
