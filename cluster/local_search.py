"""A search over choices in this process."""

from collections.abc import Callable

from cluster.pool import LocalPool
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_plan import LATENCIES, SearchPlan
from cluster.search_trial import SearchTrial
from cluster.shrinking import ShrinkBarrier


def barrier_of(config: SearchConfig) -> ShrinkBarrier | None:
    """Where the supernets of a search meet that shrinks."""
    if config.recipe.shrinking is None:
        return None
    plan = SearchPlan.of(config.recipe, config.folder / LATENCIES)
    return ShrinkBarrier(config.recipe, plan.space, plan.feasible, config.folder)


def drive_local_search(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
    """Run the search in this process; Ray need not be installed."""
    barrier, shrinking = barrier_of(config), config.recipe.shrinking
    if barrier is not None:
        config = config.model_copy(update={"dropped": barrier.course.dropped})
    trials = [SearchTrial(LocalPool) for _ in range(1 if shrinking is None else shrinking.supernets)]
    try:
        for number, trial in enumerate(trials):
            trial.setup(config.model_copy(update={"supernet": number}))
        working = list(trials)
        while working:
            working = [trial for trial in working if not _driven_to_a_rung(trial, heard)]
            for trial in working:
                assert barrier is not None and trial.vote is not None
                barrier.arrive(trial.config.supernet, len(trial.course.dropped), trial.vote)
            for trial in working:
                assert barrier is not None
                trial.reset(trial.config.model_copy(update={"dropped": barrier.course.dropped}))
    finally:
        for trial in trials:
            trial.close()


def _driven_to_a_rung(trial: SearchTrial, heard: Callable[[SearchReport], None]) -> bool:
    """Step until it is done (True) or has voted."""
    while True:
        report = trial.step()
        heard(report)
        if report.done or trial.vote is not None:
            return report.done
