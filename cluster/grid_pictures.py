"""The pictures that a grid ends with: its best graphs, its settings, its curves, and what edges came to
weigh."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from cluster.architecture_picture import draw_architecture, trained_weights
from cluster.checkpoints import CheckpointStore
from cluster.ledger import Row
from cluster.pictures import draw_curves, draw_leaders, save_figure
from cluster.preparation import Search
from cluster.report import rank
from cluster.run import Run
from cluster.snapshots import moments_of, with_learned_edges
from cluster.tables import REPORTED
from cluster.topology_picture import draw_snapshots, draw_topologies
from cluster.trial import candidate_folder

PICTURED = 3  # graphs of the best candidates


def draw_grid(run: Run, prepared: Search, rows: Sequence[Row], found: dict[str, Any]) -> list[str]:
    """Draw all that the run has; the names of the files, in the report's order."""
    names = []
    for name, figure in _pictures(run, prepared, rows, found):
        save_figure(figure, run.pictures / name)
        names.append(name)
    return names


def _pictures(
    run: Run, prepared: Search, rows: Sequence[Row], found: dict[str, Any]
) -> Iterator[tuple[str, Figure]]:
    recipe = prepared.recipe
    for place, row in enumerate(rank(rows, recipe.metric)[:PICTURED], 1):
        title = f"{row.label}: {_score(row.metrics, recipe.metric)}"
        architecture = prepared.space.decode(row.candidate.genes)
        trained = CheckpointStore(candidate_folder(run.folder, row.candidate)).newest()
        weights = None if trained is None else trained_weights(architecture, trained.tensors)
        yield f"best-{place}.png", draw_architecture(architecture, title, weights)
    yield "settings.png", draw_leaders(rows, recipe.metric)
    yield "curves.png", draw_curves(rows, recipe.metric)
    yield from _learned_edges(prepared, run, rows)
    if found.get("snapshots"):
        yield "snapshots.png", draw_snapshots(found["snapshots"], REPORTED[0])


def _learned_edges(prepared: Search, run: Run, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
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
