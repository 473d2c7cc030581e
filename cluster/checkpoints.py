"""Checkpoints of one candidate: safetensors with a small JSON beside, checksummed, two kept.

The JSON is written last. It names the checksum of the tensors and its own; a checkpoint without a matching
pair does not count. Nothing here reads a pickle.
"""

import hashlib
import json
import logging
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save

from networks.architecture import digest_of

log = logging.getLogger(__name__)

KEPT = 2
STALE_S = 3600.0  # nobody writes a draft for so long


class Checkpoint(NamedTuple):
    epoch: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class CheckpointStore:
    """A folder with the newest checkpoints of one candidate. One process writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, epoch: int, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Commit a checkpoint; keep it and the one before.

        Checkpoints of later epochs go too: who saves an earlier one again could not use them.
        """
        make_folder(self.folder)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        body = save(plain)
        weights, note = self._files(epoch)
        write_atomically(weights, body)
        about = {"epoch": epoch, "weights": hashlib.sha256(body).hexdigest(), "values": values}
        write_atomically(note, json.dumps({**about, "sha256": digest_of(about)}).encode())
        stored = self.epochs()
        kept = [one for one in stored if one <= epoch][-KEPT:]
        for old in set(stored) - set(kept):
            for path in self._files(old)[::-1]:
                path.unlink(missing_ok=True)
        for draft in self.folder.glob(".*.draft"):  # of processes that were killed while they wrote
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > STALE_S:
                    draft.unlink()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; an unusable one is named in the log and passed over."""
        for epoch in reversed(self.epochs()):
            try:
                return self._read(epoch)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning(
                    "checkpoint %s cannot be used: %s; trying the one before", self._files(epoch)[0], error
                )
        return None

    def epochs(self) -> list[int]:
        """Epochs with a committed checkpoint, ascending."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("epoch-*.json"))

    def _read(self, epoch: int) -> Checkpoint:
        weights, note = self._files(epoch)
        about = json.loads(note.read_text())
        if about.pop("sha256") != digest_of(about) or about["epoch"] != epoch:
            raise ValueError(f"the checksum of {note.name} differs from the recorded one")
        body = weights.read_bytes()
        if hashlib.sha256(body).hexdigest() != about["weights"]:
            raise ValueError("its checksum differs from the recorded one")
        return Checkpoint(about["epoch"], load(body), about["values"])

    def _files(self, epoch: int) -> tuple[Path, Path]:
        stem = self.folder / f"epoch-{epoch:06d}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def write_atomically(path: Path, body: bytes) -> None:
    """The file appears whole or not at all, and is there after a power cut. Of several writers one wins."""
    writer = f"{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    draft = path.with_name(f".{path.name}.{writer}.draft")
    try:
        with draft.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """The folder and those above it, there after a power cut."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
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
