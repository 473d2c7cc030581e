"""The life of a run that is kept in a bucket: compared, exported, extended and cleared as on a disk."""

import fcntl
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster.experiment
from cluster.files import path_of
from cluster.gc import Kept, clear_run
from cluster.logs import FILE as LOG
from cluster.network_file import load_network
from cluster.run import Run
from cluster.s3 import S3Path
from tests.cluster.choices import NoWriter, write_tiny
from tests.cluster.commands import weft, write_recipe
from tests.cluster.s3_server import BUCKET, serving

pytestmark = pytest.mark.slow  # whole searches


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with serving():
        yield


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Path:
    monkeypatch.setenv("WEFT_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(cluster.experiment, "WriterProcess", NoWriter)
    return S3Path.of(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def said(*arguments: str, cwd: Path) -> dict[str, object]:
    ended = weft(*arguments, "--json", cwd=cwd)
    assert ended.code == 0, ended.err
    found: dict[str, object] = json.loads(ended.out)
    return found


def test_a_search_is_compared_exported_and_extended(storage: S3Path, tmp_path: Path) -> None:
    write_tiny(tmp_path, baseline=False)
    there = str(storage / "tiny-001")
    said("search", "tiny.yaml", "--local", "--set", f"storage={storage}", cwd=tmp_path)
    said("search", "tiny.yaml", "--local", "--set", "searcher.generations=3", cwd=tmp_path)
    found = said("compare", there, "tiny-001", cwd=tmp_path)
    assert found["runs"] == [there, str(tmp_path / "runs" / "tiny-001")]
    assert found["differs"]["recipe"] == [{"field": "searcher.generations", "values": [2, 3]}]  # type: ignore[index]
    exported = said("export", there, "--to", f"{storage}/out", cwd=tmp_path)
    assert exported["folder"] == f"{storage}/out"
    assert load_network(storage / "out")[1]["genes"] == exported["genes"]
    grown = said("extend", "tiny", "--storage", str(storage), "--budget", "18", "--local", cwd=tmp_path)
    whole = Run(tmp_path / "runs" / "tiny-001")
    assert grown["ledger_digest"] == whole.ledger.digest()
    best = Run(path_of(there)).folder / "best" / "network.safetensors"
    assert best.read_bytes() == (whole.folder / "best" / "network.safetensors").read_bytes()
    assert not (Run(path_of(there)).folder / "lease.json").exists()


def test_a_grids_checkpoints_go_from_the_bucket(storage: S3Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    report = said("search", "small.yaml", "--local", "--set", f"storage={storage}", cwd=tmp_path)
    run = Run(storage / "small-001")
    sizes = {path.key: size for path, size in run.folder.files()}  # type: ignore[union-attr]
    found = said("gc", "--storage", str(storage), "--keep", "0", "--best", "1", cwd=tmp_path)
    left = {path.key for path, _ in run.folder.files()}  # type: ignore[union-attr]
    gone = sizes.keys() - left
    assert gone and all("/candidates/" in key for key in gone)
    assert found["bytes"] == sum(sizes[key] for key in gone)
    assert {key.split("/candidates/")[1][:6] for key in left if "/candidates/" in key} == {
        f"{report['ranking'][0]['candidate']:06d}"  # type: ignore[index]
    }
    assert run.ending == "FINISHED" and not run.driver
    with run.hold():
        everything = said("gc", "--storage", str(storage), cwd=tmp_path)
        assert "a run that no process drives" in everything["runs"][0]["left"]  # type: ignore[index]


def test_what_this_machine_keeps_of_a_finished_run_goes_but_for_mlflows_record(
    storage: S3Path, tmp_path: Path
) -> None:
    write_tiny(tmp_path)
    said("search", "tiny.yaml", "--local", "--set", f"storage={storage}", cwd=tmp_path)
    run = Run(storage / "tiny-001")
    for name in (
        "tracking/cursor.json",
        "tracking/ledger.parquet",
        "mlflow.db",
        "mlartifacts/tiny/x",
        "left.csv",
    ):
        (run.work / name).parent.mkdir(parents=True, exist_ok=True)
        (run.work / name).write_bytes(bytes(5))
    run.finish("KILLED")
    assert clear_run(run, Kept()).files == 0, "a resume goes on with it"
    run.finish("FINISHED")
    with (run.work / "tracking" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as the MLflow writer does
        assert clear_run(run, Kept()).files == 0
    found = clear_run(run, Kept(), dry_run=True)
    assert (found.files, found.bytes) == (3, 15)
    assert clear_run(run, Kept()) == found
    left = {path.name for path in run.work.rglob("*") if path.is_file()}
    assert left == {"mlflow.db", "x", "lock", LOG}
