"""`weft stop` and `weft resume`: stopped from elsewhere, gone on with as the run's own recipe says."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

import cluster.experiment
from cluster import lease, stopping
from cluster.grid import drive_local
from networks.errors import CannotGoOn
from tests.cluster.choices import NoWriter
from tests.cluster.commands import (
    Background,
    private_environment,
    wait_until,
    weft,
    weft_command,
    write_recipe,
)
from tests.cluster.searches import new_grid, small_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.experiment, "WriterProcess", NoWriter)
    monkeypatch.setattr(stopping, "LOOK_S", 0.05)


@pytest.mark.slow
def test_a_search_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    """It is driven by a process of its own: a stop is a signal to that process."""
    changes = {"training": {"epochs": 10, "batch_size": 32}, "stopping": {"kind": "none"}}
    write_recipe(tmp_path, **changes)
    run = tmp_path / "runs" / "small-001"
    with (
        private_environment() as env,
        Background(weft_command("search", "small.yaml", "--local"), tmp_path, env),
    ):
        wait_until((run / "candidates").is_dir, 60, "no candidate was trained")
        stopped = weft("stop", "small-001", cwd=tmp_path)
        assert stopped.code == 0, stopped.err
    assert stopped.out.startswith("small-001: KILLED. To go on: weft resume runs/small-001")
    assert not (run / "stop.json").exists()
    again = weft("resume", "runs/small-001", "--local", "--json", cwd=tmp_path)
    assert again.code == 0, again.err
    undisturbed = new_grid(small_recipe(tmp_path / "other", **changes))
    drive_local(undisturbed)
    assert json.loads(again.out)["ledger_digest"] == undisturbed.run.ledger.digest()
    complete = weft("resume", "runs/small-001", "--local", cwd=tmp_path)
    assert complete.code == 2 and "This one is complete: weft show small-001" in complete.err


def test_what_is_not_driven_cannot_be_stopped(tmp_path: Path) -> None:
    run = new_grid(small_recipe(tmp_path / "runs")).run
    dead = weft("stop", "small-001", cwd=tmp_path)
    assert dead.code == 2 and "Its process died: weft resume small-001" in dead.err
    run.finish("FINISHED")
    ended = weft("stop", "small-001", cwd=tmp_path)
    assert ended.code == 2 and "It has ended: FINISHED" in ended.err
    assert not (run.folder / "stop.json").exists()


def test_it_is_told_when_a_search_does_not_stop(tmp_path: Path) -> None:
    run = new_grid(small_recipe(tmp_path / "runs")).run
    with run.lock():
        assert run.driver == f"process {os.getpid()}"
        with pytest.raises(CannotGoOn, match="was asked to stop and has not within"):
            stopping.stop(run, 0.2)
    assert not run.driver


def test_wishes_of_before_do_not_count(tmp_path: Path) -> None:
    run = new_grid(small_recipe(tmp_path / "runs")).run
    run.write_json(stopping.STOP, {})
    with run.lock(), stopping.heeding(run):
        time.sleep(0.3)
    assert not (run.folder / stopping.STOP).exists()


def test_a_lock_is_seen_without_taking_it(tmp_path: Path) -> None:
    file, release, taken = tmp_path / "lock", threading.Event(), threading.Event()
    assert not lease.disk_holder(file)

    def hold() -> None:
        with lease.disk_lease(file, "x"):
            taken.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(20)
    assert lease.disk_holder(file) == f"process {os.getpid()}"
    release.set()
    holder.join()
    assert not lease.disk_holder(file)
    file.write_text("999999999")
    assert not lease.disk_holder(file)
