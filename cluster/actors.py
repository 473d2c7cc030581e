"""Answers of actors that may be gone, and how to be rid of an actor's process."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

READ_S = 60.0  # to read an answer that has arrived
LOOK_S = 0.01  # between looks at whether a process has ended


class Died(RuntimeError):
    """The process that was called is gone, or its machine, or its answer with them."""


def answer(ref: ray.ObjectRef) -> Any:
    """What a call that has ended gave. Raises the error that our code or the user's raised there, and `Died`
    for everything else: no memory, a lost machine, a lost answer, no room to start."""
    try:
        return ray.get(ref, timeout=READ_S)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise Died(f"{type(error).__name__}: {error}") from error


def end_process(actor: ActorHandle, node: str = "", pid: int = 0, grace: float = 0) -> ray.ObjectRef | None:
    """Kill an actor, whatever it does; the call that does so where it runs on another machine.

    Ray's own way of killing asks the process, and a stopped one does not hear: 2.60 waits five seconds then,
    and what remains of a Ray that ends before is left for ever. So it is killed by its number as well, after
    `grace` seconds: `pid` on Ray's `node`, or what Ray knows of one that is still starting. With no grace Ray
    tells the user that a worker died unexpectedly."""
    if not pid:
        with suppress(Exception):  # Ray may be gone, here and below
            known = actors(actor._ray_actor_id.hex())
            node, pid = known["Address"]["NodeID"], known["Pid"]
    with suppress(Exception):  # dead as it may be
        ray.kill(actor)
    with suppress(Exception):
        if not pid:  # it has no process yet, and will have none
            return None
        if node != ray.get_runtime_context().get_node_id():
            there = NodeAffinitySchedulingStrategy(node, soft=True)  # soft: the node may be gone
            return ray.remote(num_cpus=0)(kill_on).options(scheduling_strategy=there).remote(node, pid, grace)
        kill(pid, grace)
    return None


def kill(pid: int, grace: float = 0) -> None:
    """Kill this process, unless it has ended or ends by itself, and another may have its number."""
    until = time.monotonic() + grace
    while _is_workers(pid):
        if time.monotonic() >= until:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(LOOK_S)


def _is_workers(pid: int) -> bool:
    if not Path("/proc/self").exists():
        return True  # it cannot be told
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()  # as Ray names its workers
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_on(node: str, pid: int, grace: float) -> None:
    """Kill the process if this is its machine."""
    if ray.get_runtime_context().get_node_id() == node:
        kill(pid, grace)
