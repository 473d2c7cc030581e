"""Ray nodes on loopback, each with an address of its own, held by a process of theirs.

``python -m tests.chaos.ray_nodes`` starts a head and two more, says what they are, starts another for each
line that it reads, and ends them all when there is nothing more to read: also when who started it is dead.
"""

import json
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.processes import Process, below, end, kill_family
from tests.cluster.commands import ROOT

START_S = 90.0
END_S = 30.0
# As in ray_cluster.yaml: a dead node is noticed after five seconds.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 700,
    "health_check_failure_threshold": 5,
}
# As their processes are called: Tune's trials by one name while they work, by another between two calls.
REPLICA = ("ReplicaActor",)
TRIAL = ("ResourceTrainable", "TuneSearchTrial", "TuneTrial")
ROOM = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


class Node(NamedTuple):
    """`pids`: of its own processes, whose children the workers are."""

    number: int
    pids: list[int]


class RayNodes:
    """A cluster: node 0 is the head. `ready` before anything else."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._log = folder / "ray-nodes.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.ray_nodes"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=ROOT, env=dict(env), start_new_session=True,
            )  # fmt: skip
        self._said: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.address = ""
        self.nodes: list[Node] = []
        self._dead: set[int] = set()

    def ready(self) -> None:
        """Wait until all three are there."""
        self.address = str(self._heard()["address"])
        for _ in range(3):
            self._take_in()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put("")

    def _heard(self) -> dict[str, Any]:
        line = self._said.get(timeout=START_S)
        if not line:
            raise RuntimeError(f"Ray's nodes ended: {self._log.read_text()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said

    def _take_in(self) -> None:
        self.nodes.append(Node(**self._heard()))

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.number not in self._dead]

    def workers(self, kinds: tuple[str, ...], node: Node | None = None) -> list[Process]:
        """Ray's workers of these kinds (`REPLICA`, `TRIAL`); those of one node."""
        pids = [pid for one in ([node] if node else self.alive) for pid in one.pids]
        titles = tuple(f"ray::{kind}" for kind in kinds)
        return [one for one in below(pids) if one.command.startswith(titles)]

    def kill(self, node: Node) -> None:
        """With all that runs there, as when a machine dies."""
        self._dead.add(node.number)
        end(one.pid for one in kill_family(node.pids))

    def fill_up(self) -> None:
        """A new node for each that is dead."""
        for _ in range(3 - len(self.alive)):
            assert self._process.stdin is not None
            self._process.stdin.write("another\n")
            self._process.stdin.flush()
            self._take_in()

    def close(self) -> None:
        """End all of it, by number."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        end(one.pid for one in kill_family([self._process.pid]))
        self._process.wait()
        self._listener.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> None:
    from ray._private.node import Node as RayNode
    from ray.cluster_utils import Cluster

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = Cluster(shutdown_at_exit=False)
    held: list[RayNode] = []

    def start(**more: Any) -> None:
        address = f"127.0.0.{2 + len(held)}"  # 127.0.0.1 would be taken for the machine's own
        held.append(cluster.add_node(node_ip_address=address, **ROOM, **more))

    def pids(node: RayNode) -> list[int]:
        return [info.process.pid for infos in node.all_processes.values() for info in infos]

    def told(node: RayNode) -> None:
        print(json.dumps({"number": held.index(node), "pids": pids(node)}), flush=True)

    start(_system_config=HEALTH, include_dashboard=False)
    print(json.dumps({"address": cluster.address}), flush=True)
    told(held[0])
    for _ in range(2):
        start()
        told(held[-1])
    while True:
        for node in held:
            for infos in node.all_processes.values():
                for info in infos:
                    info.process.poll()  # the killed leave no remains
        if select.select([sys.stdin], [], [], 0.2)[0]:
            if not sys.stdin.readline():
                break
            start()
            told(held[-1])
    end(one.pid for node in held for one in kill_family(pids(node)))


if __name__ == "__main__":
    main()
