"""Ray Tune drives the shrinking: it pauses supernets at rungs, gives them the smaller space, and resumes
them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("ray")

from ray._private.state import actors
from ray.tune.experiment import Trial

import cluster.tune_search
from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_schedulers import ShrinkScheduler, config_of
from cluster.shrinking import ShrinkBarrier
from cluster.tune_search import drive_tune_search
from networks.errors import CannotGoOn, UserError
from searchers.constraints import ANYTHING
from tests.cluster.choices import chain_space, new_search
from tests.cluster.test_drivers import assert_nothing_left
from tests.cluster.test_shrinking import Done, finish, rungs_of, shrinking_recipe, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

UNTIL = 300  # three rungs


def two_supernets(folder: Path, **changes: object) -> SearchConfig:
    """Two that vote, each with one replica of half a CPU."""
    return new_search(
        shrinking_recipe(
            folder, {"supernets": 2, "until": UNTIL}, resources={"workers": 1, "cpus": 0.5}, **changes
        )
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The same in this process."""
    return finish(two_supernets(tmp_path_factory.mktemp("local")))


class Watched(ShrinkScheduler):
    """Notes what it decides, and what Tune then runs."""

    said: ClassVar[list[tuple[str, int, int]]] = []  # what, which supernet, so many rungs decided for it

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.PAUSE:
            self.note("paused", trial)
        return decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        chosen = super().choose_trial_to_run(tune_controller)
        if chosen is not None and chosen.status == Trial.PAUSED:
            self.note("resumed", chosen)
        return chosen

    def note(self, what: str, trial: Trial) -> None:
        config = config_of(trial)
        said = (what, config.supernet, len(config.dropped))
        if said not in self.said:
            self.said.append(said)


@pytest.mark.parametrize("reuse", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_drops_what_it_drops_in_one_process(
    reuse: bool, tmp_path: Path, local: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.tune_search, "REUSE_ACTORS", reuse)
    monkeypatch.setattr(cluster.tune_search, "ShrinkScheduler", Watched)
    monkeypatch.setattr(Watched, "said", [])
    config = two_supernets(tmp_path)
    heard: list[SearchReport] = []
    drive_tune_search(config, heard.append)
    assert rungs_of(config) == local.rungs and len(local.rungs) == 3
    assert (Run(config.folder).ledger.digest(), weights(config)) == (local.ledger, local.weights)
    assert heard[-1].stage == "done" and {report.supernet for report in heard} == {0, 1}
    for rung in range(3):
        # Each pauses with what is decided before, or with the rung's own decision if it is the last.
        paused = [
            which for what, which, decided in Watched.said if what == "paused" and decided in (rung, rung + 1)
        ]
        assert set(paused) == {0, 1}
        for which in (0, 1):
            assert ("resumed", which, rung + 1) in Watched.said, "it goes on with the smaller space"


def kill_a_search(number: int) -> Callable[[SearchReport], None]:
    """Kill the process of one of the two trials when so many reports of a rung were heard."""
    heard = 0

    def listen(report: SearchReport) -> None:
        nonlocal heard
        heard += report.stage == "shrinking"
        if heard == number:
            heard += 1
            trials = [one["Pid"] for one in actors().values()
                      if one["State"] == "ALIVE" and "Trainable" in one["ActorClassName"]]  # fmt: skip
            os.kill(trials[0], signal.SIGKILL)

    return listen


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_one_that_is_killed_at_a_rung_votes_again(number: int, tmp_path: Path, local: Done) -> None:
    config = two_supernets(tmp_path)
    drive_tune_search(config, kill_a_search(number))
    assert rungs_of(config) == local.rungs
    assert (Run(config.folder).ledger.digest(), weights(config)) == (local.ledger, local.weights)


@pytest.mark.slow
@pytest.mark.parametrize("reports", [1, 2])
def test_a_driver_that_is_gone_is_replaced_by_another(
    reports: int, tmp_path: Path, local: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a rung that one has voted at, and between two."""
    config = two_supernets(tmp_path)
    heard = 0

    def stop(report: SearchReport) -> None:
        nonlocal heard
        heard += report.stage == "shrinking"
        if heard == reports:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        drive_tune_search(config, stop)
    assert len(rungs_of(config)) < 3
    assert_nothing_left()
    drive_tune_search(config, lambda report: None)
    assert rungs_of(config) == local.rungs
    assert (Run(config.folder).ledger.digest(), weights(config)) == (local.ledger, local.weights)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_where_nothing_can_be_written_any_more_it_ends_and_says_so(tmp_path: Path) -> None:
    """Neither by the search nor by Tune, as on a full disk."""
    config = two_supernets(tmp_path)

    def spoil(report: SearchReport) -> None:
        if not (config.folder / "moved").exists():
            (config.folder / "scratch").rename(config.folder / "moved")
            for name in ("ledger", "scratch"):
                (config.folder / name).touch()

    with pytest.raises((CannotGoOn, UserError), match=r"^ledger: "):
        drive_tune_search(config, spoil)
    assert_nothing_left()


class Controller:
    """Of Tune, what the scheduler needs."""

    stopped = False

    def __init__(self, trials: list[Any]) -> None:
        self.trials = trials

    def get_trials(self) -> list[Any]:
        return self.trials

    def request_stop_experiment(self) -> None:
        self.stopped = True


class Fake:
    """A trial of Tune."""

    def __init__(self, config: SearchConfig, status: str) -> None:
        self.config, self.status = {"search": config.model_dump_json()}, status

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has voted, and nothing is heard of the other."""
    config = two_supernets(tmp_path)
    barrier = ShrinkBarrier(config.recipe, chain_space(), ANYTHING, config.folder)
    scheduler = ShrinkScheduler(barrier, 60.0, lambda report: None)
    now = 1000.0
    monkeypatch.setattr("cluster.search_schedulers.time.monotonic", lambda: now)
    trials = [Fake(config.model_copy(update={"supernet": number}), Trial.RUNNING) for number in range(2)]
    controller = Controller(trials)
    report = SearchReport(stage="shrinking", supernet=0)
    vote = {f"operators/{gene}.{option}": 1.0 for gene in range(8) for option in range(3)}
    said = {"report": report.model_dump_json(), "rung": 0, **vote}
    assert scheduler.on_trial_result(controller, trials[0], said) == scheduler.PAUSE  # type: ignore[arg-type]
    trials[0].status = Trial.PAUSED
    now += 59
    assert scheduler.choose_trial_to_run(controller) is None and not controller.stopped
    alive = {"report": SearchReport(stage="training", supernet=1).model_dump_json(), "rung": 0}
    assert scheduler.on_trial_result(controller, trials[1], alive) == scheduler.CONTINUE  # type: ignore[arg-type]
    now += 59
    scheduler.choose_trial_to_run(controller)
    assert not controller.stopped, "the other is at work"
    now += 2
    scheduler.choose_trial_to_run(controller)
    assert controller.stopped and isinstance(scheduler.fault, CannotGoOn)
    assert "supernet 2 of 2 has not voted at rung 0" in str(scheduler.fault)


def test_a_trial_that_tune_gives_up_ends_the_experiment(tmp_path: Path) -> None:
    """Also when no other is left that could be asked for."""
    config = two_supernets(tmp_path)
    barrier = ShrinkBarrier(config.recipe, chain_space(), ANYTHING, config.folder)
    scheduler = ShrinkScheduler(barrier, 60.0, lambda report: None)
    assert not scheduler.over
    trials = [Fake(config.model_copy(update={"supernet": number}), Trial.RUNNING) for number in range(2)]
    scheduler.choose_trial_to_run(Controller(trials))
    assert not scheduler.over
    trials[1].status = Trial.TERMINATED
    assert not scheduler.over
    trials[0].status = Trial.ERROR
    assert scheduler.over
