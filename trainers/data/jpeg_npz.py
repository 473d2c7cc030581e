"""npz files with encoded images: image i is ``blob[offset[i]:offset[i + 1]]``. Decoded once, at opening.

Arrays: blob (uint8), offset (N + 1 whole numbers), label (N), classes (their names; ``name`` is read too),
and is_val (N, optional), which marks the validation images that the set brings.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from networks.errors import UserError
from trainers.data.arrays import Array, check_labels, class_names, file_complaint
from trainers.data.data import Split
from trainers.data.decoders import Decoders, Fit, Image, default_workers
from trainers.data.npz import load_arrays
from trainers.data.settings import DataSettings
from trainers.data.tensors import Part, Source

FEW = 2000  # below this, starting processes takes longer than decoding


class _File(NamedTuple):
    images: list[Image]
    labels: Tensor
    validates: Tensor
    classes: tuple[str, ...]


class Encoded:
    """Images that are decoded when they are taken: ``encoded[index]`` is uint8 N x 3 x H x W."""

    def __init__(self, images: Sequence[Image], settings: DataSettings) -> None:
        self._images, self._settings = images, settings

    @cached_property
    def _fit(self) -> Fit:
        """To `image_size`, else to the size of the first image, which all others must have."""
        if self._settings.image_size is not None:
            return Fit("center", self._settings.image_size, self._settings.image_size)
        width, height = _size(self._images[0])
        return Fit("exact", height, width)

    def __getitem__(self, index: Tensor) -> Tensor:
        wanted = [self._images[position] for position in index.tolist()]
        workers = default_workers() if self._settings.workers is None else self._settings.workers
        decoders = Decoders(workers if len(wanted) > FEW else 0)
        try:
            return decoders.run(wanted, self._fit, "decoding images")
        except UserError as error:
            if self._fit.rule == "exact":
                hint = f"{error.fix} To mix sizes, set image_size."
                raise UserError(error.field, error.value, error.allowed, hint) from error
            raise
        finally:
            decoders.close()


def read_jpeg_npz(settings: DataSettings) -> Source:
    """All files of `path`, one after the other; those of `test_path` are the test split."""
    files = [_read(path, "path") for path in settings.paths]
    tests = [_read(path, "test_path") for path in settings.test_paths]
    classes = files[0].classes
    for path, file in zip((*settings.paths, *settings.test_paths), (*files, *tests), strict=True):
        if file.classes != classes:
            raise UserError("path", str(path), "files with the same classes in the same order as the first")
    images = [image for file in files for image in file.images]
    labels = torch.cat([file.labels for file in files])
    validates = torch.cat([file.validates for file in files])
    chosen: dict[Split, Tensor] = {"train": (~validates).nonzero(), "validation": validates.nonzero()}
    parts = {
        part: Part(Encoded([images[i] for i in index.flatten().tolist()], settings), labels[index.flatten()])
        for part, index in chosen.items()
        if len(index)
    }
    if "train" not in parts:
        raise UserError("path", [str(path) for path in settings.paths], "files with training images")
    if tests:
        held_out = [image for file in tests for image in file.images]
        parts["test"] = Part(Encoded(held_out, settings), torch.cat([file.labels for file in tests]))
    return Source(classes, parts)


def _read(path: Path, field: str) -> _File:
    arrays, complaint = load_arrays(path, field), file_complaint(path, field)
    names = arrays.get("classes", arrays.get("name"))
    missing = [name for name in ("blob", "offset", "label") if name not in arrays]
    if missing or names is None:
        raise complaint("arrays blob, offset, label and classes", f"It holds {sorted(arrays)}.")
    blob, offset, label = arrays["blob"], arrays["offset"], arrays["label"]
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise complaint("blob as uint8, in one dimension", f"It is {blob.dtype} of shape {blob.shape}.")
    if label.dtype.kind not in "iu" or label.ndim != 1 or not len(label):
        raise complaint(
            "label as whole numbers, one an image", f"It is {label.dtype} of shape {label.shape}."
        )
    if offset.dtype.kind not in "iu" or offset.shape != (len(label) + 1,):
        found = f"It is {offset.dtype} of shape {offset.shape}, for {len(label)} labels."
        raise complaint("offset as whole numbers, one more than labels", found)
    bounds = offset.astype(np.int64)
    if bounds[0] < 0 or bounds[-1] > len(blob) or (np.diff(bounds) < 1).any():
        raise complaint(f"offsets that grow, from 0 or more to {len(blob)} or less", "They do not.")
    classes = class_names(names, complaint)
    check_labels(label, classes, complaint, "label")
    validates = _marks(arrays, len(label))
    if validates is None:
        raise complaint("is_val as one mark an image", f"It has shape {arrays['is_val'].shape}.")
    data = blob.tobytes()
    images = [
        Image(f"{path}, image {number}", data[start:end])
        for number, (start, end) in enumerate(pairwise(bounds.tolist()))
    ]
    return _File(images, torch.from_numpy(label.astype(np.int64)), validates, classes)


def _marks(arrays: Mapping[str, Array], count: int) -> Tensor | None:
    marks = arrays.get("is_val", np.zeros(count, bool))
    return torch.from_numpy(marks.astype(bool)) if marks.shape == (count,) else None


def _size(image: Image) -> tuple[int, int]:
    """(width, height) of encoded bytes."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    assert image.content is not None
    try:
        with Pillow.open(io.BytesIO(image.content)) as opened:
            return opened.size
    except (UnidentifiedImageError, OSError) as error:
        raise UserError("path", image.name, "an image that Pillow can read", f"{error}.") from error
