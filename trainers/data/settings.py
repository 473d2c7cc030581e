"""What a recipe's `data:` section is."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, model_validator

Share = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictFloat, Field(ge=0, lt=1)]
Paths = Path | tuple[Path, ...] | None


class Augment(BaseModel):
    """How training images are varied; sizes in pixels.

    crop: pad with black by this much on every side, then cut the image's size out anywhere. flip: mirror
    every second image, drawn. cutout: blank a square of this side with its centre anywhere in the image
    (1708.04552), with the mean colour. resized_crop (image_folder): cut a part of this range of the area,
    with an aspect ratio from 3/4 to 4/3, and scale it to the image's size (1409.4842, section 6).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(0, ge=0)
    flip: bool = False
    cutout: int = Field(0, ge=0)
    resized_crop: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resized_crop is not None and not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
            raise ValueError("resized_crop must be two shares of the area, 0 < low <= high <= 1")
        return self


class DataSettings(BaseModel):
    """Which data set, how it is split, and how it is varied. docs/data.md says what each set needs.

    name: digits, cifar10, cifar100, npz, jpeg_npz, image_folder, or ``module:attribute`` for the user's own.
    validation, test: a whole number is a count, a number below 1 a share of the training images; None
    means the set's own images where it has some, else one tenth. `limit` keeps that many images of each
    part of the set, for quick trials. Settings that do nothing for a set are refused by `open_data`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "digits"
    path: Paths = None
    test_path: Paths = None
    validation: Share | None = None
    test: Share | None = None
    split_seed: int = 0
    limit: int | None = Field(None, ge=1)
    image_size: int | None = Field(None, ge=1)
    center_crop: float | None = Field(None, gt=0, le=1)
    workers: int | None = Field(None, ge=0)
    augment: Augment = Augment()

    @property
    def paths(self) -> tuple[Path, ...]:
        return expanded(self.path)

    @property
    def test_paths(self) -> tuple[Path, ...]:
        return expanded(self.test_path)

    def from_anywhere(self) -> Self:
        """The same for a process that works in another folder: its paths are absolute."""
        absolute = {
            field: tuple(path.absolute() for path in expanded(getattr(self, field))) or None
            for field in ("path", "test_path")
        }
        return self.model_copy(update=absolute)


def expanded(paths: Paths) -> tuple[Path, ...]:
    """One path or several as a tuple, ``~`` replaced."""
    several = () if paths is None else (paths,) if isinstance(paths, Path) else paths
    return tuple(path.expanduser() for path in several)
