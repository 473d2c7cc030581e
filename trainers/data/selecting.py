"""Data as a search may see them: without the test images."""

from collections.abc import Iterator, Mapping

import torch

from networks.architecture import Shape
from networks.errors import UserError
from trainers.data.data import Batch, Data, Split


class Selecting:
    """The same data for whoever selects candidates: there are no test images, and asking for them raises
    `UserError`, so that no score, of ours or of a user's, chooses by what the result is reported on."""

    def __init__(self, data: Data) -> None:
        self._data = data

    @property
    def image(self) -> Shape:
        return self._data.image

    @property
    def classes(self) -> tuple[str, ...]:
        return self._data.classes

    @property
    def sizes(self) -> Mapping[Split, int]:
        return {**self._data.sizes, "test": 0}

    @property
    def digest(self) -> str:
        return self._data.digest

    def to(self, device: torch.device | str) -> "Selecting":
        return Selecting(self._data.to(device))

    def steps_per_epoch(self, batch_size: int) -> int:
        return self._data.steps_per_epoch(batch_size)

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        return self._data.train_batch(seed, step, batch_size)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        if split == "test":
            fix = "Test images are for the networks that a search has chosen, when it is over."
            raise UserError("split", split, "train or validation while candidates are selected", fix)
        return self._data.batches(split, batch_size)
