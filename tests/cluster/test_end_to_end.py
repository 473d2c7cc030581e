"""Whole searches by the real command: own Rays, deaths, Ctrl-C, MLflow servers. Minutes, hence slow."""

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cluster.report import newest
from cluster.run import Run
from tests.cluster.commands import (
    Background,
    free_port,
    json_of,
    private_environment,
    processes_of,
    run_weft,
    wait_until,
    weft_command,
    write_recipe,
)
from tests.cluster.searches import SMALL

pytestmark = pytest.mark.slow

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from cluster.cli import main; main()"
TWO_WORKERS = ("search", "small.yaml", "--set", "resources.workers=2")
LEFT_S = 90.0  # a worker that Ray was just starting looks for its dead cluster for half a minute


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    with private_environment() as variables:
        yield variables


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and its run small-001, made with ``--local`` where ray is not installed."""
    folder = tmp_path_factory.mktemp("local")
    write_recipe(folder)
    command = [sys.executable, "-c", WITHOUT_RAY, "search", "small.yaml", "--local"]
    with private_environment() as env, Background(command, folder, env) as search:
        assert search.process.wait(120) == 0, search.output()
        assert "ray" not in search.output().lower().replace("array", "")
    return folder


@pytest.fixture(scope="module")
def expected(local: Path) -> dict[str, Any]:
    """The undisturbed search's report."""
    report: dict[str, Any] = json.loads((run_in(local).folder / "report.json").read_text())
    return report


def run_in(folder: Path, number: int = 1) -> Run:
    return Run(folder / "runs" / f"small-{number:03d}")


def results(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The ranking without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in report["ranking"]]


def assert_same(report: dict[str, Any], expected: dict[str, Any]) -> None:
    assert report["ledger_digest"] == expected["ledger_digest"]
    assert results(report) == results(expected)


def assert_in_mlflow(run: Run, *, status: str = "FINISHED") -> None:
    """The parent and every candidate of the ledger stand in MLflow once, with all that is known of them."""
    client = MlflowClient(run.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in found if one.data.tags.get("mlflow.runName") == run.name]
    assert parent.info.status == status
    children = [one for one in found if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    rows = {row.candidate.id: row for row in newest(run.ledger.rows())}
    assert sorted(one.data.tags["weft.candidate_id"] for one in children) == sorted(rows)
    for child in children:
        row = rows[child.data.tags["weft.candidate_id"]]
        for name in ("generator", "setting", "seed"):
            assert child.data.params[name] == str(row.names[name])
        assert (child.data.metrics["params"], child.data.metrics["macs"]) == (row.cost.params, row.cost.macs)
        assert child.data.metrics["validation_accuracy"] == row.metrics["validation_accuracy"]
        assert child.info.status == "FINISHED"


def assert_nothing_left(env: dict[str, str]) -> None:
    end = time.monotonic() + LEFT_S
    while (left := processes_of(env)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left


def test_local_needs_no_ray(local: Path, expected: dict[str, Any]) -> None:
    run = run_in(local)
    assert run.ending == "FINISHED"
    assert (expected["candidates"], expected["finished"], expected["stopped"]) == (6, 2, 4)
    assert_in_mlflow(run)


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_same_search(
    tmp_path: Path, env: dict[str, str], expected: dict[str, Any], workers: int
) -> None:
    if workers == 1:
        del env["RAY_AUTH_MODE"]  # as a user has it: Ray then makes a token, and what weft starts has it
    write_recipe(tmp_path)
    workers_set = f"resources.workers={workers}"
    ended = run_weft("search", "small.yaml", "--set", workers_set, "--json", cwd=tmp_path, env=env)
    assert_same(json_of(ended), expected)
    assert "arning" not in ended.stderr
    assert (Path(env["HOME"]) / ".ray" / "auth_token").exists() == (workers == 1)
    assert_in_mlflow(run_in(tmp_path))
    assert_nothing_left(env)


def test_a_killed_driver_is_resumed(tmp_path: Path, env: dict[str, str], expected: dict[str, Any]) -> None:
    write_recipe(tmp_path)
    run = run_in(tmp_path)
    with Background(weft_command(*TWO_WORKERS), tmp_path, env) as search:
        wait_until(lambda: len(run.ledger.segments()) > 0, 120, search.output())
        search.process.kill()
        search.process.wait()
    assert run.ending is None
    assert 0 < len({row.candidate.ask_index for row in run.ledger.rows() if row.final}) < 6
    report = json_of(run_weft(*TWO_WORKERS, "--resume", "--json", cwd=tmp_path, env=env))
    assert_same(report, expected)
    assert sorted(row["candidate"] for row in report["ranking"]) == list(range(6))
    assert_in_mlflow(run)
    assert_nothing_left(env)


def test_ctrl_c_stops_and_a_resumed_search_is_the_same(
    tmp_path: Path, env: dict[str, str], expected: dict[str, Any]
) -> None:
    write_recipe(tmp_path)
    run = run_in(tmp_path)
    with Background(weft_command(*TWO_WORKERS), tmp_path, env) as search:
        wait_until(lambda: len(run.ledger.segments()) > 0, 120, search.output())
        search.signal_all(signal.SIGINT)
        code = search.process.wait(60)  # a few seconds on a machine with nothing else to do
        said = search.output()
    assert code == 130, said
    advice = "weft search small.yaml --set resources.workers=2 --resume"
    assert said.splitlines()[-1].endswith(f"To go on: {advice}")
    assert "Traceback" not in said
    assert run.ending == "KILLED"
    assert_nothing_left(env)
    # Another driver may go on: what is decided does not depend on what runs it.
    resumed = run_weft("search", "small.yaml", "--local", "--resume", "--json", cwd=tmp_path, env=env)
    assert_same(json_of(resumed), expected)
    assert_in_mlflow(run)


def test_two_searches_at_once_do_not_mix(
    tmp_path: Path, env: dict[str, str], expected: dict[str, Any]
) -> None:
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    MlflowClient(uri).search_experiments(max_results=1)  # sets the database up
    write_recipe(tmp_path, tracking={"uri": uri})
    command = weft_command("search", "small.yaml", "--local")
    with Background(command, tmp_path, env) as first, Background(command, tmp_path, env) as second:
        for search in (first, second):
            assert search.process.wait(180) == 0, search.output()
    for number in (1, 2):
        run = run_in(tmp_path, number)
        assert run.ledger.digest() == expected["ledger_digest"]
        assert_in_mlflow(run)
    assert not run_in(tmp_path, 3).folder.exists()


def mlflow_server(folder: Path, port: int, env: dict[str, str]) -> Background:
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"), "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    return Background(command, folder, env)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_death_of_mlflow_does_not_stop_a_search(
    tmp_path: Path, env: dict[str, str], expected: dict[str, Any]
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    write_recipe(tmp_path, tracking={"uri": uri})
    run = run_in(tmp_path)
    with mlflow_server(tmp_path, port, env) as server:
        wait_until(lambda: answers(f"{uri}/health"), 90, "MLflow's start")
        search = Background(weft_command("search", "small.yaml", "--local"), tmp_path, env)
        wait_until(lambda: (run.folder / "run.json").exists(), 90, "the start of the search")
        server.signal_all(signal.SIGKILL)
    with search:
        wait_until(lambda: run.ending is not None, 60, "the end of the search")
        assert run.ending == "FINISHED"
        assert run.ledger.digest() == expected["ledger_digest"]
        with mlflow_server(tmp_path, port, env):  # it comes back, and is told everything
            assert search.process.wait(120) == 0, search.output()
            assert_in_mlflow(run)


def test_ui_serves_the_run(local: Path, env: dict[str, str]) -> None:
    port = free_port()
    with Background(weft_command("ui", "small", "--port", str(port)), local, env) as ui:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 90, "MLflow's page")
        assert f"http://127.0.0.1:{port}" in ui.output()
        names = MlflowClient(f"http://127.0.0.1:{port}").search_experiments()
        assert "small" in [one.name for one in names]
        ui.signal_all(signal.SIGINT)
        assert ui.process.wait(30) == 0
        assert "Traceback" not in ui.output()
    assert_nothing_left(env)


def test_show_and_damage_of_a_finished_run(
    local: Path, env: dict[str, str], expected: dict[str, Any]
) -> None:
    assert json_of(run_weft("show", "small", "--json", cwd=local, env=env)) == expected
    best = expected["ranking"][0]
    damage = json_of(run_weft("damage", "small", str(best["candidate"]), "--json", cwd=local, env=env))
    assert damage["undamaged"] == best["validation_accuracy"]
    nodes = SMALL["space"]["nodes"]  # type: ignore[index]
    assert sum(one["kind"] == "node" for one in damage["removals"]) == 3 * nodes
    assert os.path.getsize(damage["picture"]) > 0
