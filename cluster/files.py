"""Files that appear whole or not at all, and are there after a power cut: on disks and in S3 buckets."""

import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from cluster.s3 import SCHEME, S3Path

AnyPath = Path | S3Path  # a folder or file, wherever it is

STALE_S = 3600.0  # nobody writes a draft for so long


def path_of(text: str) -> AnyPath:
    """As a user writes it: a path (~ is the user's home), or s3://BUCKET/PREFIX."""
    return S3Path.of(text) if text.startswith(f"{SCHEME}:") else Path(text).expanduser()


def work_folder(run: AnyPath) -> Path:
    """This machine's folder for a run: below WEFT_WORK, or ~/.cache/weft, for one that is kept in S3; its own
    for any other."""
    if isinstance(run, Path):
        return run
    base = os.environ.get("WEFT_WORK") or Path.home() / ".cache" / "weft"
    return Path(base) / run.bucket / run.key


def write_atomically(path: AnyPath, body: bytes) -> None:
    """Replaces what was there. Of several writers one wins."""
    if isinstance(path, S3Path):
        path.write_bytes(body)
        return
    with _drafted(path, body) as draft:
        draft.replace(path)


def write_once(path: AnyPath, body: bytes) -> None:
    """Put if absent: raises FileExistsError when the file is there, also by another writer's hand."""
    if isinstance(path, S3Path):
        if path.put_if(body, None) is None:
            raise FileExistsError(str(path))
        return
    with _drafted(path, body) as draft:
        os.link(draft, path)


@contextmanager
def _drafted(path: Path, body: bytes) -> Iterator[Path]:
    """A file beside the one to be, with its contents on the disk, for the caller to give it its name."""
    writer = f"{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    draft = path.with_name(f".{path.name}.{writer}.draft")
    try:
        with draft.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def clear_drafts(folder: AnyPath) -> None:
    """Remove what processes left that were killed while they wrote."""
    if isinstance(folder, S3Path):
        return  # S3 has none
    for draft in folder.glob(".*.draft"):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > STALE_S:
                draft.unlink()


def remove_folder(folder: AnyPath) -> None:
    """With everything in it; also when it is not there."""
    if isinstance(folder, S3Path):
        folder.unlink_below()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: AnyPath) -> None:
    """The folder and those above it."""
    if isinstance(folder, S3Path):
        return  # it is there with its first object
    missing = list(takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: syncing a file does not promise that its name stays."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
