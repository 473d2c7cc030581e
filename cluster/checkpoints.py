"""Checkpoints of one candidate: safetensors with a small JSON beside, checksummed, two kept.

The JSON is written last. It names the checksum of the tensors and its own; a checkpoint without a matching
pair does not count. Nothing here reads a pickle.
"""

import hashlib
import json
import logging
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from cluster.files import AnyPath, clear_drafts, make_folder, write_atomically
from networks.architecture import digest_of

log = logging.getLogger(__name__)

KEPT = 2


class Checkpoint(NamedTuple):
    epoch: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class CheckpointStore:
    """A folder with the newest checkpoints of one candidate. One process writes."""

    def __init__(self, folder: AnyPath) -> None:
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
        clear_drafts(self.folder)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; an unusable one is named in the log and passed over."""
        for epoch in reversed(self.epochs()):
            try:
                return self._read(epoch)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
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

    def _files(self, epoch: int) -> tuple[AnyPath, AnyPath]:
        stem = self.folder / f"epoch-{epoch:06d}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")
