"""A cluster by Ray's launcher: a laptop with S3 and MLflow, and a head and a worker within its reach."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import boto3
import yaml

from tests.cluster.commands import ROOT, wait_until
from tests.cluster.ssh_server import Machine, Shell, machines

GUIDE = ROOT / "docs" / "cluster.md"
BUCKET = "weft-tests"
STORAGE = f"s3://{BUCKET}/runs"
CANARY = "canary-secret"
S3_PORT, MLFLOW_PORT, DASHBOARD_PORT = 5001, 5002, 8265
DASHBOARD = f"http://127.0.0.1:{DASHBOARD_PORT}"
PATIENCE_S = 180.0  # with anything, on a machine that has more to do
LOOK_S = 0.25


class Site:
    """`file`: the cluster's. The recipe my.yaml lies in the laptop's home."""

    def __init__(self, laptop: Machine, head: Machine, worker: Machine, recipe: dict[str, Any]) -> None:
        self.laptop, self.head, self.worker = laptop, head, worker
        self.mlflow = f"http://{laptop.address}:{MLFLOW_PORT}"
        self._s3 = f"http://{laptop.address}:{S3_PORT}"
        self.file = laptop.home / "local_cluster.yaml"
        self.file.write_text(yaml.safe_dump(self._config(), width=1000))
        self._furnish_laptop(recipe)
        for node in (head, worker):
            (node.home / ".weft").mkdir()
            (node.home / ".weft" / "venv").symlink_to(sys.prefix)
            (node.home / ".bashrc").write_text("export PYTHONPATH=~/weft\n")

    def _config(self) -> dict[str, Any]:
        """ray_cluster.yaml, changed as docs/cluster.md says for machines of one's own."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
        (block,) = re.findall(r"```yaml\n(provider:.*?)```", GUIDE.read_text(), re.DOTALL)
        config.update(yaml.safe_load(block), cluster_name=f"weft-{uuid.uuid4().hex[:8]}")
        for key in ("max_workers", "available_node_types", "head_node_type"):
            del config[key]
        config["provider"].update(head_ip=self.head.address, worker_ips=[self.worker.address])
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id"}
        # Nothing can be installed where there is no internet: the nodes have the project by PYTHONPATH.
        offline = [line for line in config["setup_commands"] if "pip install" not in line]
        assert len(offline) == len(config["setup_commands"]) - 1
        return {**config, "setup_commands": offline}

    def _furnish_laptop(self, recipe: dict[str, Any]) -> None:
        laptop = self.laptop
        environment = {
            "AWS_ENDPOINT_URL": self._s3,
            "AWS_ACCESS_KEY_ID": "canary-key",
            "AWS_SECRET_ACCESS_KEY": CANARY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": self.mlflow,
        }
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        laptop.env.update(environment, PATH=programs, RAY_AUTH_MODE="token", RAY_UP_enable_autoscaler_v2="0")
        (laptop.home / ".weft").mkdir()
        file = laptop.home / ".weft" / "environment"
        file.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
        file.chmod(0o600)
        (laptop.home / "my.yaml").write_text(yaml.safe_dump(recipe))
        assert laptop.run("ray", "get-auth-token", "--generate").returncode == 0

    @contextmanager
    def started(self, meanwhile: Callable[[], None]) -> Iterator[Self]:
        """After `ray up`, with both nodes, and with S3 and MLflow."""
        laptop, port = self.laptop, str(MLFLOW_PORT)
        laptop.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # a third of a core, for nothing
        artifacts = str(laptop.home / "artifacts")
        with ExitStack() as running:
            for command in (
                ["moto_server", "-H", laptop.address, "-p", str(S3_PORT)],
                ["mlflow", "server", "--host", laptop.address, "--port", port, "--workers", "1",
                 "--allowed-hosts", f"{laptop.address}:{port}", "--backend-store-uri", self.database,
                 "--artifacts-destination", artifacts],
            ):  # fmt: skip
                running.enter_context(Shell(laptop, *command, cwd=laptop.home))
            up = running.enter_context(
                Shell(laptop, "ray", "up", "--yes", "--no-config-cache", str(self.file), cwd=ROOT)
            )
            running.callback(self._forget_connections)
            meanwhile()
            wait_slowly(lambda: fetched(laptop, self._s3).startswith("200"), "S3")
            with laptop.network():
                self._bucket.create_bucket(Bucket=BUCKET)
            assert up.status(PATIENCE_S) == 0 and CANARY not in up.output(), up.output()
            wait_slowly(self._worker_is_there, "the worker")
            ask = f"{self.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
            wait_slowly(lambda: fetched(laptop, ask).startswith("200"), "MLflow")
            yield self

    @property
    def database(self) -> str:
        """MLflow's, which can be read without its server."""
        return f"sqlite:///{self.laptop.home / 'mlflow.db'}"

    def _worker_is_there(self) -> bool:
        """The head itself has no CPUs."""
        log = Path(self.head.env["RAY_TMPDIR"]) / "ray" / "session_latest" / "logs" / "monitor.log"
        return log.exists() and bool(re.search(r"Resized to [1-9]\d* CPUs", log.read_text()))

    def _forget_connections(self) -> None:
        """The launcher keeps them in /tmp, whatever TMPDIR is."""
        name = yaml.safe_load(self.file.read_text())["cluster_name"]
        for folder in Path("/tmp").glob(f"ray_ssh_*/{hashlib.sha256(name.encode()).hexdigest()[:10]}"):
            shutil.rmtree(folder)

    def ray(self, command: str, *arguments: str) -> tuple[int, str]:
        """`ray COMMAND FILE ARGUMENTS` on the laptop: the exit status, and what was said."""
        done = self.laptop.run("ray", command, str(self.file), *arguments, cwd=ROOT)
        assert CANARY not in done.stdout
        return done.returncode, done.stdout

    def submitting(self, *arguments: str, terminal: bool = False) -> Shell:
        """`ray submit` of a search."""
        script = ["cluster/submit.py", "--", *arguments, "--set", f"storage={STORAGE}"]
        return Shell(self.laptop, "ray", "submit", str(self.file), *script, cwd=ROOT, terminal=terminal)

    def submitting_job(self, recipe: str, *options: str, job: str = "") -> Shell:
        """`ray job submit` of a search, with a folder that holds the recipe theirs.yaml."""
        folder = self.laptop.home / "their-recipes"
        folder.mkdir(exist_ok=True)
        shutil.copy(self.laptop.home / "my.yaml", folder / "theirs.yaml")
        search = ["python", "-m", "cluster.submit", recipe, "--set", f"storage={STORAGE}", *options]
        named = ["--submission-id", job] if job else []
        submit = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", str(folder), *named]
        return Shell(self.laptop, *submit, "--", *search, cwd=ROOT)

    def names(self, run: str) -> list[str]:
        """Of what is kept of a run."""
        with self.laptop.network():
            listed = self._bucket.list_objects_v2(Bucket=BUCKET, Prefix=f"runs/{run}/")
        return [entry["Key"].removeprefix(f"runs/{run}/") for entry in listed.get("Contents", [])]

    def read(self, run: str, name: str) -> dict[str, Any]:
        """A run's JSON file."""
        with self.laptop.network():
            body = self._bucket.get_object(Bucket=BUCKET, Key=f"runs/{run}/{name}")["Body"].read()
        value: dict[str, Any] = json.loads(body)
        return value

    @cached_property
    def _bucket(self) -> Any:
        """A client, to be used in the laptop's network."""
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        return boto3.session.Session().client("s3", "us-east-1", endpoint_url=self._s3, **keys)

    def trains(self, run: str) -> None:
        """Wait until a candidate of the run has been trained for two epochs."""
        done = re.compile(r"candidates/\d+-\w+/epoch-(?!0+1\b)")
        wait_slowly(lambda: any(done.match(name) for name in self.names(run)), f"{run} trains")

    def stopped(self, run: str) -> None:
        """Wait until it is, and has left no process on either machine."""

        def left() -> list[str]:
            searching = [line for line in self.head.processes() if "cluster." in line or "submit" in line]
            return searching + [line for line in self.worker.processes() if "Trial" in line]

        wait_slowly(lambda: not left(), f"the end of {run}")
        assert self.read(run, "finished.json")["status"] == "KILLED"


@contextmanager
def launched(recipe: dict[str, Any], meanwhile: Callable[[], None]) -> Iterator[Site]:
    """A cluster that is up. `meanwhile` is called while that takes its time."""
    with (
        machines("laptop", "head", "worker") as (laptop, head, worker),
        Site(laptop, head, worker, recipe).started(meanwhile) as site,
    ):
        yield site


def fetched(machine: Machine, url: str) -> str:
    """Status and body, or why there is none, as that machine sees it."""
    with machine.network():
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return f"{answer.status} {answer.read().decode()}"
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return str(error)


def wait_slowly(condition: Callable[[], bool], what: str) -> None:
    """For what costs too much to be asked all the time."""

    def asked() -> bool:
        time.sleep(LOOK_S)
        return condition()

    wait_until(asked, PATIENCE_S, what)
