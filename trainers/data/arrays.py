"""Arrays under agreed names, checked: what npz files and a user's own sets are made of."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from networks.errors import UserError, nearest
from trainers.data.data import Split
from trainers.data.tensors import Part, Source

# Images and labels of each part; a file with one part only may leave "_train" out.
NAMES: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("x", "y")),
    "validation": (("x_validation", "y_validation"), ("x_val", "y_val")),
    "test": (("x_test", "y_test"),),
}
Complaint = Callable[[str, str], UserError]
Array = NDArray[np.generic]


def source_of_arrays(arrays: Mapping[str, object], complaint: Complaint) -> Source:
    """The set in `arrays`: x_train, y_train, and x_validation, y_validation, x_test, y_test, classes where
    there are such.

    Images are uint8 N x H x W x C or N x H x W, labels whole numbers N, classes their names in order
    (``"0"``, ``"1"``, ... where it is left out). `complaint` makes the `UserError` from what is allowed
    and what was found.
    """
    found = {part: _find(arrays, pairs) for part, pairs in NAMES.items()}
    if found["train"] is None:
        known = [name for pairs in NAMES.values() for pair in pairs for name in pair]
        guess = next(filter(None, (nearest(name, known) for name in arrays)), "")
        raise complaint("arrays x_train and y_train", f"It holds {sorted(arrays)}. {guess}".rstrip())
    raw = {part: _read(arrays, pair, complaint) for part, pair in found.items() if pair is not None}
    shapes = {part: images.shape[1:] for part, (images, _) in raw.items()}
    if len(set(shapes.values())) > 1:
        raise complaint("images of one shape", f"Their shapes are {shapes}.")
    classes = _classes(arrays, [labels for _, labels in raw.values()], complaint)
    parts: dict[Split, Part] = {}
    for part, (images, labels) in raw.items():
        check_labels(labels, classes, complaint, part)
        planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        parts[part] = Part(planes, torch.from_numpy(labels.astype(np.int64)))
    return Source(classes, parts)


def check_labels(labels: Array, classes: tuple[str, ...], complaint: Complaint, what: str) -> None:
    """Refuse labels outside 0 to len(classes) - 1, naming the first."""
    wide = labels.astype(np.int64)
    wrong = np.flatnonzero((wide < 0) | (wide >= len(classes)))
    if len(wrong):
        raise complaint(
            f"labels from 0 to {len(classes) - 1}",
            f"Image {wrong[0]} of {what} has label {labels[wrong[0]]}.",
        )


def class_names(names: Array, complaint: Complaint) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "US" or len(set(names.tolist())) != len(names):
        raise complaint(
            "classes as different names, in one dimension",
            f"It holds classes of type {names.dtype} and shape {names.shape}.",
        )
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())


def _find(arrays: Mapping[str, object], pairs: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    return next((pair for pair in pairs if pair[0] in arrays or pair[1] in arrays), None)


def _read(arrays: Mapping[str, object], pair: tuple[str, str], complaint: Complaint) -> tuple[Array, Array]:
    """Images as uint8 N x H x W x C and labels as whole numbers N, of one part."""
    for name in pair:
        if name not in arrays:
            raise complaint(f"both {pair[0]} and {pair[1]}", f"{name} is missing.")
    images, labels = (np.asarray(arrays[name]) for name in pair)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise complaint(
            f"{pair[0]} as uint8 of shape (images, height, width, channels) or (images, height, width)",
            f"{pair[0]} is {images.dtype} of shape {images.shape}.",
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise complaint(
            f"{pair[1]} as whole numbers of shape ({len(images)},), one for each image",
            f"{pair[1]} is {labels.dtype} of shape {labels.shape}.",
        )
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[3] > 4:
        raise complaint(
            "images with the channels last, at most 4",
            f"{pair[0]} has shape {images.shape}.",
        )
    return images, labels


def _classes(arrays: Mapping[str, object], labels: list[Array], complaint: Complaint) -> tuple[str, ...]:
    if "classes" in arrays:
        return class_names(np.asarray(arrays["classes"]), complaint)
    return tuple(str(label) for label in range(int(max(part.max() for part in labels)) + 1))


def file_complaint(path: Path, field: str = "path") -> Complaint:
    """Complaints about a file that a setting names."""
    return lambda allowed, found: UserError(field, str(path), allowed, found)
