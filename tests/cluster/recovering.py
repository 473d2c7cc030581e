"""How long a search stands still when something dies: `python -m tests.cluster.recovering [TURNS]`.

Prints a JSON object: seconds from the death to the end of the next training step, for each turn.

survivor   one of two replicas is killed
single     the only replica is killed; its successor starts from the last known state and trains again what
           was lost of at most ten seconds
machine    the machine of one of two replicas is killed: its sockets close
silent     the machine of one of two replicas falls silent, as when its network is cut: nothing closes
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from cluster.ray_pool import RayPool
from cluster.replica import ReplicaJob
from tests.chaos.processes import below, signal_each
from tests.chaos.ray_nodes import Node, RayNodes
from tests.cluster.commands import private_environment
from tests.cluster.pools import job_with, pids_of

JOB: ReplicaJob = job_with(steps=100_000)
BEFORE = 40  # steps of training that things are disturbed in


def next_step(pool: RayPool, disturb: Callable[[], None]) -> float:
    """Seconds from the disturbance until a step is trained that was not trained before."""
    pool.train(BEFORE)
    disturb()
    started = time.monotonic()
    pool.train(1)
    return time.monotonic() - started


def kill_replica(pool: RayPool) -> Callable[[], None]:
    return lambda: os.kill(pids_of(pool)[-1], signal.SIGKILL)


def turn(case: str, nodes: RayNodes) -> float:
    replicas = 1 if case == "single" else 2
    pool = RayPool(JOB, replicas)
    try:
        if case in {"survivor", "single"}:
            return next_step(pool, kill_replica(pool))
        machines = (machine_of(pid, nodes) for pid in pids_of(pool))
        node = next(machine for machine in machines if machine is not nodes.nodes[0])  # that is the head
        if case == "machine":
            return next_step(pool, lambda: nodes.kill(node))
        silent = [one.pid for one in below(node.pids)]
        try:
            return next_step(pool, lambda: signal_each(silent, signal.SIGSTOP))
        finally:
            nodes.kill(node)
    finally:
        pool.close()


def machine_of(pid: int, nodes: RayNodes) -> Node:
    return next(node for node in nodes.alive if pid in {one.pid for one in below(node.pids)})


def measured(cases: list[str], turns: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {case: [] for case in cases}
    own = {"RAY_AUTH_MODE": "disabled"}
    with private_environment(**own) as env, tempfile.TemporaryDirectory() as folder:
        os.environ.update({name: env[name] for name in ("HOME", "TMPDIR", "RAY_TMPDIR", "RAY_AUTH_MODE")})
        for number in range(turns):
            for case in cases:
                nodes = RayNodes(env, Path(folder))
                try:
                    nodes.ready()
                    with joined(nodes.address):
                        found[case].append(round(turn(case, nodes), 2))
                        print(f"turn {number}: {case} {found[case][-1]} s", file=sys.stderr, flush=True)
                finally:
                    nodes.close()
    return found


@contextmanager
def joined(address: str) -> Iterator[None]:
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


CASES = ["survivor", "single", "machine", "silent"]

if __name__ == "__main__":
    print(json.dumps(measured(CASES, int(sys.argv[1]) if len(sys.argv) > 1 else 1)))
