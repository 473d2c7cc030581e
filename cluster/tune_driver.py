"""Grid search on Ray Tune: the adapter around a trial, and the schedulers that consult the barrier."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from cluster.barrier import Barrier, NoBarrier
from cluster.grid import Grid
from cluster.logs import CANDIDATE, log_as_worker
from cluster.ray_cluster import request
from cluster.recipe import AshaStopping
from cluster.trial import LESS_MEMORY, Report, TrainingTrial, TrialConfig
from cluster.tune_adapter import Unsaved, cause_of, fault_of, fault_text, fit
from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)


class TuneTrial(Unsaved):
    """Runs a `TrainingTrial` for Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        self.trial = TrainingTrial()
        trial = TrialConfig.model_validate_json(config["candidate"]["trial"])
        log_as_worker(trial.folder.name)
        self.trial.setup(trial)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial.reset(TrialConfig.model_validate_json(new_config["candidate"]["trial"]))
        return True

    def step(self) -> dict[str, Any]:
        try:
            report = self.trial.step()
        except Exception as error:  # around the candidate, not in it: it ends the search (`Consulting.hear`)
            return {"fault": fault_text(error), "epoch": self.trial.epoch}
        return {"report": report.model_dump_json(), "epoch": report.epoch, **report.metrics}


class Consulting:
    """What both schedulers share: they read reports, ask the barrier, and notice lost trials.

    Tune tries a trial whose process died again (`FailureConfig`), except one that dies while it is being
    started: that one it gives up at once. This experiment then ends, and `drive_tune` starts another from
    the checkpoints. A candidate that used up its retries is a failed candidate.
    """

    grid: Grid
    barrier: Barrier | NoBarrier
    fault: Exception | None = None
    trials: Sequence[Trial] = ()
    _counted: frozenset[str] = frozenset()

    def hear(self, tune_controller: Any, result: dict[str, Any]) -> Report | None:
        """The report; None when it is refused or there is a fault, which ends this experiment."""
        try:
            if "fault" in result:
                raise fault_of(result["fault"])
            report = Report.model_validate_json(result["report"])
            self.grid.heard(report)
        except (UserError, RuntimeError) as error:  # raised by `_fit`: Tune would wrap it
            self.fault = error
            tune_controller.request_stop_experiment()
            return None
        return report

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        ask = ask_of(trial)
        candidate = self.grid.configs[ask].candidate.id
        log.warning("candidate %d: its process died: %s", ask, cause_of(trial), extra={CANDIDATE: candidate})

    def look(self, tune_controller: Any) -> None:
        """Take notice of the trials as they stand: who runs, and whom Tune has given up."""
        self.trials = tune_controller.get_trials()
        self.grid.running = [ask_of(trial) for trial in self.trials if trial.status == Trial.RUNNING]
        if self.count_deaths():
            tune_controller.request_stop_experiment()

    def count_deaths(self) -> bool:
        """Tell the grid of trials that Tune has given up; whether one of them is to be tried again."""
        again, retries = False, self.grid.search.recipe.retries
        for trial in self.trials:
            if trial.status == Trial.ERROR and trial.trial_id not in self._counted:
                self._counted |= {trial.trial_id}
                # Tune counts failed calls. A death while starting fails several of them, but is one death.
                times = trial.num_failures if trial.num_failures > retries else 1
                self.grid.died(ask_of(trial), times, proposal(cause_of(trial)))
                again |= self.barrier.verdict(ask_of(trial)) == "go"
        return again

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler now and then; ours is rebuilt from the ledger instead


class BarrierScheduler(Consulting, FIFOScheduler):
    """Runs trials in ask order, pauses those that wait for their rung, and stops those that lost."""

    barrier: Barrier

    def __init__(self, grid: Grid, barrier: Barrier) -> None:
        super().__init__()
        self.grid, self.barrier = grid, barrier

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        report = self.hear(tune_controller, result)
        if report is None:
            return self.STOP
        verdict = self.barrier.arrive(report)
        return {"go": self.CONTINUE, "wait": self.PAUSE, "stop": self.STOP}[verdict]

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self.look(tune_controller)
        barrier = self.barrier
        trials = sorted(tune_controller.get_trials(), key=ask_of)
        for trial in trials:
            if trial.status == Trial.PAUSED and barrier.verdict(ask_of(trial)) == "stop":
                tune_controller.stop_trial(trial)
        ready = [trial for trial in trials if trial.status in (Trial.PENDING, Trial.PAUSED)]
        return next((trial for trial in ready if barrier.verdict(ask_of(trial)) == "go"), None)


class AshaScheduler(Consulting, AsyncHyperBandScheduler):
    """Tune's ASHA; what it stops is told to the ledger as it happens."""

    barrier: NoBarrier

    def __init__(self, grid: Grid, barrier: NoBarrier, stopping: AshaStopping) -> None:
        recipe = grid.search.recipe
        super().__init__(
            time_attr="epoch",
            metric=recipe.metric,
            mode="max",
            max_t=recipe.training.epochs,
            grace_period=stopping.grace,
            reduction_factor=stopping.eta,
        )
        self.grid, self.barrier, self._fifo = grid, barrier, FIFOScheduler()
        self._recall()

    def _recall(self) -> None:
        """Compare with the candidates of the ledger too: those that ended before a resume."""
        metric = self.grid.search.recipe.metric
        for row in self.grid.run.ledger.rows():
            ended = SimpleNamespace(trial_id=row.candidate.id)
            super().on_trial_add(None, ended)
            for point in row.curve:
                super().on_trial_result(None, ended, {"epoch": point["epoch"], metric: point[metric]})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        report = self.hear(tune_controller, result)
        if report is None:
            return self.STOP
        if report.status == "failed":
            self.barrier.end(report, "failed")
            return self.STOP
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP:
            finished = report.epoch == self.grid.search.recipe.training.epochs
            self.barrier.end(report, "ok" if finished else "stopped")
        return decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self.look(tune_controller)
        return self._fifo.choose_trial_to_run(tune_controller)


def ask_of(trial: Trial) -> int:
    ask: int = trial.config["candidate"]["ask_index"]
    return ask


def proposal(cause: str) -> str:
    """For what can be done about it."""
    memory = "OutOfMemory" in cause or "out of memory" in cause.lower()
    return f"{cause}; {LESS_MEMORY}" if memory else cause


def drive_tune(grid: Grid) -> None:
    """Train the candidates as Tune trials on the Ray that this process is connected to."""
    while not grid.barrier.done:
        deaths = grid.deaths.total()
        _fit(grid)
        if not grid.barrier.done and grid.deaths.total() == deaths:
            raise CannotGoOn("Ray Tune ended before the search did")


def _fit(grid: Grid) -> None:
    recipe = grid.search.recipe
    stopping = recipe.stopping
    scheduler: BarrierScheduler | AshaScheduler
    if isinstance(grid.barrier, Barrier):
        scheduler = BarrierScheduler(grid, grid.barrier)
    else:
        assert isinstance(stopping, AshaStopping)
        scheduler = AshaScheduler(grid, grid.barrier, stopping)
    candidates = [
        {"ask_index": ask, "trial": grid.configs[ask].model_dump_json()} for ask in grid.barrier.to_run
    ]
    fit(
        tune.with_resources(TuneTrial, request(recipe.resources)),
        scheduler,
        grid.run.folder,
        name=f"tune-{len(grid.run.ledger.segments()):08d}",
        space={"candidate": tune.grid_search(candidates)},
        retries=recipe.retries,
        # Concurrency follows from resources alone: with max_concurrent_trials a paused trial keeps its
        # slot, and a rung with more members than slots would wait for ever.
        reuse_actors=True,
        trial_dirname_creator=lambda trial: f"{ask_of(trial):06d}",
    )
    if scheduler.fault is not None:
        raise scheduler.fault
    scheduler.count_deaths()
