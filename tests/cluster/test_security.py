"""What lies in a run's folder is data, whoever put it there; and what is secret is said to nobody."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.checkpoints import CheckpointStore
from cluster.grid import Grid, drive_local
from cluster.run import Run
from cluster.s3 import S3Path
from cluster.search_messages import SearchConfig
from networks.architecture import digest_of
from tests.cluster.choices import new_search, ready, reports, tiny_recipe
from tests.cluster.commands import weft, write_recipe
from tests.cluster.s3_server import BUCKET, Proxy, serving
from tests.cluster.searches import new_grid, raise_after, resumed_grid, small_recipe

PLANTED = (  # where Tune, and careless loaders of checkpoints, look
    "tuner.pkl", "trainable.pkl", "scratch/tune/tuner.pkl", "scratch/tune/trainable.pkl",
    "scratch/tune/experiment_state-2026-01-01_00-00-00.json", "scratch/tune/searcher-state-2026.pkl",
    "scratch/tune/search/_dict_checkpoint.pkl", "scratch/tune/search/checkpoint_000000/_dict_checkpoint.pkl",
    "supernet/_dict_checkpoint.pkl", "supernet/epoch-000009.pkl", "best/network.pkl",
)  # fmt: skip
PASSWORD, KEY, SECRET_KEY = "canary-password", "canary-key", "canary-secret"  # the bucket's are the server's


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    mark = tmp_path / "pwned"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.is_dir(), "the bomb works"
    mark.rmdir()
    return mark


def plant(run: Path, mark: Path) -> None:
    """Pickles everywhere, and in the place of the newest checkpoints, with checksums that fit."""
    bomb = pickle.dumps(Bomb(mark))
    for name in PLANTED:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(bomb)
    newest = {file.parent: file for file in sorted(run.rglob("epoch-*.safetensors"))}
    assert newest
    for weights in newest.values():
        weights.write_bytes(bomb)
        about = json.loads(weights.with_suffix(".json").read_text())
        about.pop("sha256")
        about["weights"] = hashlib.sha256(bomb).hexdigest()
        weights.with_suffix(".json").write_text(json.dumps({**about, "sha256": digest_of(about)}))


def interrupted_grid(storage: Path) -> Grid:
    grid = new_grid(small_recipe(storage))
    grid.reports.append(raise_after(RuntimeError, 9))
    with pytest.raises(RuntimeError):
        drive_local(grid)
    return grid


def interrupted_search(storage: Path) -> SearchConfig:
    """One whose supernet is trained, with two checkpoints."""
    config = new_search(tiny_recipe(storage, resources={"workers": 1, "cpus": 0.5}))
    trial = ready(config)
    while trial.pool.step < 4:
        trial.step()
    trial.close()
    return config


def test_a_grid_goes_on_among_planted_pickles(tmp_path: Path, mark: Path, undisturbed: Grid) -> None:
    grid = interrupted_grid(tmp_path / "runs")
    plant(Path(str(grid.run.folder)), mark)
    again = resumed_grid(small_recipe(tmp_path / "runs"))
    drive_local(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()
    assert not mark.exists()


def test_a_search_goes_on_among_planted_pickles(tmp_path: Path, mark: Path) -> None:
    whole = ready(new_search(tiny_recipe(tmp_path / "whole")))
    reports(whole)
    config = interrupted_search(tmp_path / "runs")
    assert len(CheckpointStore(config.folder / "supernet").epochs()) == 2, "one is there to go back to"
    plant(Path(str(config.folder)), mark)
    trial = ready(config)
    reports(trial)
    assert (trial.run.ledger.digest(), trial.pool.digest()) == (
        whole.run.ledger.digest(), whole.pool.digest(),
    )  # fmt: skip
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.ray
def test_so_do_searches_on_tune(shared_ray: None, tmp_path: Path, mark: Path, undisturbed: Grid) -> None:
    from cluster.tune_driver import drive_tune
    from cluster.tune_search import drive_tune_search

    grid = interrupted_grid(tmp_path / "grids")
    plant(Path(str(grid.run.folder)), mark)
    again = resumed_grid(small_recipe(tmp_path / "grids"))
    drive_tune(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()

    config = interrupted_search(tmp_path / "searches")
    plant(Path(str(config.folder)), mark)
    drive_tune_search(config, lambda report: None)
    whole = ready(new_search(tiny_recipe(tmp_path / "whole")))
    reports(whole)
    assert Run(config.folder).ledger.digest() == whole.run.ledger.digest()
    assert not mark.exists()


@pytest.mark.parametrize("adapter", ["TuneTrial", "TuneSearchTrial"])
def test_a_checkpoint_of_tunes_is_neither_written_nor_read(adapter: str, tmp_path: Path, mark: Path) -> None:
    pytest.importorskip("ray")
    from ray.tune import Checkpoint

    from cluster import tune_driver, tune_search

    kinds = {"TuneTrial": tune_driver.TuneTrial, "TuneSearchTrial": tune_search.TuneSearchTrial}
    (tmp_path / "_dict_checkpoint.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    stored = SimpleNamespace(checkpoint=Checkpoint.from_directory(str(tmp_path)), metrics={})
    trainable = kinds[adapter].__new__(kinds[adapter])  # its setup would need a search
    with pytest.raises(RuntimeError, match="from its own checkpoints, never from Tune's"):
        trainable.restore(stored)
    assert trainable.save().checkpoint is None
    assert not mark.exists()


@pytest.mark.slow
def test_what_reads_runs_reads_no_pickle(tmp_path: Path, mark: Path) -> None:
    """All that `weft` does with a finished run."""
    write_recipe(tmp_path)
    assert weft("search", "small.yaml", "--local", cwd=tmp_path).code == 0
    plant(tmp_path / "runs" / "small-001", mark)
    for words in ("show small", "status", "damage small 1", "sync small", "export small", "gc small"):
        assert "Traceback" not in weft(*words.split(), cwd=tmp_path).err
    assert not mark.exists()


@pytest.mark.slow
def test_a_recipe_of_a_run_is_data_too(tmp_path: Path, mark: Path) -> None:
    write_recipe(tmp_path)
    grid = interrupted_grid(tmp_path / "runs")
    tag = f"!!python/object/apply:os.mkdir [{mark}]\n"
    (Path(str(grid.run.folder)) / "recipe.yaml").write_text(tag)
    (tmp_path / "evil.yaml").write_text(f"version: 1\nname: {tag}")
    assert weft("search", "evil.yaml", "--local", cwd=tmp_path).code == 2
    assert weft("resume", "small", "--local", cwd=tmp_path).code == 0
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside", ".hidden", "a\\b", "a\0b"])
def test_a_run_is_never_named_out_of_its_storage(name: str, tmp_path: Path) -> None:
    from cluster.recipe import recipe_model
    from tests.cluster.searches import SMALL

    raw = {**SMALL, "name": name, "storage": str(tmp_path / "runs")}
    with pytest.raises(ValueError, match="name"):
        recipe_model(raw).model_validate(raw)


# Secrets ------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Proxy]:
    with serving() as proxy:
        yield proxy


@pytest.mark.slow
def test_no_secret_is_written_or_said(server: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of S3 and of MLflow, in a search that goes well and where both refuse."""
    monkeypatch.setenv("WEFT_WORK", str(tmp_path / "work"))
    monkeypatch.setattr("cluster.s3_client.PATIENCE_S", 2.0)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    write_recipe(tmp_path)
    storage = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    stored = ("--set", f"storage={storage}")
    said = [weft("search", "small.yaml", "--local", *stored, cwd=tmp_path)]
    assert said[0].code == 0, said[0].err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:9/runs")
    said.append(weft("search", "small.yaml", "--local", *stored, cwd=tmp_path))
    assert said[-1].code == 2 and "MLFLOW_TRACKING_URI" in said[-1].err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for status in (403, 503):
        with server.failing(status):
            said.append(weft("search", "small.yaml", "--local", *stored, cwd=tmp_path))
            assert said[-1].code != 0
    named = f"https://me:{PASSWORD}@mlflow.example"
    said.append(weft("search", "small.yaml", "--local", "--set", f"tracking.uri={named}", cwd=tmp_path))
    assert said[-1].code == 2 and "without a password" in said[-1].err
    texts = [one.out + one.err for one in said]
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    kept += [path.read_bytes() for path, _ in S3Path.of(storage).files()]
    assert len(kept) > 20
    for secret in (PASSWORD, KEY, SECRET_KEY):
        assert not [text for text in texts if secret in text]
        assert not [body for body in kept if secret.encode() in body]


def test_a_password_is_no_argument_of_a_process(tmp_path: Path) -> None:
    """Those can be read by everyone on the machine: MLflow's address reaches its processes otherwise."""
    shown = "import sys; print(open(f'/proc/{sys.argv[1]}/cmdline').read())"
    uri = f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:9/runs"
    serve = (
        "from cluster.mlflow_ui import serve; from rich.console import Console;"
        f"import os; serve(os.environ['U'], {5000 + os.getpid() % 1000}, Console(quiet=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", serve], env={**os.environ, "U": uri}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            child = await_child(process.pid)
            line = subprocess.run([sys.executable, "-c", shown, str(child)], capture_output=True, text=True)
        finally:
            process.terminate()
            process.wait(60)
    assert "mlflow" in line.stdout and PASSWORD not in line.stdout


def await_child(pid: int) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in found:
            if b"mlflow" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.05)
    raise AssertionError("no process was started")
