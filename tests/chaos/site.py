"""Where rounds are played: S3, an MLflow server and three Ray nodes, real and on loopback, with a home."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from cluster.s3 import S3Path
from cluster.s3_client import S3Client
from tests.chaos.processes import belonging, end
from tests.chaos.ray_nodes import RayNodes
from tests.cluster.commands import private_environment
from tests.cluster.mlflow_server import MlflowServer
from tests.cluster.s3_server import BUCKET, Proxy, serving

STORAGE = f"s3://{BUCKET}/chaos"
# Ray's own, beside each raylet: of one that has lost its head they may stay for a minute and more.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
LEFT_S = 40.0  # a worker that Ray was just starting looks for its dead cluster for half a minute


class Survivors(RuntimeError):
    """Processes that did not end with their site; they are ended now."""


class Site:
    """`storage` is read past the proxy that fails; `env`: of every process that is started here."""

    def __init__(self, env: dict[str, str], proxy: Proxy) -> None:
        self.env, self.proxy = env, proxy
        self.folder = Path(env["HOME"]).parent
        store = f"sqlite:///{self.folder / 'mlflow.db'}"
        self.mlflow = MlflowServer(store, str(self.folder / "artifacts"), self.folder)
        self.s3: Any = boto3.session.Session().client("s3", endpoint_url=proxy.upstream)
        asked = S3Path.of(STORAGE)
        self.storage = S3Path(asked.bucket, asked.key, [S3Client(asked.bucket, self.s3)])
        self._clusters: list[RayNodes] = []
        self._starting = threading.Thread()  # MLflow

    @property
    def nodes(self) -> RayNodes:
        return self._clusters[-1]

    def begin_cluster(self) -> None:
        """Start Ray's nodes; `nodes.ready` waits for them. Those of an earlier cluster stay as they are."""
        self._clusters.append(RayNodes(self.env, self.folder))

    def mend(self) -> None:
        """End what is left of clusters whose head died, and start a node for each that was killed."""
        for cluster in self._clusters[:-1]:
            cluster.close()
        del self._clusters[:-1]
        self.nodes.fill_up()
        self.await_mlflow()

    def start_mlflow(self) -> None:
        """Begin to; `mlflow_answers` says when it is there."""
        self._starting = threading.Thread(target=self.mlflow.start, daemon=True)
        self._starting.start()

    def await_mlflow(self) -> None:
        """Until it answers, if it was started."""
        if self._starting.ident is not None:
            self._starting.join()

    def mlflow_answers(self) -> bool:
        return not self._starting.is_alive()

    def signal_mlflow(self, number: signal.Signals) -> None:
        """To all of the server's processes."""
        assert self.mlflow._process is not None
        os.killpg(self.mlflow._process.pid, number)

    def close(self) -> None:
        for cluster in self._clusters:
            cluster.close()
        self.await_mlflow()
        self.mlflow.kill()
        self.s3.close()


@contextmanager
def site() -> Iterator[Site]:
    """Everything up; in the end everything ended by number. Raises `Survivors` when something outlives it."""
    own = {"COLUMNS": "1000", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving() as proxy, private_environment(**own) as env, pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "TMPDIR", "RAY_TMPDIR", *own):  # also for what this process starts and reads
            patch.setenv(name, env[name])
        place = Site(env, proxy)
        try:
            place.begin_cluster()
            place.start_mlflow()
            place.nodes.ready()
            place.await_mlflow()
            yield place
        finally:
            place.close()
            end(pid for pid, command in belonging(place.folder).items() if command.startswith(AGENTS))
            left = outliving(place.folder)
        if left:
            raise Survivors(f"outlives its site: {'; '.join(one[:200] for one in left)}")


def outliving(folder: Path, patience_s: float = LEFT_S) -> list[str]:
    """The command lines of processes of this folder that do not end by themselves within this time. They are
    ended."""
    until = time.monotonic() + patience_s
    while left := belonging(folder):
        if time.monotonic() > until:
            end(left)
            return sorted(left.values())
        time.sleep(0.1)
    return []
