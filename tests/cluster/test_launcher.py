"""`ray up`, `submit`, `exec`, `down` and `ray job submit` for real: over ssh, on a head and a worker, with
`ray_cluster.yaml` as docs/cluster.md says for machines of one's own."""

import json
import re
from collections.abc import Iterator
from unittest import mock

import pytest
import yaml
from mlflow import MlflowClient

import cluster.experiment
from tests.cluster.choices import NoWriter
from tests.cluster.commands import ROOT, weft
from tests.cluster.launched import (
    CANARY,
    DASHBOARD,
    DASHBOARD_PORT,
    PATIENCE_S,
    STORAGE,
    Site,
    fetched,
    launched,
    wait_slowly,
)
from tests.cluster.searches import SMALL
from tests.cluster.ssh_server import Machine, Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Two candidates, trained for long enough to be stopped in between. On two cores they share one process, which
# takes seconds to start.
TINY = {
    **SMALL,
    "name": "tiny",
    "space": {
        "kind": "randwire", "regime": "cifar", "nodes": 4, "channels": 4, "head_channels": 16, "seeds": 1,
        "generators": [{"generator": "WS", "k": 2, "p": [0.0, 0.5]}],
    },
    "data": {"name": "digits", "limit": 120},
    "training": {"epochs": 16, "batch_size": 32},
    "stopping": {"kind": "none"},
    "resources": {"cpus": 2},
}  # fmt: skip
LONG = ("--set", "training.epochs=2000", "--set", "name=long")


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, str]:
    """The digest of TINY's ledger, once it is searched."""
    return {}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, undisturbed: dict[str, str]) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("undisturbed")

    def search() -> None:
        (folder / "my.yaml").write_text(yaml.safe_dump(TINY))
        with mock.patch.object(cluster.experiment, "WriterProcess", NoWriter):
            ended = weft("search", "my.yaml", "--local", "--json", cwd=folder)
        undisturbed["digest"] = json.loads(ended.out)["ledger_digest"]

    with launched(TINY, search) as site:
        yield site


@pytest.fixture(scope="module")
def dashboard(site: Site) -> Iterator[None]:
    """Forwarded to the laptop, as the page says."""
    with Shell(site.laptop, "ray", "dashboard", str(site.file), cwd=ROOT):
        wait_slowly(lambda: fetched(site.laptop, f"{DASHBOARD}/api/version") == "401", "the dashboard")
        yield


def test_nodes_are_told_what_they_must_know(site: Site) -> None:
    for node in (site.head, site.worker):
        for name in (".weft/environment", ".ray/auth_token"):
            assert (node.home / name).read_bytes() == (site.laptop.home / name).read_bytes()
        assert (node.home / ".weft" / "environment").stat().st_mode & 0o777 == 0o600
        assert CANARY not in (node.home / ".bashrc").read_text()
    assert CANARY not in (site.head.home / "ray_bootstrap_config.yaml").read_text()


def test_the_dashboard_is_on_loopback_and_asks_for_the_token(site: Site) -> None:
    assert fetched(site.head, f"{DASHBOARD}/api/version") == "401"
    for machine in (site.head, site.laptop):
        beyond = fetched(machine, f"http://{site.head.address}:{DASHBOARD_PORT}/api/version")
        assert "Connection refused" in beyond


def test_a_search_is_stopped_twice_and_then_done(site: Site, undisturbed: dict[str, str]) -> None:
    """By Ctrl-C at a terminal, and by a `ray submit` that is interrupted where there is none."""
    assert site.ray("rsync-up", str(site.laptop.home / "my.yaml"), "~/my.yaml")[0] == 0
    with site.submitting("my.yaml", terminal=True) as first:
        site.trains("tiny-001")
        first.press_ctrl_c()
        assert first.status(PATIENCE_S) == 1
        assert "tiny-001 is stopped; all finished epochs are kept. To go on: " in first.output()
    site.stopped("tiny-001")
    with site.submitting("my.yaml", "--resume") as second:
        second.says("/2 candidates · ", PATIENCE_S)
        second.interrupt()
        assert second.status(PATIENCE_S) == 1
    site.stopped("tiny-001")
    with site.submitting("my.yaml", "--resume") as third:
        assert third.status(PATIENCE_S) == 0, third.output()
        assert CANARY not in third.output()
    found = site.read("tiny-001", "report.json")
    assert found["ledger_digest"] == undisturbed["digest"] and found["finished"] == 2
    assert site.read("tiny-001", "finished.json")["status"] == "FINISHED"
    assert "pictures/best-1.png" in site.names("tiny-001") and "lease.json" not in site.names("tiny-001")
    assert recorded(site, "tiny-001") == ["FINISHED", "FINISHED"]
    status, said = site.ray("exec", f"weft status --storage {STORAGE}")
    assert status == 0 and re.search(r"tiny-001\s+FINISHED", said)


def recorded(site: Site, run: str) -> list[str]:
    """The states of a run's candidates in MLflow; checks what the parent has."""
    client = MlflowClient(site.database)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    (parent,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run}'")
    assert parent.info.status == "FINISHED"
    assert list((site.laptop.home / "artifacts").rglob(f"{parent.info.run_id}/artifacts/report.md"))
    mine = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return [child.info.status for child in client.search_runs([experiment.experiment_id], mine)]


@pytest.mark.usefixtures("dashboard")
def test_what_is_refused_says_so_and_what_is_detached_goes_on(site: Site) -> None:
    with site.submitting("my.yaml", *LONG, "--detach") as detached:
        with site.submitting("my.yaml", "--set", "training.epochs=none") as refused:
            assert refused.status(PATIENCE_S) == 1
            assert "training.epochs: 'none' cannot be used" in refused.output()
        with site.submitting_job("nothing") as job:
            assert job.status(PATIENCE_S) == 1
            assert "RECIPE: 'nothing' cannot be used" in job.output()
            assert "failed with exit code 2" in job.output()
        assert detached.status(PATIENCE_S) == 0, detached.output()
        assert "weft-logs/my-" in detached.output()
    site.trains("long-001")
    stopped = site.laptop.run("weft", "stop", "long", "--storage", STORAGE)
    assert stopped.returncode == 0 and "long-001: KILLED" in stopped.stdout
    site.stopped("long-001")


@pytest.mark.usefixtures("dashboard")
def test_a_job_is_stopped_and_another_is_done(site: Site) -> None:
    with site.submitting_job("theirs.yaml", *LONG, job="stopped") as stopped:
        site.trains("long-002")
        asked = site.laptop.run("ray", "job", "stop", "--address", DASHBOARD, "stopped")
        assert asked.returncode == 0 and "Job 'stopped' was stopped" in asked.stdout
        assert stopped.status(PATIENCE_S) == 0, "so it is with ray job submit"
        assert "long-002 is stopped; all finished epochs are kept" in stopped.output(), stopped.output()
    site.stopped("long-002")
    with site.submitting_job("theirs.yaml") as done:
        assert done.status(PATIENCE_S) == 0, done.output()
        assert "succeeded" in done.output() and CANARY not in done.output()
    assert site.read("tiny-002", "finished.json")["status"] == "FINISHED"
    assert recorded(site, "tiny-002") == ["FINISHED", "FINISHED"]


@pytest.mark.usefixtures("dashboard")
def test_nobody_submits_without_the_token(site: Site) -> None:
    command = ["ray", "job", "submit", "--address", DASHBOARD, "--", "true"]
    stranger = site.laptop.run("env", "RAY_AUTH_MODE=disabled", *command)
    assert stranger.returncode != 0 and "Missing authentication token" in stranger.stdout


def test_ray_down_and_what_the_page_says_beside_leave_nothing(site: Site) -> None:
    status, said = site.ray("down", "--yes")
    assert status == 0 and "No nodes remaining" in said, said
    assert not of_ray(site.head)
    login = ["-i", str(site.laptop.home / ".ssh" / "id"), "-o", "StrictHostKeyChecking=no"]
    there = site.laptop.run("ssh", *login, f"root@{site.worker.address}", "bash -ic 'ray stop'")
    assert there.returncode == 0, there.stdout
    assert not of_ray(site.worker)


def of_ray(machine: Machine) -> list[str]:
    marks = ("raylet", "gcs_server", "ray::", "/ray/dashboard", "log_monitor", "monitor.py")
    return [line for line in machine.processes() if any(mark in line for mark in marks)]
