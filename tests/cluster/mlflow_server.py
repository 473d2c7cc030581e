"""MLflow servers of a team's kind: a process on loopback, on PostgreSQL, with artifacts in a bucket."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.debian import needed

START_S = 90.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a database of its own, which ends with it."""
    programs = Path(needed("initdb", "postgresql")).resolve().parent
    root = os.geteuid() == 0
    owner = "postgres" if root else pwd.getpwuid(os.geteuid()).pw_name  # it refuses to run as root
    base = Path(tempfile.mkdtemp(prefix="weft-pg-", dir="/tmp"))  # a socket's path must be short
    as_owner = {"user": owner, "group": owner, "extra_groups": []} if root else {}
    port, data = free_port(), base / "data"
    try:
        base.chmod(0o700)
        if root:
            shutil.chown(base, owner, owner)
        subprocess.run(
            [programs / "initdb", "--pgdata", data, "--auth", "trust", "--username", "weft", "--no-sync"],
            check=True, capture_output=True, cwd=base, timeout=START_S, **as_owner,
        )  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), "-k", base,
             "-c", "listen_addresses=127.0.0.1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=base, **as_owner,
        )  # fmt: skip
        try:
            ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q", "-d", "postgres"]
            await_true(lambda: subprocess.run(ready, timeout=START_S).returncode == 0, server)
            yield f"postgresql+psycopg://weft:canary-password@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # ends sessions; SIGTERM would wait for them
            server.wait(30)
    finally:
        shutil.rmtree(base, ignore_errors=True)


class MlflowServer:
    """A server that can be killed and started again at the same address. `url` leads there."""

    def __init__(self, store: str, artifacts: str, folder: Path) -> None:
        self._store, self._artifacts, self._folder = store, artifacts, folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """And wait until it answers."""
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        kept = ["--backend-store-uri", self._store, "--artifacts-destination", self._artifacts]
        with (self._folder / "mlflow-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *where, *kept],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        await_true(self._answers, self._process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """With the processes that it started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def mlflow_server(store: str, artifacts: str, folder: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(store, artifacts, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def await_true(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + START_S
    while not condition():
        assert process.poll() is None, f"it ended with status {process.returncode}"
        assert time.monotonic() < until, "it does not answer"
        time.sleep(0.1)
