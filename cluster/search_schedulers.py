"""What Ray Tune asks about the trials of a search: one that listens, and one that lets supernets meet at
rungs."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import BasicVariantGenerator

from cluster.search_messages import SearchConfig, SearchReport
from cluster.shrinking import ShrinkBarrier, unnamed
from cluster.tune_adapter import cause_of, fault_of
from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)

SEARCH, OPERATORS = "search", "operators"  # keys of a trial's configuration, and of what it says at a rung


class Listening(FIFOScheduler):
    """Hands every report on; a fault ends the experiment."""

    def __init__(self, heard: Callable[[SearchReport], None]) -> None:
        super().__init__()
        self._heard = heard
        self.fault: Exception | None = None
        self.done = False
        self.deaths = 0

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if "fault" in result:
            self.fault = fault_of(result["fault"])
            return self.STOP
        report = SearchReport.model_validate_json(result["report"])
        self.done |= report.done and not report.supernet
        self._heard(report)
        return self.STOP if report.done else self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.on_trial_result(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.deaths += 1
        log.warning("the search's process died: %s", cause_of(trial))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler now and then; the ledger is what a search goes on from


class ShrinkScheduler(Listening):
    """Each trial trains a supernet. One that has voted is paused; when all have, each is given the decision
    as its new configuration and goes on, in the process that it had where Tune reuses it.

    A trial that dies is restored by Tune and votes again. One that says nothing for `patience_s` while others
    wait for it, and one that Tune gives up, end the experiment: less than all votes would be another search.
    Nothing is kept here that the run's folder does not say: a new scheduler goes on from there.
    """

    def __init__(
        self, barrier: ShrinkBarrier, patience_s: float, heard: Callable[[SearchReport], None]
    ) -> None:
        super().__init__(heard)
        self._barrier, self._patience_s = barrier, patience_s
        self._last: dict[int, float] = {}  # when a supernet was heard of
        self._paused: list[int] = []  # in the order in which Tune put their processes by
        self.ended = False
        self._controller: Any = None

    @property
    def over(self) -> bool:
        """Whether no trial will work any more: the search has ended, Tune has given one up, or all are
        stopped, as after Ctrl-C."""
        trials = [] if self._controller is None else self._controller.get_trials()
        states = {trial.status for trial in trials}
        return self.ended or Trial.ERROR in states or states == {Trial.TERMINATED}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        self.ended |= self.done
        if self.fault is not None:
            self._end(tune_controller)
            return self.STOP
        supernet = config_of(trial).supernet
        self._last[supernet] = time.monotonic()
        # Tune flattens what a trial says before schedulers see it.
        prefix = f"{OPERATORS}/"
        scores = {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
        if not scores:
            return decision
        try:
            decided = self._barrier.arrive(supernet, result["rung"], unnamed(scores))
        except UserError as error:
            self.fault = error
            self._end(tune_controller)
            return self.STOP
        if decided:
            for one in tune_controller.get_trials():
                told = config_of(one).model_copy(update={"dropped": self._barrier.course.dropped})
                one.set_config({**one.config, SEARCH: told.model_dump_json()})
        self._paused.append(supernet)
        keep_process(tune_controller, trial)
        return self.PAUSE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self._controller = tune_controller
        trials = {config_of(trial).supernet: trial for trial in tune_controller.get_trials()}
        self._look(tune_controller, trials)
        order = [*self._paused, *sorted(set(trials) - set(self._paused))]
        for supernet in order:
            ready = trials[supernet].status in (Trial.PENDING, Trial.PAUSED)
            if ready and supernet not in self._barrier.waiting:
                self._paused = [other for other in self._paused if other != supernet]
                return trials[supernet]
        return None

    def _look(self, tune_controller: Any, trials: Mapping[int, Trial]) -> None:
        """End the experiment where a supernet is lost."""
        if self.fault is not None:
            return
        if any(trial.status == Trial.ERROR for trial in trials.values()):
            self._end(tune_controller)  # another begins, from the checkpoints
            return
        waiting, now = self._barrier.waiting, time.monotonic()
        missing = set(trials) - waiting
        if not waiting or not missing:
            return
        since = max(self._last.get(supernet, 0.0) for supernet in (*waiting, *missing))
        if now - since > self._patience_s:
            rung, which = len(self._barrier.course.dropped), f"{min(missing) + 1} of {len(trials)}"
            self.fault = CannotGoOn(
                f"supernet {which} has not voted at rung {rung}, and nothing was heard of it for "
                f"{self._patience_s:g} s (shrinking.patience_s)"
            )
            self._end(tune_controller)

    def _end(self, tune_controller: Any) -> None:
        self.ended = True
        tune_controller.request_stop_experiment()


class Supernets(BasicVariantGenerator):
    """Tune's grid, which does not say that it is finished before the search is `over`: Tune would end the
    processes of paused trials, and with them the replicas, since it expects nobody who could use them."""

    def __init__(self, over: Callable[[], bool]) -> None:
        super().__init__()
        self._over = over

    def is_finished(self) -> bool:
        return self._over() and super().is_finished()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it now and then; nobody reads that


def keep_process(tune_controller: Any, trial: Trial) -> None:
    """Ask Tune to put the process of this trial by while it is paused: by itself it keeps one of all trials.
    Tune has no public way to ask; where this one is gone, trials go on from their checkpoints."""
    cache = getattr(tune_controller, "_actor_cache", None)
    if cache is not None and hasattr(cache, "increase_max"):
        cache.increase_max(trial.placement_group_factory)


def config_of(trial: Trial) -> SearchConfig:
    return SearchConfig.model_validate_json(trial.config[SEARCH])
