"""Data sets between a machine and a bucket: what is there is not sent again, and what arrives is checked."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.files import make_folder
from cluster.s3 import S3Path
from networks.errors import CannotGoOn, UserError

DRAFT = ".part"


class Moved(NamedTuple):
    """Files that were sent or fetched, files that were there already, and the bytes that were moved."""

    files: int
    there: int
    bytes: int


def push(source: Path, target: S3Path, console: Console) -> Moved:
    """Send a file, or all files of a folder, below `target`. Raises `UserError` for a missing source."""
    if not source.exists():
        raise UserError("SOURCE", str(source), "a file or folder of this machine")
    if source.is_file():
        pairs = [(source, target / source.name)]
    else:
        found = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix != DRAFT)
        pairs = [(path, target / path.relative_to(source).as_posix()) for path in found]
    moved = Moved(0, 0, 0)
    with _progress(console, sum(path.stat().st_size for path, _ in pairs)) as advance:
        for path, place in pairs:
            digest, size = sha256(path), path.stat().st_size
            if _digest_there(place) == digest:
                moved = moved._replace(there=moved.there + 1)
            else:
                place.upload(path, digest)
                moved = moved._replace(files=moved.files + 1, bytes=moved.bytes + size)
            advance(size)
    return moved


def pull(source: S3Path, target: Path, console: Console) -> Moved:
    """Fetch an object, or all below a prefix, into the folder `target`. A file appears whole or not at all.
    Raises `UserError` for a missing source, and `CannotGoOn` for one that arrives altered."""
    pairs = [(place, target / name, size) for place, name, size in listed(source)]
    if not pairs:
        raise UserError("SOURCE", str(source), "something that is there: weft data ls shows what is")
    moved = Moved(0, 0, 0)
    with _progress(console, sum(size for *_, size in pairs)) as advance:
        for place, path, size in pairs:
            if not path.resolve().is_relative_to(target.resolve()):
                raise UserError("SOURCE", str(place), f"names that stay within {target}")
            digest = _digest_there(place)
            if path.is_file() and path.stat().st_size == size and digest == sha256(path):
                moved = moved._replace(there=moved.there + 1)
            else:
                make_folder(path.parent)
                draft = path.with_name(path.name + DRAFT)
                place.download(draft)
                if digest and sha256(draft) != digest:
                    draft.unlink()
                    raise CannotGoOn(
                        f"{place} arrived altered: its checksum differs from the one noted there"
                    )
                draft.replace(path)
                moved = moved._replace(files=moved.files + 1, bytes=moved.bytes + size)
            advance(size)
    return moved


def listed(source: S3Path) -> Iterator[tuple[S3Path, str, int]]:
    """Each object, its name below the source (its own for a single one), and its bytes."""
    if source.key and source.is_file():
        yield source, source.name, source.version().size
    for place, size in source.files():
        yield place, place.key[len(source.key) :].strip("/"), size


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_there(place: S3Path) -> str:
    try:
        return place.version().sha256
    except FileNotFoundError:
        return ""


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Gives what is to be told of bytes done."""
    columns = (TextColumn("{task.percentage:3.0f} %"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)
