"""A network on disk: its architecture and its weights, checksummed and read again; no pickle."""

import hashlib
import json
from typing import Any

import torch
from safetensors.torch import load, save

from cluster.files import AnyPath, make_folder, write_atomically
from networks.architecture import Architecture, digest_of
from networks.counters import counter_generator
from networks.errors import CannotGoOn, UserError
from networks.network import Network
from trainers.recalibration import evaluating

CHECKED_ON = 4  # images
TOLERANCE = 1e-4  # of the largest logit: layouts in memory may differ


def save_network(folder: AnyPath, network: Network, about: dict[str, Any]) -> None:
    """network.safetensors, then network.json, which names its checksum; then both are read again. `about`:
    JSON-ready. Raises `CannotGoOn` when what was read computes otherwise."""
    make_folder(folder)
    body = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    write_atomically(folder / "network.safetensors", body)
    note = {
        "architecture": network.architecture.model_dump(mode="json"),
        "weights": hashlib.sha256(body).hexdigest(),
        "about": about,
    }
    write_atomically(
        folder / "network.json", json.dumps({**note, "sha256": digest_of(note)}, indent=1).encode()
    )
    check_same(network, load_network(folder)[0], str(folder))


def check_same(network: Network, read: Network, folder: str) -> None:
    """Raise `CannotGoOn` unless both compute the same of a few fixed images, as they evaluate."""
    c, h, w = network.architecture.image
    images = torch.randn((CHECKED_ON, c, h, w), generator=counter_generator(0, "network file"))
    with evaluating(network) as forward:
        expected = forward(images.to(next(network.parameters()).device)).float().cpu()
    with evaluating(read) as forward:
        found = forward(images)
    scale = float(expected.abs().nan_to_num().max())
    if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
        difference = float((found - expected).abs().max())
        raise CannotGoOn(
            f"the network read from {folder} computes otherwise, by {difference:g}, than the one saved"
        )


def load_network(folder: AnyPath) -> tuple[Network, dict[str, Any]]:
    """The network, in eval mode on the CPU, and what was said about it. Raises `UserError` for a folder
    without one, or one that was altered."""
    try:
        note = json.loads((folder / "network.json").read_text())
        body = (folder / "network.safetensors").read_bytes()
        checksum = note.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("network", str(folder), "a folder with a saved network", str(error)) from None
    if checksum != digest_of(note) or hashlib.sha256(body).hexdigest() != note["weights"]:
        raise UserError("network", str(folder), "a network as it was saved", "A checksum differs.")
    network = Network(Architecture.model_validate(note["architecture"]))
    network.load_state_dict(load(body))
    return network.eval(), note["about"]
