"""`weft extend`: more budget for a search that is finished. Nothing of its ledger is written again."""

from collections import Counter

from cluster.run import Planned, Run
from cluster.search_recipe import SearchRecipe, Stretch
from networks.errors import UserError
from searchers.extending import with_budget


def extended_recipe(run: Run, budget: int) -> SearchRecipe:
    """The run's recipe with a budget of so many candidates in all, and a note of where it ended before.
    Raises `UserError` for a run that cannot be extended, and for a budget that its searcher cannot have."""
    recipe = _finished(run)
    counted = Counter(row.candidate.phase for row in run.ledger.rows())
    ended = Stretch(search=counted["search"], random=counted["random"])
    # Every candidate has had its own run in MLflow so far, and that stays so beyond 2,000.
    tracking = recipe.tracking.model_copy(update={"runs": recipe.tracking.runs or "all"})
    return recipe.model_copy(
        update={
            "searcher": with_budget(recipe.searcher, budget, "--budget"),
            "extended": (*recipe.extended, ended),
            "tracking": tracking,
        }
    )


def check_extendable(run: Run, extended: Planned) -> None:
    """Raise `UserError` unless the run is as it was when the `extended` recipe was made of its own, its data
    too, and its space holds candidates that it may not have asked for."""
    before, recipe, space = _finished(run), extended.recipe, extended.space
    assert isinstance(recipe, SearchRecipe)
    if before.extended != recipe.extended[:-1]:
        raise UserError("RUN", run.name, "a run that no other process extends", "One has, just now.")
    run.check_data(extended)
    if recipe.searcher.most_asks(space) <= before.searcher.most_asks(space):
        fix = f"This one has {space.size:,} candidates in all."
        raise UserError("RUN", run.name, "a search that has not asked for its whole space", fix)


def _finished(run: Run) -> SearchRecipe:
    recipe = run.recipe
    if not isinstance(recipe, SearchRecipe):
        fix = "Search a recipe with more seeds or settings: the candidates of before train alike in it."
        raise UserError("RUN", run.name, "a search over choices", fix)
    if run.ending != "FINISHED":
        raise UserError("RUN", run.name, "a finished search", f"To finish this one: weft resume {run.name}")
    return recipe
