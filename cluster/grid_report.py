"""What a grid ends with: its report, and pictures of what it found."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from cluster.architecture_picture import draw_architecture, trained_weights
from cluster.checkpoints import CheckpointStore
from cluster.ledger import Row
from cluster.pictures import draw_curves, draw_leaders, save_figure
from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.report import markdown, rank, report
from cluster.run import Run
from cluster.snapshots import moments_of, trained_snapshots, with_learned_edges
from cluster.tables import REPORTED
from cluster.topology_picture import draw_snapshots, draw_topologies
from cluster.trial import candidate_folder

PICTURED = 3  # graphs of the best candidates


def grid_report(run: Run, recipe: Recipe, rows: Sequence[Row]) -> dict[str, Any]:
    """The whole report, JSON-ready; with the topologies that were trained again where the recipe has any."""
    found = report(run, recipe, rows)
    return found | {"snapshots": trained_snapshots(recipe, run)} if recipe.snapshots else found


def write_report(run: Run, prepared: Search, *, pictures: bool) -> dict[str, Any]:
    """report.json, report.md and, if asked, the pictures; the report itself."""
    rows = list(run.ledger.rows())
    recipe = prepared.recipe
    names: list[str] = []
    if pictures and rows:
        for place, row in enumerate(rank(rows, recipe.metric)[:PICTURED], 1):
            title = f"{row.label}: {_score(row.metrics, recipe.metric)}"
            names.append(f"best-{place}.png")
            architecture = prepared.space.decode(row.candidate.genes)
            trained = CheckpointStore(candidate_folder(run.folder, row.candidate)).newest()
            weights = None if trained is None else trained_weights(architecture, trained.tensors)
            figure = draw_architecture(architecture, title, weights)
            save_figure(figure, run.pictures / names[-1])
        for name, figure in (
            ("settings.png", draw_leaders(rows, recipe.metric)),
            ("curves.png", draw_curves(rows, recipe.metric)),
            *learned_edges(prepared, run, rows),
        ):
            names.append(name)
            save_figure(figure, run.pictures / name)
    found = grid_report(run, recipe, rows)
    if pictures and found.get("snapshots"):
        names.append("snapshots.png")
        save_figure(draw_snapshots(found["snapshots"], REPORTED[0]), run.pictures / names[-1])
    run.write_json("report.json", found)
    run.write_text("report.md", markdown(found, names))
    return found


def learned_edges(prepared: Search, run: Run, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """The picture of what the edges came to weigh, in the best candidate whose edges learned."""
    recipe = prepared.recipe
    for row in with_learned_edges(recipe, rows)[:1]:
        stored = CheckpointStore(candidate_folder(run.folder, row.candidate)).newest()
        edges = recipe.training_of(row.candidate.genes).edges
        if stored is not None and edges is not None:
            architecture = prepared.space.decode(row.candidate.genes)
            title = f"{row.label}: {_score(row.metrics, recipe.metric)}"
            moments = moments_of(architecture, stored)
            yield "edges.png", draw_topologies(architecture, moments, edges.threshold, title)


def _score(metrics: dict[str, float], metric: str) -> str:
    return f"{100 * metrics[metric]:.2f} %" if metric in metrics else "no score"
