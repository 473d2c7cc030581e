"""Folders of image files in the ImageNet layout, decoded in worker processes while the network trains.

``root/train/<class>/...`` with ``root/val`` (or ``root/validation``) and ``root/test`` where there are such;
without a ``train`` folder, ``root/<class>/...`` is one pool. Class folders are sorted by name, and so are the
files under them.
"""

import copy
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from networks.architecture import Shape, canonical_json, digest_of
from networks.counters import counter_seed
from networks.errors import UserError, nearest
from trainers.data.augment import check_augment
from trainers.data.data import SPLITS, Batch, Split
from trainers.data.decoders import Decoders, Fit, Image, default_workers
from trainers.data.drawing import EpochOrder, Normaliser, full_steps, random_labels, slices, vary
from trainers.data.npz import nearby
from trainers.data.settings import DataSettings
from trainers.data.split import choose_splits, stratified_order

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"))
FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "validation", "valid"),
    "test": ("test",),
}
DEFAULT_SIZE = 224
DEFAULT_CENTER = 0.875  # of the short side: 224 out of 256, as ImageNet is usually measured
MEASURED = 512  # training images that mean and standard deviation are taken from
AHEAD = 2  # batches of a held-out split that are decoded before they are asked for


class Files(NamedTuple):
    """Image files of one part or split, and their labels (int64 N)."""

    paths: list[str]
    labels: Tensor


class FolderData:
    """A `Data` of files. The digest covers the files' names and sizes, their labels, split and image size,
    not their content: that would mean to read all of it."""

    def __init__(self, settings: DataSettings, field: str = "data") -> None:
        self._field, self._augment = field, settings.augment
        root = _root(settings)
        self.classes, parts = find_files(root)
        chosen = choose_splits({part: files.labels for part, files in parts.items()}, self.classes, settings)
        self._splits = {split: _take(parts[chosen[split].part], chosen[split].positions) for split in SPLITS}
        self.sizes: dict[Split, int] = {split: len(files.paths) for split, files in self._splits.items()}
        side = settings.image_size or DEFAULT_SIZE
        self.image = Shape(3, side, side)
        check_augment(self._augment, self.image)
        self._plain = Fit("center", side, side, fraction=settings.center_crop or DEFAULT_CENTER)
        self.digest = _digest(root, self.classes, self._splits, self._plain)
        self._device: torch.device | str = "cpu"
        self._decoders = Decoders(default_workers() if settings.workers is None else settings.workers)
        every = [Image(path) for files in self._splits.values() for path in files.paths]
        self._decoders.run(every, Fit("check"), "checking images")
        self._normalise = self._measure(settings.split_seed)
        self._order = EpochOrder(self.sizes["train"])
        self._coming: dict[tuple[int, int, int], list[Future[Tensor]]] = {}

    def to(self, device: torch.device | str) -> Self:
        moved = copy.copy(self)
        moved._device, moved._normalise, moved._coming = device, self._normalise.to(device), {}
        return moved

    def with_random_labels(self, seed: int) -> Self:
        labels = random_labels(self.sizes["train"], len(self.classes), seed)
        other = copy.copy(self)
        other._splits = {**self._splits, "train": self._splits["train"]._replace(labels=labels)}
        other.digest = digest_of([self.digest, "random labels", seed])
        other._order, other._coming = EpochOrder(self.sizes["train"]), {}
        return other

    def steps_per_epoch(self, batch_size: int) -> int:
        return full_steps(self.sizes["train"], batch_size)

    def read_ahead(self, seed: int, steps: Sequence[int], batch_size: int) -> None:
        if not self._decoders.workers:
            return
        wanted = [(seed, step, batch_size) for step in steps]
        for key in [key for key in self._coming if key not in wanted]:
            for future in self._coming.pop(key):
                future.cancel()
        for key in wanted:
            if key not in self._coming:
                self._coming[key] = self._submit_step(*key)

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        self.steps_per_epoch(batch_size)
        key = (seed, step, batch_size)
        coming = self._coming.pop(key) if key in self._coming else self._submit_step(*key)
        images = self._collect(coming)
        labels = self._splits["train"].labels[self._order.batch(seed, step, batch_size)]
        return vary(images, self._normalise, self._augment, seed, step), labels.to(self._device)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        stretches = slices(split, self.sizes[split], batch_size)
        return self._batches(self._splits[split], stretches)

    def _batches(self, files: Files, stretches: Iterator[slice]) -> Iterator[Batch]:
        coming: deque[tuple[list[Future[Tensor]], Tensor]] = deque()
        ahead = AHEAD if self._decoders.workers else 0
        for stretch in stretches:
            images = [Image(path) for path in files.paths[stretch]]
            coming.append((self._submit(images, self._plain), files.labels[stretch]))
            if len(coming) > ahead:
                yield self._finish(*coming.popleft())
        while coming:
            yield self._finish(*coming.popleft())

    def _finish(self, futures: list[Future[Tensor]], labels: Tensor) -> Batch:
        return self._normalise(self._collect(futures)), labels.to(self._device)

    def _submit_step(self, seed: int, step: int, batch_size: int) -> list[Future[Tensor]]:
        index = self._order.batch(seed, step, batch_size).tolist()
        images = [Image(self._splits["train"].paths[position]) for position in index]
        scale = self._augment.resized_crop
        if scale is None:
            return self._submit(images, self._plain)
        seeds = tuple(counter_seed(seed, "augment", step, position) for position in range(batch_size))
        fit = Fit("resized_crop", self.image.h, self.image.w, scale=scale, seeds=seeds)
        return self._submit(images, fit)

    def _submit(self, images: Sequence[Image], fit: Fit) -> list[Future[Tensor]]:
        """One request a worker, so that all work on the batch that is needed next."""
        size = -(-len(images) // max(1, self._decoders.workers))
        stretches = [slice(start, start + size) for start in range(0, len(images), size)]
        return [self._decoders.submit(images[s], fit._replace(seeds=fit.seeds[s])) for s in stretches]

    def _collect(self, futures: list[Future[Tensor]]) -> Tensor:
        try:
            return torch.cat([future.result() for future in futures]).to(self._device)
        except UserError as error:
            raise error.under(self._field) from error

    def _measure(self, seed: int) -> Normaliser:
        """From some images of every class, as validation sees them."""
        files = self._splits["train"]
        some = stratified_order(files.labels, seed, "measured")[:MEASURED].tolist()
        images = [Image(files.paths[position]) for position in some]
        return Normaliser.of(self._decoders.run(images, self._plain, "measuring mean and deviation"))


def find_files(root: Path) -> tuple[tuple[str, ...], dict[Split, Files]]:
    """The classes, and the image files of each part that the folder holds. Raises `UserError` ("path") for a
    class without images, a class that only the held-out images have, and a folder without classes."""
    folders = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in FOLDERS.items()
    }
    train = folders["train"]
    if train is None:
        if held := [folder.name for folder in folders.values() if folder is not None]:
            raise UserError("path", str(root), "a folder with train beside val or test", f"It holds {held}.")
        classes = _class_folders(root)
        return classes, {"train": _files(root, classes, classes)}
    classes = _class_folders(train)
    parts: dict[Split, Files] = {}
    for part, folder in folders.items():
        if folder is not None:
            parts[part] = _files(folder, _class_folders(folder), classes)
    return classes, parts


def _root(settings: DataSettings) -> Path:
    if len(settings.paths) != 1:
        raise UserError("path", [str(path) for path in settings.paths], "one folder")
    path = settings.paths[0]
    if not path.is_dir():
        raise UserError("path", str(path), "a folder", nearby(path))
    return path


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise UserError("path", str(folder), "a folder that holds one folder a class", "It holds no folder.")
    return tuple(names)


def _files(folder: Path, present: Sequence[str], classes: Sequence[str]) -> Files:
    number = {name: label for label, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for name in present:
        if name not in number:
            raise UserError(
                "path", str(folder / name), "a class that has training images", nearest(name, classes)
            )
        found = _images_under(folder / name)
        if not found:
            raise UserError("path", str(folder / name), "a class with at least one image", "It holds none.")
        paths += found
        labels += [number[name]] * len(found)
    return Files(paths, torch.tensor(labels))


def _images_under(folder: Path) -> list[str]:
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES and name[0] != "."
    )


def _take(files: Files, index: Tensor) -> Files:
    return Files([files.paths[position] for position in index.tolist()], files.labels[index])


def _digest(root: Path, classes: tuple[str, ...], splits: dict[Split, Files], fit: Fit) -> str:
    digest = hashlib.sha256(canonical_json([classes, fit.height, fit.fraction]).encode())
    for split in SPLITS:
        files = splits[split]
        for path, label in zip(files.paths, files.labels.tolist(), strict=True):
            name = Path(path).relative_to(root).as_posix()
            digest.update(ascii([split, name, os.path.getsize(path), label]).encode())
    return digest.hexdigest()
