"""The Ray that a search runs on: one of our own, or a cluster that is joined, with room for what is asked."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.state import state
from ray.exceptions import RayError

from cluster.recipe_base import Resources
from networks.errors import UserError, nearest

ADDRESSES = "auto, or HOST:PORT of a running Ray cluster"
ANSWER_S = 5.0


def request(resources: Resources) -> dict[str, float]:
    """What one trial asks of Ray."""
    return {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}


def joined() -> bool:
    """Whether this process is in a Ray already: a grid inside a search is in the search's."""
    return bool(ray.is_initialized())


@contextmanager
def connected(resources: Resources, address: str | None) -> Iterator[None]:
    """Join the Ray at `address` (``auto``: the one of this machine), or start one of our own, and leave it.

    Raises `UserError` when it cannot be reached or could never hold one candidate.
    """
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if joined():
        check_room(resources)
        yield
        return
    if address is not None:
        _check_address(address)
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init("local", num_cpus=local_cpus(resources), include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if address is None:
            raise
        raise UserError("--address", address, ADDRESSES, " ".join(str(error).split())) from None
    try:
        check_room(resources)
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse what cannot be a cluster's address at once: Ray itself would try for a minute."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or "/" in host:
        fix = "Run weft on a machine of the cluster instead." if address.startswith("ray://") else ""
        raise UserError("--address", address, ADDRESSES, fix or nearest(address, ["auto"]))
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError("--address", address, ADDRESSES, f"Nothing answers there: {error}.") from None


def local_cpus(resources: Resources) -> int | None:
    """CPUs of a Ray of our own, so that `workers` candidates run at once; None is what the machine has."""
    workers = resources.max_workers or resources.workers
    if workers is None:
        return None
    cpus = workers * resources.cpus
    if cpus != int(cpus):
        fix = "Their product is the size of the Ray that is started, in whole CPUs."
        raise UserError("resources.workers", resources.workers, "a number that makes it whole with cpus", fix)
    return int(cpus)


def check_room(resources: Resources) -> None:
    """Refuse a candidate that no node has room for, now or after scaling up."""
    asked = request(resources)
    shapes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    growth = state.get_cluster_config()
    if growth is not None:
        shapes += [dict(group.resources) for group in growth.node_group_configs if group.max_count != 0]
    if any(all(shape.get(key, 0) >= amount for key, amount in asked.items()) for shape in shapes):
        return
    fields = {"CPU": "resources.cpus", "GPU": "resources.gpus"}
    for key, amount in asked.items():
        most = max(shape.get(key, 0) for shape in shapes)
        if amount > most:
            raise UserError(
                fields[key], amount, f"at most {most:g}, all that a node of this cluster can ever have"
            )
    held = sorted({", ".join(f"{shape.get(key, 0):g} {key}" for key in asked) for shape in shapes})
    raise UserError("resources", asked, f"what one node of this cluster has: {' or '.join(held)}")
