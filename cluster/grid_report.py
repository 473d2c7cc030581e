"""What a grid ends with: its report, with pictures of what it found."""

from collections.abc import Sequence
from typing import Any

from cluster.ledger import Row
from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.report import markdown, report
from cluster.run import Run
from cluster.snapshots import trained_snapshots


def grid_report(run: Run, recipe: Recipe, rows: Sequence[Row]) -> dict[str, Any]:
    """The whole report, JSON-ready; with the topologies that were trained again where the recipe has any."""
    found = report(run, recipe, rows)
    return found | {"snapshots": trained_snapshots(recipe, run)} if recipe.snapshots else found


def write_report(run: Run, prepared: Search, *, pictures: bool) -> dict[str, Any]:
    """report.json, report.md and, if asked, the pictures; the report itself."""
    rows = list(run.ledger.rows())
    found = grid_report(run, prepared.recipe, rows)
    names: list[str] = []
    if pictures and rows:
        from cluster.grid_pictures import draw_grid  # matplotlib takes its time to load

        names = draw_grid(run, prepared, rows, found)
    run.write_json("report.json", found)
    run.write_text("report.md", markdown(found, names))
    return found
