"""A policy that learns while its supernet trains, on Ray: the same with one replica and with two, and after
whatever dies."""

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray._private.state import actors

from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_recipe import SearchRecipe
from cluster.tune_search import drive_tune_search
from tests.cluster.choices import new_search, ready, reports
from tests.cluster.test_drivers import assert_nothing_left
from tests.cluster.test_nat_search import supernet_recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

LEARNS = {"alternate": {"every": 1, "steps": 60}, "reward_batches": 1, "steps": 5}


def learning(storage: Path, workers: int = 1) -> SearchConfig:
    """Five steps of the policy, each on one batch of images, with sixty of the supernet after each: several
    seconds, so that something can die in the middle."""
    raw = supernet_recipe(storage, 0.01, **LEARNS).model_dump()
    raw["score"]["batch_size"] = 10
    raw["resources"] = {"workers": workers, "cpus": 0.5}
    return new_search(SearchRecipe.model_validate(raw))


def outcome(config: SearchConfig) -> tuple[str, str, list[tuple[str, str]]]:
    """Digests of the ledger and of the weights; of each rewriting its parent and what was changed."""
    run = Run(config.folder)
    made = [(row.parent, row.edit) for row in run.ledger.rows() if row.parent]
    trial = ready(config)
    found = run.ledger.digest(), trial.pool.digest(), made
    trial.close()
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, list[tuple[str, str]]]:
    """In this process."""
    config = learning(tmp_path_factory.mktemp("local"))
    trial = ready(config)
    reports(trial)
    trial.close()
    return outcome(config)


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_replicas_as_you_like(tmp_path: Path, workers: int, local: tuple[object, ...]) -> None:
    config = learning(tmp_path, workers)
    drive_tune_search(config, lambda report: None)
    assert outcome(config) == local
    assert_nothing_left()


class Killer:
    """Ends a process of this class at the first reports that come when something is committed."""

    def __init__(self, config: SearchConfig, which: str, times: int) -> None:
        self.config, self.which, self.times = config, which, times
        self.killed: list[int] = []

    def __call__(self, report: SearchReport) -> None:
        if report.done or len(self.killed) == self.times or not Run(self.config.folder).ledger.segments():
            return
        alive = [one for one in actors().values() if one["State"] == "ALIVE"]
        pids = [one["Pid"] for one in alive if self.which in one["ActorClassName"]]
        if pids and not set(pids) & set(self.killed):
            self.killed.append(pids[len(self.killed) % len(pids)])
            os.kill(self.killed[-1], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ReplicaActor", "Trainable"])
def test_what_dies_changes_nothing(which: str, tmp_path: Path, local: tuple[object, ...]) -> None:
    """A replica, or the process that holds ledger and policy, in the middle of learning."""
    config = learning(tmp_path, 2)
    killer = Killer(config, which, 1)
    drive_tune_search(config, killer)
    assert killer.killed and outcome(config) == local
    assert_nothing_left()


@pytest.mark.slow
def test_a_driver_that_dies_is_followed_by_another(tmp_path: Path, local: tuple[object, ...]) -> None:
    """With another number of replicas."""
    config = learning(tmp_path, 2)

    def stop(report: SearchReport) -> None:
        if Run(config.folder).ledger.segments() and not report.done:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        drive_tune_search(config, stop)
    assert_nothing_left()
    before = len(Run(config.folder).ledger.segments())
    resources = config.recipe.resources.model_copy(update={"workers": 1})
    again = config.model_copy(update={"recipe": config.recipe.model_copy(update={"resources": resources})})
    drive_tune_search(again, lambda report: None)
    assert outcome(config) == local and before < len(Run(config.folder).ledger.segments())
