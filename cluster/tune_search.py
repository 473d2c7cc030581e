"""A search over choices on Ray Tune: one trial, whose replicas are actors in its placement group."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from cluster.members import Share, check_replicas, rooms
from cluster.pool import Pool
from cluster.ray_pool import RayPool
from cluster.replica import ReplicaJob
from cluster.search_recipe import SearchRecipe
from cluster.search_trial import SearchConfig, SearchReport, SearchTrial
from cluster.tune_driver import PICKLE, POINTER, fault_of, fault_text, request
from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)

RESULT_EVERY_S = 2.0  # a result costs Tune tens of milliseconds; several rounds may share one


class TuneSearchTrial(tune.Trainable):
    """Runs a `SearchTrial` for Tune. What Tune saves and restores is a step count and nothing else: the
    ledger and the trial's own checkpoints are in the run's folder."""

    def setup(self, config: dict[str, Any]) -> None:
        self.trial = SearchTrial(partial(make_pool, SearchConfig.model_validate_json(config["search"])))
        self._ready(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial.close()
        self.setup(new_config)
        return True

    def _ready(self, config: dict[str, Any]) -> None:
        self._fault = ""
        try:
            self.trial.setup(SearchConfig.model_validate_json(config["search"]))
        except Exception as error:  # told by the first step: Tune would try a failing start again
            log.exception("the search cannot start")
            self._fault = fault_text(error)

    def step(self) -> dict[str, Any]:
        if self._fault:
            return {"fault": self._fault, "done": True}
        started = time.monotonic()
        try:
            report = self.trial.step()
            while not report.done and time.monotonic() - started < RESULT_EVERY_S:
                report = self.trial.step()
        except Exception as error:  # it would be the same again: only process death is tried again
            log.exception("the search cannot go on")
            return {"fault": fault_text(error), "done": True}
        return {"report": report.model_dump_json(), "done": report.done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, POINTER).write_text(json.dumps({"iteration": self.iteration}))

    def restore(self, checkpoint_path: Any) -> None:
        """Replaces Tune's own, which would unpickle a file that it finds in the folder."""
        with checkpoint_path.checkpoint.as_directory() as folder:
            if Path(folder, PICKLE).exists():
                raise RuntimeError(f"{folder} holds {PICKLE}; weft writes none and reads none")
        self._iteration = checkpoint_path.metrics.get("training_iteration", 0)
        self._restored = True

    def cleanup(self) -> None:
        self.trial.close()


def make_pool(config: SearchConfig, job: ReplicaJob) -> Pool:
    recipe, resources = config.recipe, config.recipe.resources
    assert config.replicas is not None, "the driver decides how many replicas there are"
    return RayPool(
        job,
        config.replicas,
        cpus=resources.cpus,
        gpus=resources.gpus,
        allow_mixed=recipe.allow_mixed,
        retries=recipe.retries,
    )


def replicas(recipe: SearchRecipe) -> int:
    """`workers`, or as many as the cluster has room for; not more than a step has paths."""
    resources = recipe.resources
    if resources.workers is not None:
        return resources.workers
    room = rooms(Share(resources.cpus, resources.gpus))
    if room is None:
        raise UserError("resources.workers", None, "a number of replicas, on a cluster that can grow")
    if measured_on_gpu(recipe):
        room = min(room, (rooms(Share(0.0, resources.gpus)) or 1) - 1)
    return max(1, room if recipe.supernet is None else min(room, recipe.supernet.paths_per_step))


def measured_on_gpu(recipe: SearchRecipe) -> bool:
    """Whether the trial itself needs a GPU: it measures the candidates' latency, and replicas do not."""
    return recipe.needs_latency and recipe.resources.gpus > 0


def checked_replicas(recipe: SearchRecipe) -> int:
    """How many. Raises `UserError` for more than there is work or room for: the placement group would wait
    for ever."""
    number, gpus = replicas(recipe), recipe.resources.gpus
    check_replicas(recipe.supernet, number, Share(recipe.resources.cpus, gpus))
    room = rooms(Share(0.0, gpus)) if measured_on_gpu(recipe) else None
    if room is not None and room <= number:
        allowed = f"a share that there is room for {number + 1} times"
        fix = f"Latency is measured beside the replicas ({number}), with such a share."
        raise UserError("resources.gpus", gpus, allowed, fix)
    return number


def bundles(recipe: SearchRecipe, number: int) -> list[dict[str, float]]:
    """What the trial and its replicas ask of Ray. The trial itself waits most of the time, for nothing."""
    own = {"CPU": 0.0, "GPU": recipe.resources.gpus} if measured_on_gpu(recipe) else {"CPU": 0.0}
    return [own, *([request(recipe.resources)] * number)]


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
        self.done = report.done
        self._heard(report)
        return self.STOP if report.done else self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.on_trial_result(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.deaths += 1
        log.warning("the search's process died")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler now and then; the ledger is what a search goes on from


def drive_tune_search(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
    """Run the search as a Tune trial on the Ray that this process is connected to."""
    recipe = config.recipe
    config = config.model_copy(update={"replicas": checked_replicas(recipe)})
    deaths = 0
    while True:
        scheduler = Listening(heard)
        _fit(config, scheduler)
        if scheduler.fault is not None:
            raise scheduler.fault
        if scheduler.done:
            return
        deaths += max(1, scheduler.deaths)
        if deaths > recipe.retries:
            raise CannotGoOn(f"the search's process died {deaths} times, and retries are {recipe.retries}")


def _fit(config: SearchConfig, scheduler: Listening) -> None:
    recipe, scratch = config.recipe, config.folder / "scratch"
    assert config.replicas is not None
    asked = bundles(recipe, config.replicas)
    tuner = tune.Tuner(
        tune.with_resources(TuneSearchTrial, tune.PlacementGroupFactory(asked)),
        param_space={"search": config.model_dump_json()},
        tune_config=tune.TuneConfig(scheduler=scheduler, trial_dirname_creator=lambda trial: "search"),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=recipe.retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
