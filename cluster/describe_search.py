"""What a search over choices would do: its space, its constraints, its time. Nothing is kept."""

import time
from typing import Any

from cluster.pool import LocalPool
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from networks.counters import counter_random
from networks.network import build_network
from searchers.constraints import STATIC
from searchers.shrinking import likely_rungs
from trainers.training import Trainer

SAMPLED = 1000
PROBED = 3  # candidates, the first of which warms up


def describe_search(recipe: SearchRecipe) -> dict[str, Any]:
    """Size and costs of the space, the share of it that the constraints allow, and the time that training
    and scoring would take one replica here, measured on a few. Raises `UserError`."""
    plan = SearchPlan.of(recipe)
    rng = counter_random(recipe.seed, "describe")
    plan.check_measured()
    drawn = [plan.space.sample(rng) for _ in range(64 if plan.measures else SAMPLED)]
    training, scoring = (0.0, 0.0) if plan.table is not None else _measure(plan)
    steps = 0 if recipe.supernet is None else recipe.supernet.steps + recipe.trained_beside
    shrinking, rungs = recipe.shrinking, 0
    if shrinking is not None:
        rungs = likely_rungs(plan.space, shrinking)
        steps += max(0, rungs - 1) * shrinking.steps + (shrinking.then if rungs else 0)
        steps *= shrinking.supernets
    asks, trainings = plan.planned_asks, plan.planned_trainings
    alone = _measure_alone(plan) if trainings else 0.0
    return {
        "recipe": recipe.name,
        "space": recipe.space.kind,
        "size": plan.space.size,
        "genes": list(plan.space.positions),
        "choices": [[option.word for option in some] for some in plan.space.options],
        "costs": {cost: list(plan.space.extremes(cost)) for cost in STATIC},
        "feasible_share": sum(map(plan.feasible, drawn)) / len(drawn),
        "searcher": recipe.searcher.kind,
        "evaluations": recipe.searcher.most_asks(plan.space),
        "evaluations_with_baseline": asks,
        "supernets": 1 if shrinking is None else shrinking.supernets,
        "rungs": rungs,
        "supernet_steps": steps,
        "seconds_a_step": training,
        "seconds_a_candidate": scoring,
        "hours_of_one_replica": (steps * training + asks * scoring) / 3600,
        "trainings": trainings,
        "hours_of_trainings": trainings * alone / 3600,
    }


def _measure(plan: SearchPlan) -> tuple[float, float]:
    """Seconds of a training step and of scoring a candidate, on one replica of this machine."""
    pool = LocalPool(plan.job(plan.recipe.score.names))
    training = 0.0
    if plan.recipe.supernet is not None:
        pool.train(1)
        started = time.monotonic()
        pool.train(1)
        training = time.monotonic() - started
    rng = counter_random(plan.recipe.seed, "probe")
    pool.submit([plan.space.sample(rng) for _ in range(PROBED)])
    pool.collect(1)
    started = time.monotonic()
    pool.collect(PROBED - 1)
    return training, (time.monotonic() - started) / (PROBED - 1)


def _measure_alone(plan: SearchPlan) -> float:
    """Seconds that training a network on its own takes here: of the one with the first choices."""
    recipe, data = plan.recipe, plan.data
    assert recipe.retraining is not None and data is not None
    space = recipe.retrained_space.build(data.image, len(data.classes))
    network = build_network(space.built((0,) * len(space.positions)), recipe.seed)
    trainer = Trainer(network, data, recipe.retraining.training, recipe.seed)
    trainer.train_steps(1)
    started = time.monotonic()
    trainer.train_steps(1)
    return (time.monotonic() - started) * trainer.total_steps


def description(found: dict[str, Any]) -> str:
    """The same in words."""
    more = found["evaluations_with_baseline"] > found["evaluations"]
    baseline = ", and as many random ones to compare with" if more else ""
    lines = [
        f"{found['recipe']}: {found['size']:,} candidates of {found['space']}, {len(found['genes'])} genes",
        *(f"{cost}: {low:,} to {high:,}" for cost, (low, high) in found["costs"].items()),
        f"the constraints allow {100 * found['feasible_share']:.1f} % of random candidates",
        f"{found['searcher']}: up to {found['evaluations']:,} evaluations{baseline}",
    ]
    if found["supernet_steps"]:
        lines.append(
            f"the supernet trains {found['supernet_steps']:,} steps of {found['seconds_a_step']:.2f} s"
        )
    if found["rungs"]:
        some = f", in {found['supernets']} supernets" if found["supernets"] > 1 else ""
        lines.append(f"that is with some {found['rungs']} rungs, at which the space loses operators{some}")
    if found["seconds_a_candidate"]:
        lines.append(
            f"scoring takes {found['seconds_a_candidate']:.2f} s a candidate: about "
            f"{found['hours_of_one_replica']:.2f} hours of one replica in all"
        )
    if found["trainings"]:
        lines.append(
            f"at the end up to {found['trainings']} trainings of networks on their own: about "
            f"{found['hours_of_trainings']:.2f} hours on one core"
        )
    return "\n".join(lines)
