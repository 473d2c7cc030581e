"""Runs that are kept in a bucket: the same searches, gone on with from anywhere, by one driver at a time."""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import lease
from cluster.checkpoints import CheckpointStore
from cluster.grid import Grid, drive_local
from cluster.lease import s3_lease
from cluster.run import Run
from cluster.s3 import S3Path
from cluster.trial import Report
from cluster.writer import only_writer
from networks.errors import CannotGoOn, UserError
from tests.cluster.choices import write_tiny
from tests.cluster.commands import json_of, private_environment, run_weft, weft, write_recipe
from tests.cluster.s3_server import BUCKET, Proxy, serving
from tests.cluster.searches import new_grid, raise_after, resumed_grid, small_recipe


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with serving() as proxy:
        yield proxy


@pytest.fixture
def storage(server: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Path:
    monkeypatch.setenv("WEFT_WORK", str(tmp_path / "work"))
    return S3Path.of(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def search(recipe: str, storage: S3Path, cwd: Path, *more: str) -> dict[str, object]:
    ended = weft("search", recipe, "--local", "--json", "--set", f"storage={storage}", *more, cwd=cwd)
    assert ended.code == 0, ended.err
    found: dict[str, object] = json.loads(ended.out)
    return found


def names(folder: S3Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_grid_search_ends_as_on_a_disk(storage: S3Path, tmp_path: Path, undisturbed: Grid) -> None:
    write_recipe(tmp_path)
    before = set(tmp_path.iterdir())
    found = search("small.yaml", storage, tmp_path)
    assert found["ledger_digest"] == undisturbed.run.ledger.digest()
    assert set(tmp_path.iterdir()) - before == {tmp_path / "work"}
    run = storage / "small-001"
    assert {"run.json", "recipe.yaml", "numerics.json", "ledger", "candidates", "pictures", "report.md",
            "report.json", "finished.json"} <= names(run)  # fmt: skip
    assert "lease.json" not in names(run)
    assert (run / "pictures" / "best-1.png").read_bytes().startswith(b"\x89PNG")
    shown = weft("show", "small", "--storage", str(storage), "--json", cwd=tmp_path)
    assert json.loads(shown.out)["ledger_digest"] == found["ledger_digest"]
    damaged = weft("damage", str(run), "0", "--json", cwd=tmp_path)
    assert json.loads(damaged.out)["picture"] == f"{run}/pictures/damage-000000.png"


@pytest.mark.slow
def test_mlflow_has_what_is_in_the_bucket(
    storage: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the search was driven, and wherever it is asked for later."""
    write_tiny(tmp_path)
    search("tiny.yaml", storage, tmp_path)
    run = Run(storage / "tiny-001")
    assert run.work == tmp_path / "work" / BUCKET / storage.key / "tiny-001"
    first = recorded(run)
    monkeypatch.setenv("WEFT_WORK", str(tmp_path / "elsewhere"))
    assert not run.work.exists()
    assert weft("sync", str(storage / "tiny-001"), cwd=tmp_path).code == 0
    assert recorded(run) == first


def test_of_two_writers_on_two_machines_one_waits(
    storage: S3Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would hold every candidate twice."""
    run = new_grid(small_recipe(storage)).run  # type: ignore[arg-type]
    waits = [True, False]
    (run.work / "tracking").mkdir(parents=True)
    with only_writer(run, lambda: False) as first:
        assert first is not None and not first.lost
        monkeypatch.setenv("WEFT_WORK", str(tmp_path / "elsewhere"))
        (run.work / "tracking").mkdir(parents=True)
        with only_writer(run, lambda: waits.pop(0)) as second:
            assert second is None and not waits
    with only_writer(run, lambda: False) as third:
        assert third is not None


def recorded(run: Run) -> list[str]:
    """The candidates that MLflow has of a run of the tiny recipe; checks what the parent has."""
    from mlflow import MlflowClient

    client = MlflowClient(run.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    assert len(runs) == 25 and parent.info.status == "FINISHED"
    assert {"report.md", "report.json", "ledger.parquet"} <= {
        one.path for one in client.list_artifacts(parent.info.run_id)
    }
    return sorted(one.data.tags["weft.candidate_id"] for one in runs if one is not parent)


@pytest.mark.usefixtures("no_mlflow")
def test_a_search_over_choices_ends_as_on_a_disk(storage: S3Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    on_disk = weft("search", "tiny.yaml", "--local", "--json", cwd=tmp_path)
    found = search("tiny.yaml", storage, tmp_path)
    assert found["ledger_digest"] == json.loads(on_disk.out)["ledger_digest"]
    assert names(storage / "tiny-001" / "best") == {"network.json", "network.safetensors"}


def test_it_goes_on_from_another_machine(
    storage: S3Path, tmp_path: Path, undisturbed: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(storage)  # type: ignore[arg-type]
    grid = new_grid(recipe)
    grid.reports.append(raise_after(RuntimeError, 7))
    with pytest.raises(RuntimeError):
        drive_local(grid)
    here = grid.run.work
    monkeypatch.setenv("WEFT_WORK", str(tmp_path / "elsewhere"))
    again = resumed_grid(recipe)
    assert again.run.folder == grid.run.folder and again.run.work != here
    drive_local(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.slow
def test_s3_may_fail_meanwhile(
    storage: S3Path, server: Proxy, undisturbed: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is an error for a while, twice."""
    monkeypatch.setattr("cluster.s3_client.FIRST_PAUSE_S", 0.01)
    grid = new_grid(small_recipe(storage))  # type: ignore[arg-type]

    def fail(report: Report) -> None:
        if (report.ask_index, report.epoch) in {(0, 1), (3, 1)}:
            server.answer, server.left = 503, 4

    grid.reports.append(fail)
    try:
        drive_local(grid)
    finally:
        server.answer = None
    assert grid.run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, storage: S3Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(storage / "supernet")
    for epoch in (1, 2, 3):
        store.save(epoch, {"weight": torch.full((4,), float(epoch))}, {"epoch": epoch})
    assert store.epochs() == [2, 3]
    newest = storage / "supernet" / "epoch-000003.safetensors"
    body = newest.read_bytes()
    newest.write_bytes(body[:-3] if damage == "truncated" else body[:-1] + bytes([body[-1] ^ 1]))
    found = store.newest()
    assert found is not None and found.epoch == 2
    assert "epoch-000003.safetensors cannot be used" in caplog.text


def test_what_cannot_be_used_is_refused_before_anything_is_written(storage: S3Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    before = set(tmp_path.iterdir())
    for given, said in (
        ("s3://weft-nobody/runs", "There is no such bucket"),
        ("s3://Nobody/runs", "A bucket's name has 3 to 63"),
    ):
        ended = weft("search", "small.yaml", "--local", "--set", f"storage={given}", cwd=tmp_path)
        assert ended.code == 2 and said in ended.err and "storage" in ended.err, ended.err
    assert set(tmp_path.iterdir()) == before


# The lease ----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of seconds for seconds. The store's clock counts whole ones."""
    for name, seconds in (("EXPIRES_S", 2.0), ("RENEW_S", 0.2), ("LOOK_S", 0.1)):
        monkeypatch.setattr(lease, name, seconds)


@pytest.mark.usefixtures("quick")
def test_of_two_drivers_one_is_refused(storage: S3Path) -> None:
    path = storage / "lease.json"
    with s3_lease(path, "x-001") as held:
        with pytest.raises(UserError, match=r"RUN: 'x-001'.*no other process is driving.*That is process"):
            s3_lease(path, "x-001").__enter__()
        time.sleep(3)  # longer than it lasts unless it is renewed
        held.check()
        with pytest.raises(UserError):
            s3_lease(path, "x-001").__enter__()
    assert not path.exists()
    with s3_lease(path, "x-001"):
        pass


@pytest.mark.usefixtures("quick")
def test_the_lease_of_the_dead_is_taken(storage: S3Path, caplog: pytest.LogCaptureFixture) -> None:
    path = storage / "lease.json"
    path.write_bytes(b'{"host": "there", "pid": 7, "count": 3}')
    with s3_lease(path, "x-001") as held:
        held.check()
    assert "to see whether process 7 on there still drives x-001" in caplog.text


@pytest.mark.usefixtures("quick")
def test_who_lost_the_lease_is_told_and_leaves_it_to_the_other(storage: S3Path) -> None:
    path = storage / "lease.json"
    with s3_lease(path, "x-001") as held:
        path.write_bytes(b"another's")
        wait_until(lambda: held.lost)
        with pytest.raises(CannotGoOn, match="taken over"):
            held.check()
    assert path.read_bytes() == b"another's"


@pytest.mark.usefixtures("quick")
def test_s3_may_fail_while_the_lease_is_held(
    storage: S3Path, server: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cluster.s3_client.PATIENCE_S", 0.1)
    with s3_lease(storage / "lease.json", "x-001") as held:
        with server.failing(503):
            wait_until(lambda: "could not be renewed" in caplog.text)  # boto3 tries for up to 3 s, at random
        renewed = held_note(storage)["count"]
        wait_until(lambda: held_note(storage)["count"] > renewed)
        held.check()


def held_note(storage: S3Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((storage / "lease.json").read_text())
    return note


def wait_until(true: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_search_stops_when_its_lease_is_lost(
    storage: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_mlflow: None
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    write_recipe(tmp_path)
    stop = threading.Event()

    def take() -> None:
        path = storage / "small-001" / "lease.json"
        while not stop.wait(0.02):
            if path.exists():
                path.write_bytes(b"{}")
                return

    thief = threading.Thread(target=take)
    thief.start()
    try:
        ended = weft("search", "small.yaml", "--local", "--set", f"storage={storage}", cwd=tmp_path)
    finally:
        stop.set()
        thief.join()
    assert ended.code == 1 and "another process has taken over this run" in ended.err, ended.err
    assert "finished.json" not in names(storage / "small-001"), "that is the other's to write"


def test_a_lease_that_is_held_says_so(storage: S3Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with s3_lease(storage / "lease.json", "x-001"):
        note = json.loads((storage / "lease.json").read_text())
        assert {"host", "pid", "count"} <= set(note)
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "choices"])
def test_searches_on_ray_keep_everything_in_the_bucket(
    kind: str, storage: S3Path, tmp_path: Path, undisturbed: Grid
) -> None:
    """Also what Tune writes meanwhile: on a cluster its processes share no disk."""
    pytest.importorskip("ray")
    write = write_recipe if kind == "grid" else write_tiny
    path = write(tmp_path)
    at = f"storage={storage}"
    with private_environment(WEFT_WORK=str(tmp_path / "work")) as env:
        ended = run_weft("search", path.name, "--json", "--set", at, "--set", "resources.workers=2",
                         cwd=tmp_path, env=env)  # fmt: skip
    found = json_of(ended)
    if kind == "grid":
        assert found["ledger_digest"] == undisturbed.run.ledger.digest()
    else:
        alone = weft("search", path.name, "--local", "--json", cwd=tmp_path)
        assert found["ledger_digest"] == json.loads(alone.out)["ledger_digest"]
    assert "scratch" not in names(storage / found["run"])
    assert not list((tmp_path / "work").rglob("*.pkl"))
