"""`weft bench-search`: a recipe's searcher on the recipe's table, with many seeds."""

from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.bench_search import PICTURE, Contest, bench_search
from cluster.recipe import AnyRecipe
from cluster.search_recipe import SearchRecipe, TableScore
from networks.errors import UserError
from searchers.constraints import Feasible, check_satisfiable, static_costs
from searchers.problem import Objective
from trainers.table import Table


def bench_recipe(
    recipe: AnyRecipe, seeds: int, budget: int | None, reported: str | None, console: Console, folder: Path
) -> dict[str, Any]:
    """Run the recipe's searcher and random search; the report, and where its picture is. Raises
    `UserError` for a recipe without a table."""
    if not isinstance(recipe, SearchRecipe) or not isinstance(recipe.score, TableScore):
        raise UserError("score.kind", "computed", "table: known results are what makes many searches cheap")
    score = recipe.score
    space = recipe.space.build(score.image, score.classes)
    check_satisfiable(space, recipe.constraints, static_costs(space), recipe.seed)
    try:
        table = Table.read(score.path, space, tuple({*score.names, *([reported] if reported else [])}))
    except UserError as error:
        raise error.under("score") from None
    goal = recipe.goals[0]
    contest = Contest(
        table,
        goal,
        Objective(metric=reported or goal.metric),
        Feasible(recipe.constraints, static_costs(space)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    found = bench_search(
        contest,
        recipe.searcher,
        seeds=seeds,
        budget=min(budget or recipe.searcher.most_asks(space), len(table)),
        console=console,
        folder=folder,
        in_flight=recipe.in_flight or recipe.round,
        first_seed=recipe.seed,
    )
    return {**found, "picture": str(folder / PICTURE)}
