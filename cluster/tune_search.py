"""A search over choices on Ray Tune: one trial, whose replicas are actors in its placement group."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray import tune

from cluster.local_search import barrier_of
from cluster.logs import log_as_worker
from cluster.members import Share, check_replicas, rooms
from cluster.pool import Pool
from cluster.ray_cluster import request
from cluster.ray_pool import RayPool
from cluster.replica import ReplicaJob
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_recipe import SearchRecipe
from cluster.search_schedulers import OPERATORS, SEARCH, Listening, ShrinkScheduler, Supernets
from cluster.search_trial import SearchTrial
from cluster.shrinking import named
from cluster.tune_adapter import Unsaved, fault_text, fit
from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)

REUSE_ACTORS = True  # a process that Tune pauses is kept, and with it the replicas of a supernet
RESULT_EVERY_S = 2.0  # a result costs Tune tens of milliseconds; several rounds may share one


class TuneSearchTrial(Unsaved):
    """Runs a `SearchTrial` for Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        search = SearchConfig.model_validate_json(config[SEARCH])
        self.trial = SearchTrial(partial(make_pool, search))
        self._ready(search)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._ready(SearchConfig.model_validate_json(new_config[SEARCH]))
        return True

    def _ready(self, search: SearchConfig) -> None:
        """Go on with this search: as it is, where only another rung of it is decided."""
        self._fault = ""
        log_as_worker(search.folder.name)
        try:
            self.trial.reset(search)
        except Exception as error:  # told by the first step: Tune would try a failing start again
            log.exception("the search cannot start")
            self._fault = fault_text(error)

    def step(self) -> dict[str, Any]:
        if self._fault:
            return {"fault": self._fault, "done": True}
        started = time.monotonic()
        try:
            report = self.trial.step()
            while not report.done and not self.trial.vote and time.monotonic() - started < RESULT_EVERY_S:
                report = self.trial.step()
        except Exception as error:  # it would be the same again: only process death is tried again
            log.exception("the search cannot go on")
            return {"fault": fault_text(error), "done": True}
        said = {"report": report.model_dump_json(), "rung": report.rung, "done": report.done}
        return said if self.trial.vote is None else {**said, OPERATORS: named(self.trial.vote)}

    def cleanup(self) -> None:
        self.trial.close()


def make_pool(config: SearchConfig, job: ReplicaJob) -> Pool:
    """The replicas of one supernet."""
    recipe, resources = config.recipe, config.recipe.resources
    assert config.replicas is not None, "the driver decides how many replicas there are"
    return RayPool(
        job,
        config.replicas,
        cpus=resources.cpus,
        gpus=resources.gpus,
        elastic=resources.elastic,
        allow_mixed=recipe.allow_mixed,
        retries=recipe.retries,
    )


def replicas(recipe: SearchRecipe) -> int:
    """Of each supernet: `workers`, or as many as the cluster has room for; not more than a step has paths.
    Where more may come and go, one is enough to begin with."""
    resources = recipe.resources
    if resources.workers is not None or resources.max_workers is not None:
        return resources.workers or 1
    room = rooms(Share(resources.cpus, resources.gpus))
    if room is None:
        raise UserError("resources.workers", None, "a number of replicas, on a cluster that can grow")
    if measured_on_gpu(recipe):
        room = min(room, (rooms(Share(0.0, resources.gpus)) or 1) - 1)
    room //= 1 if recipe.shrinking is None else recipe.shrinking.supernets
    return max(1, room if recipe.supernet is None else min(room, recipe.supernet.paths_per_step))


def measured_on_gpu(recipe: SearchRecipe) -> bool:
    """Whether the trial itself needs a GPU: it measures the candidates' latency, and replicas do not."""
    return recipe.needs_latency and recipe.resources.gpus > 0


def checked_replicas(recipe: SearchRecipe) -> int:
    """How many. Raises `UserError` for more than there is work or room for: the placement group would wait
    for ever."""
    number, gpus = replicas(recipe), recipe.resources.gpus
    share = Share(recipe.resources.cpus, gpus)
    check_replicas(recipe.supernet, number, share, recipe.resources.elastic)
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


def drive_tune_search(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
    """Run the search as a Tune trial on the Ray that this process is connected to; one that shrinks as a
    trial for each of its supernets."""
    recipe = config.recipe
    config = config.model_copy(update={"replicas": checked_replicas(recipe)})
    deaths = 0
    while True:
        scheduler, configs = scheduled(config, heard)
        _fit(configs, scheduler)
        if scheduler.fault is not None:
            raise scheduler.fault
        if scheduler.done:
            return
        deaths += max(1, scheduler.deaths)
        if deaths > recipe.retries:
            raise CannotGoOn(f"the search's process died {deaths} times, and retries are {recipe.retries}")


def scheduled(
    config: SearchConfig, heard: Callable[[SearchReport], None]
) -> tuple[Listening, list[SearchConfig]]:
    """What schedules the search's trials, and their configurations as far as rungs are decided."""
    barrier, shrinking = barrier_of(config), config.recipe.shrinking
    if barrier is None or shrinking is None:
        return Listening(heard), [config]
    known = {"dropped": barrier.course.dropped}
    supernets = range(1 if barrier.course.over else shrinking.supernets)
    configs = [config.model_copy(update={**known, "supernet": number}) for number in supernets]
    return ShrinkScheduler(barrier, shrinking.patience_s, heard), configs


def _fit(configs: Sequence[SearchConfig], scheduler: Listening) -> None:
    recipe, replicas = configs[0].recipe, configs[0].replicas
    assert replicas is not None
    asked = bundles(recipe, replicas)
    fit(
        tune.with_resources(TuneSearchTrial, tune.PlacementGroupFactory(asked)),
        scheduler,
        configs[0].folder,
        name="tune",
        space={SEARCH: tune.grid_search([config.model_dump_json() for config in configs])},
        retries=recipe.retries,
        search_alg=Supernets(lambda: scheduler.over) if isinstance(scheduler, ShrinkScheduler) else None,
        reuse_actors=REUSE_ACTORS,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
