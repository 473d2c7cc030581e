"""The same search on every driver, through deaths and resumes: equal ledgers, bit for bit."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.barrier import NoBarrier
from cluster.experiment import interruptible
from cluster.grid import Grid, drive_local
from cluster.recipe import AshaStopping, Recipe
from cluster.trial import Report, candidate_seed
from networks.errors import UserError
from tests.cluster.searches import SMALL, new_grid, raise_after, resumed_grid, small_recipe
from trainers.data import DataSettings, open_data
from trainers.training import Diverged, Trainer


class Interrupted(BaseException):
    """Stands for the death of a driver in the middle of a search."""


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


def test_a_candidate_trains_alike_in_every_grid_that_holds_it(tmp_path: Path, undisturbed: Grid) -> None:
    space = {**SMALL["space"], "generators": [{"generator": "BA", "m": 1}], "seeds": [2]}
    alone = new_grid(small_recipe(tmp_path, space=space, stopping={"kind": "none"}))
    drive_local(alone)
    (row,) = alone.run.ledger.rows()
    in_the_grid = [
        point for other in undisturbed.run.ledger.rows() if other.label == row.label for point in other.curve
    ]
    assert row.label == "BA(1) seed 2" and in_the_grid
    kept = {"train_loss", "validation_loss", "validation_accuracy"}
    for found, expected in zip(row.curve, in_the_grid, strict=False):
        assert {key: found[key] for key in kept} == {key: expected[key] for key in kept}


@pytest.mark.parametrize("reports", [1, 4, 6, 7, 9, 11])
def test_a_driver_that_died_is_resumed(recipe: Recipe, undisturbed: Grid, reports: int) -> None:
    grid = new_grid(recipe)
    grid.reports.append(raise_after(Interrupted, reports))
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


def test_one_candidate_without_numbers_leaves_the_others_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = new_grid(small_recipe(tmp_path / "whole", stopping={"kind": "none"}))
    drive_local(whole)
    train_epoch = Trainer.train_epoch
    spoilt = candidate_seed(whole.search.recipe, whole.search.entrants[2].names)

    def diverge(trainer: Trainer) -> dict[str, float]:
        if trainer.seed == spoilt and trainer.epoch == 1:
            raise Diverged("the training loss is not a number at or before step 9")
        return train_epoch(trainer)

    monkeypatch.setattr(Trainer, "train_epoch", diverge)
    grid = new_grid(small_recipe(tmp_path / "spoilt", stopping={"kind": "none"}))
    drive_local(grid)
    expected, found = (list(one.run.ledger.rows()) for one in (whole, grid))
    assert [row.status for row in found] == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert "step 9" in found[2].reason and found[2].epoch == 1
    others = [ask for ask in range(6) if ask != 2]
    assert [found[ask].digest for ask in others] == [expected[ask].digest for ask in others]


def test_storage_that_fails_ends_the_search_and_fails_no_candidate(
    recipe: Recipe, undisturbed: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = new_grid(recipe)
    with monkeypatch.context() as full:
        full.setattr("cluster.checkpoints.write_atomically", no_space)
        with pytest.raises(UserError, match=r"storage: .*No space left"):
            drive_local(grid)
    again = resumed_grid(recipe)
    drive_local(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_other_images_on_another_machine_are_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = new_grid(recipe)
    other = recipe.data.model_copy(update={"split_seed": 1})
    monkeypatch.setattr("cluster.trial.open_data", lambda settings: open_data(other))
    with pytest.raises(UserError, match=r"data: 'digits'.*the same images on every machine"):
        drive_local(grid)
    assert not list(grid.run.ledger.rows())


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
            if "Trainable" in one["ActorClassName"] and one["State"] == "ALIVE"
        ]
        if not alive:
            break
        time.sleep(0.2)
    assert not alive
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())


def pid_of(report: Report) -> int:
    return int(report.place.rsplit(":", 1)[1])


@pytest.mark.ray
@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ray_equals_local(shared_ray: None, tmp_path: Path, undisturbed: Grid, cpus: int) -> None:
    """Trials of one CPU each run two at a time here; trials of two CPUs, one at a time."""
    grid = new_grid(small_recipe(tmp_path, resources={"cpus": cpus}))
    drive_tune(grid)
    assert grid.run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["first epoch", "last at the barrier", "last epoch"],
)
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
@pytest.mark.slow
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
    assert "process died 2 times, the last time: The actor died unexpectedly" in failed[0].reason
    assert failed[0].epoch >= 1 and failed[0].seconds > 0 and failed[0].time > 0
    assert deaths == 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_candidate_whose_process_dies_while_it_starts_fails_alone(shared_ray: None, tmp_path: Path) -> None:
    """Tune gives such a trial up at once, without trying it again; weft does."""
    grid = new_grid(small_recipe(tmp_path, retries=1))
    deadly = grid.search.recipe.model_copy(update={"data": DataSettings(name="tests.cluster.deadly:die")})
    grid.configs[2] = grid.configs[2].model_copy(update={"recipe": deadly})
    drive_tune(grid)
    failed = [row for row in grid.run.ledger.rows() if row.status == "failed"]
    assert [row.candidate.ask_index for row in failed] == [2]
    assert "process died 2 times" in failed[0].reason


@pytest.mark.ray
def test_a_fault_of_storage_ends_a_search_on_ray(shared_ray: None, recipe: Recipe) -> None:
    grid = new_grid(recipe)
    for config in grid.configs:  # a file where the candidate's folder should be
        config.checkpoints.folder.parent.mkdir(exist_ok=True)
        config.checkpoints.folder.touch()
    with pytest.raises(UserError, match="storage"):
        drive_tune(grid)
    assert not list(grid.run.ledger.rows())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_processes_of_trials(
    shared_ray: None, recipe: Recipe, undisturbed: Grid, asked: signal.Signals
) -> None:
    """Between two of Tune's steps, not in the middle of one; and in a process that goes on, another search
    finds the room that they had."""
    grid = new_grid(recipe)
    before: list[Report] = []
    whole: list[Report] = []

    def press(report: Report) -> None:
        before.append(report)
        if len(before) == 4:
            os.kill(os.getpid(), asked)
            time.sleep(0.01)
        whole.append(report)

    grid.reports.append(press)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        drive_tune(grid)
    assert whole == before and len(whole) >= 4
    assert_nothing_left()
    again = resumed_grid(recipe)
    drive_tune(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()


@pytest.mark.ray
@pytest.mark.slow
def test_no_numbers_fail_under_asha_too(shared_ray: None, tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 32, "lr": 1e30}
    grid = new_grid(small_recipe(tmp_path, training=training, stopping={"kind": "asha", "eta": 2}))
    drive_tune(grid)
    rows = list(grid.run.ledger.rows())
    assert len(rows) == 6 and {row.status for row in rows} == {"failed"}


@pytest.mark.ray
@pytest.mark.slow
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


@pytest.mark.parametrize("ended", [0, 4])
def test_asha_remembers_who_ended_before_a_resume(tmp_path: Path, ended: int) -> None:
    from cluster.tune_driver import AshaScheduler

    grid = new_grid(small_recipe(tmp_path, stopping={"kind": "asha", "eta": 2}))
    assert isinstance(grid.barrier, NoBarrier) and isinstance(grid.search.recipe.stopping, AshaStopping)
    for ask in range(ended):
        good = {"epoch": 1.0, "validation_accuracy": 0.9 + ask / 100}
        grid.barrier.end(Report(ask_index=ask, epoch=1, curve=(good,)), "stopped")
    scheduler = AshaScheduler(grid, grid.barrier, grid.search.recipe.stopping)
    trial = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)
    poor = Report(ask_index=5, epoch=1, curve=({"epoch": 1.0, "validation_accuracy": 0.1},))
    result = {"report": poor.model_dump_json(), "epoch": 1, **poor.metrics}
    assert scheduler.on_trial_result(None, trial, result) == ("STOP" if ended else "CONTINUE")


@pytest.mark.ray
def test_more_than_the_cluster_has_is_refused_at_once(shared_ray: None) -> None:
    from cluster.ray_cluster import check_room
    from cluster.recipe_base import Resources

    with pytest.raises(UserError, match=r"resources\.gpus: 8.*at most 0"):
        check_room(Resources(gpus=8))
    with pytest.raises(UserError, match=r"resources\.cpus: 64.*at most 2"):
        check_room(Resources(cpus=64))


@pytest.mark.ray
def test_room_is_looked_for_on_one_node(shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from cluster.ray_cluster import check_room
    from cluster.recipe_base import Resources

    nodes = [{"Alive": True, "Resources": held} for held in ({"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0})]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_room(Resources(cpus=4, gpus=1))
    with pytest.raises(UserError, match=r"resources: .*'CPU': 8.*16 CPU, 0 GPU or 4 CPU, 1 GPU"):
        check_room(Resources(cpus=8, gpus=1))


def test_workers_size_a_whole_number_of_cpus() -> None:
    from cluster.ray_cluster import local_cpus
    from cluster.recipe_base import Resources

    assert local_cpus(Resources(cpus=0.5, workers=4)) == 2
    assert local_cpus(Resources()) is None
    with pytest.raises(UserError, match=r"resources\.workers: 1"):
        local_cpus(Resources(cpus=0.5, workers=1))


def test_trials_that_compute_otherwise_are_not_mixed_unasked(
    recipe: Recipe, undisturbed: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = new_grid(recipe)
    grid.reports.append(raise_after(Interrupted, 3))
    with pytest.raises(Interrupted):
        drive_local(grid)
    monkeypatch.setattr("cluster.trial.numerics", lambda *_: "torch 9, AVX9")
    with pytest.raises(UserError, match=r"allow_mixed: False.*this run began \(torch .*torch 9, AVX9"):
        drive_local(resumed_grid(recipe))
    again = resumed_grid(recipe.model_copy(update={"allow_mixed": True}))
    drive_local(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()
    assert {row.numerics for row in again.run.ledger.rows()} >= {"torch 9, AVX9"}
