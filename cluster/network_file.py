"""A network on disk: its architecture and its weights, checksummed; no pickle."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from cluster.checkpoints import make_folder, write_atomically
from networks.architecture import Architecture, digest_of
from networks.errors import UserError
from networks.network import Network


def save_network(folder: Path, network: Network, about: dict[str, Any]) -> None:
    """network.safetensors, then network.json, which names its checksum. `about`: JSON-ready."""
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


def load_network(folder: Path) -> tuple[Network, dict[str, Any]]:
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
