"""The tiny search on Ray Tune: the same as in one process, whatever dies."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from ray._private.state import actors

from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.tune_search import TuneSearchTrial, drive_tune_search, replicas
from networks.errors import CannotGoOn, UserError
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


def alive() -> dict[int, str]:
    """The processes of actors: pid -> class."""
    return {one["Pid"]: one["ActorClassName"] for one in actors().values() if one["State"] == "ALIVE"}


def test_it_ends_as_in_one_process(tmp_path: Path, local: tuple[str, str]) -> None:
    config = new_search(tiny_recipe(tmp_path, resources=resources()))
    said: list[SearchReport] = []
    before = alive()
    drive_tune_search(config, said.append)
    assert (Run(config.folder).ledger.digest(), weights(config)) == local
    assert [report.done for report in said] == [False] * (len(said) - 1) + [True]
    assert said[-1].asked == 24
    assert not (config.folder / "scratch").exists()
    assert alive() == before


def test_it_goes_on_with_what_another_place_began(tmp_path: Path, local: tuple[str, str]) -> None:
    config = new_search(tiny_recipe(tmp_path, resources=resources(1)))
    trial = ready(config)
    for _ in range(4):
        trial.step()
    drive_tune_search(config, lambda report: None)
    assert Run(config.folder).ledger.digest() == local[0]


@pytest.mark.slow
def test_a_reused_actor_leaves_no_trace(tmp_path: Path, local: tuple[str, str]) -> None:
    """As Tune does with reuse_actors: another search first, then `reset_config`."""
    other = tiny_recipe(
        tmp_path / "other", seed=9, space={"kind": "small_chain", "channels": 3, "head_channels": 4},
        resources=resources(1),
    )  # fmt: skip
    one = {"replicas": 1}  # as the driver says it
    config = new_search(tiny_recipe(tmp_path / "runs", resources=resources(1))).model_copy(update=one)
    first = new_search(other).model_copy(update=one)
    trial = TuneSearchTrial({"search": first.model_dump_json()})
    try:
        trial.train()
        assert trial.reset({"search": config.model_dump_json()})
        while not trial.train()["done"]:
            pass
        assert trial.trial.pool.digest() == local[1]
    finally:
        trial.stop()
    assert Run(config.folder).ledger.digest() == local[0]


# What goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("workers", "cpus", "field", "words"),
    [
        (2, 1.5, "resources.workers", "at most 1."),
        (1, 4.0, "resources.workers", "at most 0."),
        (3, 0.5, "supernet.paths_per_step", "at least the replicas (3)"),
    ],
)
def test_replicas_that_cannot_be(tmp_path: Path, workers: int, cpus: float, field: str, words: str) -> None:
    config = new_search(tiny_recipe(tmp_path, resources=resources(workers, cpus)))
    with pytest.raises(UserError) as caught:
        drive_tune_search(config, lambda report: None)
    assert caught.value.field == field
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("workers", "cpus", "paths", "number"),
    [(None, 1.0, 4, 2), (None, 0.25, 4, 4), (None, 0.5, 3, 3), (1, 0.5, 3, 1)]
)  # fmt: skip
def test_how_many_replicas(tmp_path: Path, workers: int | None, cpus: float, paths: int, number: int) -> None:
    supernet = {"steps": 4, "batch_size": 16, "paths_per_step": paths}
    assert replicas(tiny_recipe(tmp_path, supernet=supernet, resources=resources(workers, cpus))) == number


@contextmanager
def killed_once(config: SearchConfig) -> Iterator[list[int]]:
    """Kill the trial's process as soon as a first round is committed."""
    before, killed, over = alive(), list[int](), threading.Event()

    def watch() -> None:
        while not over.wait(0.01) and not killed:
            if Run(config.folder).ledger.segments():
                new = {pid: kind for pid, kind in alive().items() if pid not in before}
                killed.extend(pid for pid, kind in new.items() if "Replica" not in kind)
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1])
def test_a_killed_process_changes_nothing(tmp_path: Path, retries: int) -> None:
    recipe = tiny_recipe(
        tmp_path, resources=resources(1), retries=retries, searcher={"kind": "random", "budget": 120}
    )
    trial = ready(new_search(recipe))
    reports(trial)
    config = new_search(recipe)
    with killed_once(config) as killed:
        if retries:
            drive_tune_search(config, lambda report: None)
        else:
            with pytest.raises(CannotGoOn, match="died 1 times, and retries are 0"):
                drive_tune_search(config, lambda report: None)
    assert len(killed) == 1
    kept = list(Run(config.folder).ledger.rows())
    assert 3 <= len(kept) <= 120
    if not retries:
        assert len(kept) < 120
        drive_tune_search(config, lambda report: None)
    assert Run(config.folder).ledger.digest() == trial.run.ledger.digest()
    assert weights(config) == trial.pool.digest()
