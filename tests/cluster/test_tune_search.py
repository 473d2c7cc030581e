"""The tiny search on Ray Tune: the same as in one process, whatever dies."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

import ray
from ray.util.state import list_actors

import cluster.tune_search
from cluster.run import Run
from cluster.search_trial import SearchConfig, SearchReport
from cluster.tune_search import (
    TuneSearchTrial,
    check_replicas,
    drive_tune_search,
    replicas,
    room_for,
)
from networks.errors import UserError
from tests.cluster.choices import new_search, ready, reports, tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def resources(workers: int | None = 2, cpus: float = 0.5) -> dict[str, Any]:
    return {"workers": workers, "cpus": cpus}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Digests of the ledger and of the weights of the search in this process."""
    trial = ready(new_search(tiny_recipe(tmp_path_factory.mktemp("local"))))
    reports(trial)
    return trial.run.ledger.digest(), trial.pool.digest()


def weights(config: SearchConfig) -> str:
    """Of the last checkpoint."""
    return ready(config).pool.digest()


def left_over() -> list[str]:
    """Actors that are not dead."""
    return [one.class_name for one in list_actors(filters=[("state", "=", "ALIVE")], timeout=30)]


def test_it_ends_as_in_one_process(tmp_path: Path, local: tuple[str, str]) -> None:
    config = new_search(tiny_recipe(tmp_path, resources=resources()))
    said: list[SearchReport] = []
    before = left_over()
    drive_tune_search(config, said.append)
    assert (Run(config.folder).ledger.digest(), weights(config)) == local
    assert [report.done for report in said] == [False] * (len(said) - 1) + [True]
    assert said[-1].asked == 24
    assert not (config.folder / "scratch").exists()
    assert sorted(left_over()) == sorted(before)


def test_a_finished_search_is_done_at_once(tmp_path: Path, local: tuple[str, str]) -> None:
    recipe = tiny_recipe(tmp_path, resources=resources(1))
    config = new_search(recipe)
    trial = ready(config)
    for _ in range(4):  # begun in one process, gone on with on Ray
        trial.step()
    drive_tune_search(config, lambda report: None)
    assert Run(config.folder).ledger.digest() == local[0]
    said: list[SearchReport] = []
    drive_tune_search(config, said.append)
    assert [report.stage for report in said] == ["done"]


def test_a_reused_actor_leaves_no_trace(tmp_path: Path, local: tuple[str, str]) -> None:
    """As Tune does with reuse_actors: another search first, then `reset_config`."""
    other = tiny_recipe(
        tmp_path / "other", seed=9, space={"kind": "small_chain", "channels": 3, "head_channels": 4},
        resources=resources(1),
    )  # fmt: skip
    config = new_search(tiny_recipe(tmp_path / "runs", resources=resources(1)))
    trial = TuneSearchTrial({"search": new_search(other).model_dump_json()})
    try:
        trial.train()
        assert trial.reset({"search": config.model_dump_json()})
        while not trial.train()["done"]:
            pass
        assert trial.trial.pool.digest() == local[1]
    finally:
        trial.stop()
    assert Run(config.folder).ledger.digest() == local[0]


# What goes wrong --------------------------------------------------------------------------------------------


def test_a_mistake_of_the_user_is_raised_as_such(tmp_path: Path) -> None:
    supernet = {"steps": 4, "batch_size": 16, "paths_per_step": 2, "lr": 1e30}
    config = new_search(tiny_recipe(tmp_path, supernet=supernet, resources=resources(1)))
    with pytest.raises(UserError, match="not a number at step") as caught:
        drive_tune_search(config, lambda report: None)
    assert (caught.value.field, caught.value.value) == ("supernet.lr", "1e+30")


def test_a_search_that_cannot_start_says_why(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path, resources=resources(1)))
    trial = ready(config)
    trial.step()
    for path in (config.folder / "supernet").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="a whole checkpoint, unaltered"):
        drive_tune_search(config, lambda report: None)


@pytest.mark.parametrize(("workers", "cpus", "room"), [(3, 1.0, 2), (1, 4.0, 0)])
def test_more_replicas_than_there_is_room_for(tmp_path: Path, workers: int, cpus: float, room: int) -> None:
    recipe = tiny_recipe(tmp_path, resources=resources(workers, cpus))
    assert room_for(recipe.resources) == room
    with pytest.raises(UserError, match=f"The cluster has room for {room} replicas") as caught:
        check_replicas(recipe)
    assert caught.value.field == "resources.workers"


@pytest.mark.parametrize(
    ("workers", "cpus", "paths", "number"), [(None, 1.0, 4, 2), (None, 0.25, 4, 4), (None, 0.5, 3, 3), (1, 0.5, 3, 1)]
)  # fmt: skip
def test_how_many_replicas(tmp_path: Path, workers: int | None, cpus: float, paths: int, number: int) -> None:
    supernet = {"steps": 4, "batch_size": 16, "paths_per_step": paths}
    assert replicas(tiny_recipe(tmp_path, supernet=supernet, resources=resources(workers, cpus))) == number


def killing(times: int) -> Callable[[SearchReport], None]:
    """A listener that kills the trial's process at each of its first reports."""
    left = times

    def listen(report: SearchReport) -> None:
        nonlocal left
        if left and not report.done:
            left -= 1
            trials = [
                one
                for one in list_actors(filters=[("state", "=", "ALIVE")], timeout=30)
                if one.class_name == "TuneSearchTrial"
            ]
            for one in trials:
                os.kill(one.pid, signal.SIGKILL)

    return listen


@pytest.mark.slow
def test_a_killed_process_changes_nothing(
    tmp_path: Path, local: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(
        tmp_path, resources=resources(1), supernet={"steps": 4, "batch_size": 16, "paths_per_step": 2}
    )
    config = new_search(recipe)
    monkeypatch.setattr(cluster.tune_search, "RESULT_EVERY_S", 0.0)
    drive_tune_search(config, killing(1))
    assert (Run(config.folder).ledger.digest(), weights(config)) == local
    assert ray.is_initialized()


@pytest.mark.slow
def test_a_process_that_always_dies_ends_the_search(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path, resources=resources(1), retries=0))
    with pytest.raises(RuntimeError, match="what is committed is kept, and --resume goes on"):
        drive_tune_search(config, killing(100))
