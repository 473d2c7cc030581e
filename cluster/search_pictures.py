"""The pictures that a search over choices ends with: its space, rung by rung, and what it rewrote."""

from typing import Any

from cluster.pictures import save_figure
from cluster.run import Run
from cluster.search_plan import SearchPlan
from cluster.shrink_picture import draw_shrinking
from cluster.shrinking import PICTURE, RUNGS, Rungs
from cluster.transform_picture import draw_transformed
from cluster.transformations import transformed_picture


def draw_search(run: Run, plan: SearchPlan, found: dict[str, Any]) -> None:
    """Draw what the report tells of."""
    if plan.recipe.shrinking is not None and found["shrinking"]:
        rungs = Rungs(run.folder / RUNGS).read()
        save_figure(draw_shrinking(plan.space, rungs, plan.recipe.shrinking.score), run.pictures / PICTURE)
    for number, one in enumerate(found["transformed"], 1):
        before, after = (plan.space.cells(tuple(one[side]["genes"])) for side in ("before", "after"))
        title = f"{one['label']}, rewritten by {run.name}"
        figure = draw_transformed(before, after, plan.space.cell_names, title)
        save_figure(figure, run.pictures / transformed_picture(number))
