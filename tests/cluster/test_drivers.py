"""The same search on every driver, through deaths and resumes: equal ledgers, bit for bit."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.grid import Grid, drive_local
from cluster.recipe import Recipe
from cluster.trial import Report
from networks.errors import UserError
from tests.cluster.searches import new_grid, resumed_grid, small_recipe


class Interrupted(BaseException):
    """Stands for the death of a driver in the middle of a search."""


def interrupt_after(reports: int) -> Callable[[Report], None]:
    heard = 0

    def listen(report: Report) -> None:
        nonlocal heard
        heard += 1
        if heard == reports:
            raise Interrupted

    return listen


def test_rungs_promote_the_best_half(undisturbed: Grid) -> None:
    rows = list(undisturbed.run.ledger.rows())
    assert [(row.rung, row.candidate.ask_index) for row in rows] == sorted(
        (row.rung, row.candidate.ask_index) for row in rows
    )
    assert [sum(row.rung == rung for row in rows) for rung in range(3)] == [6, 3, 2]
    first = {row.candidate.ask_index: row for row in rows if row.rung == 0}
    promoted = {ask for ask, row in first.items() if row.status == "promoted"}
    worst_promoted = min(first[ask].metrics["validation_accuracy"] for ask in promoted)
    assert all(
        row.metrics["validation_accuracy"] <= worst_promoted
        for ask, row in first.items()
        if ask not in promoted
    )
    assert all("test_accuracy" in row.metrics for row in rows if row.rung == 2)
    assert not any("test_accuracy" in row.metrics for row in rows if row.rung < 2)


def test_curves_hold_every_epoch_once(undisturbed: Grid) -> None:
    epochs: dict[int, list[float]] = {}
    for row in undisturbed.run.ledger.rows():
        epochs.setdefault(row.candidate.ask_index, []).extend(point["epoch"] for point in row.curve)
    assert len(epochs) == 6
    for seen in epochs.values():
        assert seen == list(range(1, len(seen) + 1))


def test_another_seed_gives_another_search(tmp_path: Path, undisturbed: Grid) -> None:
    grid = new_grid(small_recipe(tmp_path, seed=1))
    drive_local(grid)
    assert grid.run.ledger.digest() != undisturbed.run.ledger.digest()


@pytest.mark.parametrize("reports", [1, 4, 6, 7, 9, 11])
def test_a_driver_that_died_is_resumed(recipe: Recipe, undisturbed: Grid, reports: int) -> None:
    grid = new_grid(recipe)
    grid.reports.append(interrupt_after(reports))
    with pytest.raises(Interrupted):
        drive_local(grid)
    again = resumed_grid(recipe)
    drive_local(again)
    assert again.run.folder == grid.run.folder
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()


def test_asha_needs_ray(tmp_path: Path) -> None:
    grid = new_grid(small_recipe(tmp_path, stopping={"kind": "asha", "eta": 2}))
    with pytest.raises(UserError, match=r"stopping\.kind.*--local"):
        drive_local(grid)


def test_no_numbers_fail_one_candidate_alone(tmp_path: Path) -> None:
    grid = new_grid(small_recipe(tmp_path, training={"epochs": 2, "batch_size": 32, "lr": 1e30}))
    drive_local(grid)
    rows = list(grid.run.ledger.rows())
    assert len(rows) == 6
    assert {row.status for row in rows} == {"failed"}
    assert all("not a number" in row.reason and "step" in row.reason for row in rows)


# On Ray ---------------------------------------------------------------------------------------------


def drive_tune(grid: Grid) -> None:
    from cluster.tune_driver import drive_tune

    drive_tune(grid)
    assert_nothing_left()


def assert_nothing_left() -> None:
    """No trial actor and no placement group of a finished search is alive."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # a stopped actor takes a moment to end
        alive = [
            one
            for one in actors().values()
            if "TuneTrial" in one["ActorClassName"] and one["State"] == "ALIVE"
        ]
        if not alive:
            break
        time.sleep(0.2)
    assert not alive
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())


def pid_of(report: Report) -> int:
    return int(report.place.rsplit(":", 1)[1])


@pytest.mark.ray
@pytest.mark.parametrize("cpus", [1, 2])
def test_ray_equals_local(shared_ray: None, tmp_path: Path, undisturbed: Grid, cpus: int) -> None:
    """Trials of one CPU each run two at a time here; trials of two CPUs, one at a time."""
    grid = new_grid(small_recipe(tmp_path, resources={"cpus": cpus}))
    drive_tune(grid)
    assert grid.run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.ray
@pytest.mark.parametrize("moment", ["first epoch", "last at the barrier", "last epoch"])
def test_a_killed_trial_goes_on(shared_ray: None, recipe: Recipe, undisturbed: Grid, moment: str) -> None:
    grid = new_grid(recipe)
    waiting: set[int] = set()
    killed: list[int] = []

    def kill(report: Report) -> None:
        if report.epoch == 1:
            waiting.add(report.ask_index)
        due = {
            "first epoch": report.epoch == 1,
            "last at the barrier": report.epoch == 1 and len(waiting) == 5,
            "last epoch": report.epoch == 3,
        }[moment]
        if due and not killed:
            killed.append(report.ask_index)
            os.kill(pid_of(report), signal.SIGKILL)

    grid.reports.append(kill)
    drive_tune(grid)
    assert killed
    assert grid.run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.ray
def test_a_candidate_whose_process_always_dies_fails_alone(shared_ray: None, tmp_path: Path) -> None:
    grid = new_grid(small_recipe(tmp_path, retries=1))
    deaths = 0

    def kill(report: Report) -> None:
        nonlocal deaths
        if report.ask_index == 2:
            deaths += 1
            os.kill(pid_of(report), signal.SIGKILL)

    grid.reports.append(kill)
    drive_tune(grid)
    failed = [row for row in grid.run.ledger.rows() if row.status == "failed"]
    assert [row.candidate.ask_index for row in failed] == [2]
    assert "process died 2 times" in failed[0].reason
    assert deaths == 2


@pytest.mark.ray
def test_asha_stops_by_timing_but_metrics_do_not_differ(shared_ray: None, tmp_path: Path) -> None:
    full = new_grid(small_recipe(tmp_path / "full", stopping={"kind": "none"}))
    drive_local(full)
    expected = {
        (row.candidate.ask_index, point["epoch"]): point
        for row in full.run.ledger.rows()
        for point in row.curve
    }
    grid = new_grid(small_recipe(tmp_path / "asha", stopping={"kind": "asha", "eta": 2}))
    drive_tune(grid)
    rows = list(grid.run.ledger.rows())
    assert sorted(row.candidate.ask_index for row in rows) == list(range(6))
    assert any(row.status == "stopped" for row in rows)
    for row in rows:
        assert [point["epoch"] for point in row.curve] == list(range(1, row.epoch + 1))
        for point in row.curve:
            assert point == expected[row.candidate.ask_index, point["epoch"]]


@pytest.mark.ray
def test_more_than_the_cluster_has_is_refused_at_once(shared_ray: None) -> None:
    from cluster.recipe import Resources
    from cluster.tune_driver import check_room

    with pytest.raises(UserError, match=r"resources\.gpus: 8.*at most 0"):
        check_room(Resources(gpus=8))
    with pytest.raises(UserError, match=r"resources\.cpus: 64.*at most 2"):
        check_room(Resources(cpus=64))


def test_trials_that_compute_otherwise_are_not_mixed_unasked(
    recipe: Recipe, undisturbed: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = new_grid(recipe)
    grid.reports.append(interrupt_after(3))
    with pytest.raises(Interrupted):
        drive_local(grid)
    monkeypatch.setattr("cluster.trial.numerics", lambda *_: "torch 9, AVX9")
    with pytest.raises(UserError, match=r"allow_mixed: False.*this run began \(torch .*torch 9, AVX9"):
        drive_local(resumed_grid(recipe))
    again = resumed_grid(recipe.model_copy(update={"allow_mixed": True}))
    drive_local(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()
    assert {row.numerics for row in again.run.ledger.rows()} >= {"torch 9, AVX9"}
