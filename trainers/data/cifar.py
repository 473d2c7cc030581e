"""CIFAR-10 and CIFAR-100 from their official binary archives.

A record is the label (CIFAR-100: the coarse one, then the fine one that is used here), then 3,072 bytes:
the red, green and blue planes of 32 x 32. Archives, layout and MD5 sums:
https://www.cs.toronto.edu/~kriz/cifar.html. The official test batch is the test split.
"""

import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from networks.errors import UserError
from trainers.data.arrays import check_labels, file_complaint
from trainers.data.download import cache_folder, download
from trainers.data.npz import nearby
from trainers.data.settings import DataSettings
from trainers.data.tensors import Part, Source

PIXELS = 3 * 32 * 32


class Archive(NamedTuple):
    """An official archive: where it is, and what is in its folder."""

    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
        classes=100,
    ),
}


def read_cifar(settings: DataSettings) -> Source:
    """From the folder or archive that `path` names, else from the cache, where it is downloaded to once."""
    archive = ARCHIVES[settings.name]
    path = _locate(archive, settings)
    files = _read_folder(archive, path) if path.is_dir() else _read_archive(archive, path)
    classes = tuple(files[archive.names].decode(errors="replace").split())
    complaint = file_complaint(path)
    if len(set(classes)) != archive.classes:
        raise complaint(f"{archive.classes} class names in {archive.names}", f"It holds {len(set(classes))}.")
    return Source(
        classes,
        {
            "train": _part(archive, path, classes, files, archive.train),
            "test": _part(archive, path, classes, files, (archive.test,)),
        },
    )


def _locate(archive: Archive, settings: DataSettings) -> Path:
    if len(settings.paths) > 1:
        raise UserError("path", [str(path) for path in settings.paths], f"one folder, or one {archive.file}")
    if settings.paths:
        path = settings.paths[0]
        if not path.exists():
            raise UserError("path", str(path), f"a folder, or an {archive.file}", nearby(path))
        return path
    cached = cache_folder() / archive.file
    if cached.is_file():
        return cached
    return download(archive.url, archive.md5, cached)


def _read_folder(archive: Archive, path: Path) -> dict[str, bytes]:
    inner = path / archive.folder
    folder = inner if inner.is_dir() else path
    missing = [name for name in archive.members if not (folder / name).is_file()]
    if missing:
        raise UserError("path", str(path), f"a folder with {', '.join(archive.members)}", f"No {missing[0]}.")
    return {name: (folder / name).read_bytes() for name in archive.members}


def _read_archive(archive: Archive, path: Path) -> dict[str, bytes]:
    """Members are read into memory by their name and never unpacked, so none can leave a folder."""
    wanted = {f"{archive.folder}/{name}": name for name in archive.members}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                content = tar.extractfile(member) if name is not None and member.isfile() else None
                if name is not None and content is not None:
                    files[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError("path", str(path), f"a whole {archive.file}", f"{error}.") from error
    missing = [member for member, name in wanted.items() if name not in files]
    if missing:
        raise UserError("path", str(path), f"an {archive.file}", f"There is no {missing[0]} in it.")
    return files


def _part(
    archive: Archive, path: Path, classes: tuple[str, ...], files: dict[str, bytes], names: tuple[str, ...]
) -> Part:
    record = archive.label_bytes + PIXELS
    complaint = file_complaint(path)
    for name in names:
        if not files[name] or len(files[name]) % record:
            raise complaint(f"records of {record} bytes", f"{name} has {len(files[name])} bytes.")
    rows = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, record)
    labels = rows[:, archive.label_bytes - 1]
    check_labels(labels, classes, complaint, " and ".join(names))
    images = np.ascontiguousarray(rows[:, archive.label_bytes :]).reshape(-1, 3, 32, 32)
    return Part(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))
