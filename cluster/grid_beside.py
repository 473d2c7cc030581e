"""A grid that belongs to a run: networks of its own, trained alone, beside it."""

from cluster.recipe import GridSpace, NoStopping, Recipe
from cluster.recipe_base import BaseRecipe
from cluster.run import Run
from trainers.training import TrainingSettings


def beside(recipe: BaseRecipe, run: Run, what: str, space: GridSpace, training: TrainingSettings) -> Recipe:
    """Each candidate of this space trained to the end; the grid's run is in the run's folder `what`, and in
    its MLflow."""
    own = run.about["tracking_uri"] is None  # a file in the run's folder: the grid is to use that one too
    return Recipe(
        version=1,
        name=named(recipe, what),
        seed=recipe.seed,
        space=space,
        data=recipe.data,
        training=training,
        stopping=NoStopping(),
        resources=recipe.resources.model_copy(update={"max_workers": None}),
        retries=recipe.retries,
        allow_mixed=recipe.allow_mixed,
        tracking=recipe.tracking.model_copy(update={"uri": run.tracking_uri} if own else {}),
        storage=run.folder / what,
    )


def named(recipe: BaseRecipe, what: str) -> str:
    return f"{recipe.name[: 79 - len(what)]}-{what}"
