"""`weft status`: where runs stand, from their folders alone."""

import json
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from cluster import status
from cluster.grid import Grid, drive_local
from cluster.run import Run
from cluster.status import Watched, watched
from tests.cluster.choices import new_search, ready, tiny_recipe
from tests.cluster.commands import weft
from tests.cluster.rows import commit, row
from tests.cluster.searches import new_grid, raise_after, small_recipe


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return new_grid(small_recipe(tmp_path / "runs"))


def test_a_search_that_died_and_one_that_ended(grid: Grid, tmp_path: Path) -> None:
    grid.reports.append(raise_after(RuntimeError, 7))
    with pytest.raises(RuntimeError):
        drive_local(grid)
    found = Watched(grid.run).look()
    rows = list(grid.run.ledger.rows())
    assert (found.run, found.state, found.driver) == ("small-001", "died", "")
    assert found.evaluations == len(rows) == 6
    assert found.best == max(row.metrics[found.metric] for row in rows)
    assert found.outbox == len(grid.run.ledger.segments()) and found.step is None
    grid.run.finish("KILLED")
    assert Watched(grid.run).look().state == "KILLED"
    shown = weft("status", cwd=tmp_path)
    assert shown.code == 0 and "small-001" in shown.out and "KILLED" in shown.out
    (one,) = json.loads(weft("status", "--json", cwd=tmp_path).out)["runs"]
    assert one["evaluations"] == 6 and one["best"] == found.best


def test_only_what_is_new_is_read(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = status.read_segment
    monkeypatch.setattr(status, "read_segment", lambda path: read.append(path.name) or real(path))
    one = Watched(grid.run)
    assert (one.look().evaluations, one.look().best, one.look().per_minute) == (0, None, None)
    now = time.time_ns() // 1_000_000
    for minute in range(3):
        stamp = now - (2 - minute) * 60_000
        commit(grid.run.ledger, [row(2 * minute, time=stamp), row(2 * minute + 1, time=stamp)])
        found = one.look()
    assert found.evaluations == 6 and found.per_minute == pytest.approx(2.5)
    assert found.idle_s is not None and found.idle_s < 20
    assert read == ["00000000.json", "00000001.json", "00000002.json"]


def test_a_supernet_that_trains_says_how_far_it_is(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path / "runs"))
    trial = ready(config)
    trial.step()
    trial.close()
    found = Watched(Run(config.folder)).look()  # type: ignore[arg-type]
    assert (found.step, found.steps, found.evaluations) == (2, 4, 0)
    assert "step 2 of 4" in weft("status", "tiny-001", cwd=tmp_path).out


def test_watching_ends_with_the_search(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "WATCH_S", 0.05)
    console = Console(record=True, width=120)
    with grid.run.lock():
        watching = threading.Thread(target=watched, args=([Watched(grid.run)], console))
        watching.start()
        time.sleep(0.5)
        assert watching.is_alive()
        grid.run.finish("FINISHED")
    watching.join(20)
    assert not watching.is_alive()
    text = console.export_text()
    assert "running (process" in text or "FINISHED" in text


def test_no_runs_and_no_such_run(tmp_path: Path) -> None:
    assert weft("status", cwd=tmp_path).code == 0
    unknown = weft("status", "nothing", cwd=tmp_path)
    assert unknown.code == 2 and "RUN" in unknown.err
    both = weft("status", "--watch", "--json", cwd=tmp_path)
    assert both.code == 2 and "--json" in both.err
