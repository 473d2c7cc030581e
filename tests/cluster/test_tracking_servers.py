"""MLflow as teams run it: a server on PostgreSQL with artifacts in a bucket, killed and started again."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.run import Run
from cluster.tracker import MLFLOW_ENVIRONMENT, WriterProcess, check_tracked
from networks.errors import UserError
from tests.cluster.commands import weft
from tests.cluster.mlflow_server import MlflowServer, mlflow_server, postgres
from tests.cluster.s3_server import BUCKET, serving
from tests.cluster.threads import wait_for
from tests.cluster.tracked import (
    SEGMENTS,
    artifacts,
    client_of,
    commit,
    describe_run,
    finish,
    make_row,
    parent_id,
    read_back,
)

pytestmark = pytest.mark.slow
MANY = [[make_row(5 * part + ask, 0, "ok", 0.01 * ask) for ask in range(5)] for part in range(8)]


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    with serving():
        yield


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module")
def server(database: str, bucket: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(database, f"s3://{BUCKET}/artifacts", folder) as running:
        yield running


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def new_run(folder: Path, uri: str | None, segments: list[Any], experiment: str = "wiring") -> Path:
    folder.mkdir(parents=True)
    run = describe_run(folder, "http://in.the.recipe", tracking_uri=uri, experiment=experiment)
    commit(run, segments)
    return run


def written(run: Path) -> subprocess.CompletedProcess[str]:
    """What `weft sync` does."""
    command = [sys.executable, "-m", "cluster.writer", str(run)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def expected(tmp_path: Path, segments: list[Any]) -> dict[str, dict[str, Any]]:
    """The same search in a database of its own."""
    run = new_run(tmp_path / "plain" / "first", None, segments)
    finish(run)
    assert written(run).returncode == 0
    return read_back(run)


def test_a_server_on_postgresql_holds_the_same(server: MlflowServer, tmp_path: Path) -> None:
    run = new_run(tmp_path / "first", server.url, SEGMENTS)
    finish(run)
    done = written(run)
    assert done.returncode == 0, done.stderr
    assert read_back(run) == expected(tmp_path, SEGMENTS)
    assert {"leaders.csv", "ledger.parquet", "recipe.yaml"} <= artifacts(run)
    place = client_of(run).get_run(parent_id(run)).info.artifact_uri
    assert place.startswith("mlflow-artifacts:"), "who reads them needs no key of the bucket"


def test_a_database_without_a_server_holds_the_same(
    database: str, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address, password included, comes from the environment and is written nowhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    check_tracked(None)
    run = new_run(tmp_path / "second" / "first", "$MLFLOW_TRACKING_URI", SEGMENTS, "direct")
    finish(run)
    done = written(run)
    assert done.returncode == 0, done.stderr
    assert read_back(run, "direct") == expected(tmp_path, SEGMENTS)
    kept = [file for file in run.rglob("*") if file.is_file()]
    assert kept
    assert not [file for file in kept if b"canary-password" in file.read_bytes()]
    assert "canary-password" not in done.stdout + done.stderr
    assert "127.0.0.1" in done.stderr, "it says where it writes"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    lost = written(run)
    assert lost.returncode == 2
    assert "MLFLOW_TRACKING_URI" in lost.stderr


def test_a_wrong_password_is_refused_without_being_said(database: str) -> None:
    wrong = database.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(UserError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", wrong)
        check_tracked(None)
    assert caught.value.field == "MLFLOW_TRACKING_URI"
    assert "canary-password" not in str(caught.value)


def test_a_server_that_is_killed_is_caught_up_with(server: MlflowServer, tmp_path: Path) -> None:
    run = new_run(tmp_path / "killed" / "first", server.url, MANY[:5], "killed")
    writer = WriterProcess(Run(run))
    writer.start()
    try:
        wait_for(lambda: len(children(run, "killed")) > 6)
        server.kill()
        commit(run, MANY[5:])
        finish(run)
        assert not writer.drain(3)
        assert writer.running, "it waits for MLflow"
        server.start()
        assert writer.drain(120)
    finally:
        writer.stop()
    assert read_back(run, "killed") == expected(tmp_path, MANY)


def test_down_for_the_whole_search_and_synced_later(server: MlflowServer, tmp_path: Path) -> None:
    server.kill()
    try:
        run = new_run(tmp_path / "runs" / "first", server.url, MANY, "synced")
        writer = WriterProcess(Run(run))
        writer.start()
        finish(run)
        assert not writer.drain(8)
        assert writer.outbox == len(MANY)
        writer.stop()
    finally:
        server.start()
    done = weft("sync", "first", "--storage", "runs", cwd=tmp_path)
    assert done.code == 0, done.err
    assert read_back(run, "synced") == expected(tmp_path, MANY)


def children(run: Path, experiment: str) -> list[Any]:
    client = client_of(run)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], "tags.`weft.candidate_id` LIKE '%'"))
