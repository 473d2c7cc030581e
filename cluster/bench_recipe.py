"""`weft bench-search`: a recipe's searcher on the recipe's table, with many seeds."""

from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.bench_search import PICTURE, Contest, bench_search
from cluster.recipe import AnyRecipe
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe, TableScore
from networks.errors import UserError
from searchers.constraints import check_satisfiable
from searchers.problem import Objective
from trainers.table import Fields, Table

WHY = "The recipe needs it, and a bench measures nothing."


def bench_recipe(
    recipe: AnyRecipe, seeds: int, budget: int | None, reported: str | None, console: Console, folder: Path
) -> dict[str, Any]:
    """Run the recipe's searcher and random search; the report, and where its picture is. Raises
    `UserError` for a recipe without a table."""
    if not isinstance(recipe, SearchRecipe) or not isinstance(recipe.score, TableScore):
        raise UserError("score.kind", "computed", "table: known results are what makes many searches cheap")
    score, plan = recipe.score, SearchPlan(recipe, None)
    if plan.measures:
        raise UserError("score.names", list(score.names), "latency_ms too, a column of the table", WHY)
    check_satisfiable(plan.space, recipe.constraints, plan.costs, recipe.seed)
    goal, *others = recipe.goals
    table = _table(score, plan, reported)
    contest = Contest(
        table,
        goal,
        Objective(metric=reported or goal.metric),
        plan.feasible,
        tuple(others),
        plan.known,
    )
    folder.mkdir(parents=True, exist_ok=True)
    found = bench_search(
        contest,
        recipe.searcher,
        seeds=seeds,
        budget=min(budget or recipe.searcher.most_asks(plan.space), len(table)),
        console=console,
        folder=folder,
        in_flight=recipe.rounds_in_flight * recipe.round,
        round_size=recipe.round,
        first_seed=recipe.seed,
    )
    return {**found, "picture": str(folder / PICTURE)}


def _table(score: TableScore, plan: SearchPlan, reported: str | None) -> Table:
    """The recipe's table, with the column that is reported."""
    assert plan.table is not None
    if reported is None or reported in score.names:
        return plan.table
    names = (*score.names, reported)
    return Table.read(score.path, plan.space, names, Fields("score.path", "--reported"))
