"""Pictures of learned topologies: what edges weigh as matrices and histograms along the training, and what
networks with these edges come to."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cluster.pictures import FAINT, INK, SETTING_COLOURS, SOFT, new_figure
from cluster.snapshots import Moment
from networks.adjacency import adjacency, weights_of
from networks.architecture import Architecture

SIGNED = mpl.colormaps["RdBu_r"]
CELL_INCHES, BARS = 1.75, 41


def draw_topologies(
    architecture: Architecture, moments: Sequence[Moment], threshold: float, title: str
) -> Figure:
    """A row a moment: each stage's adjacency (rows are the nodes that read, columns those that are read), and
    how many edges weigh what. Grey: no edge; white: an edge that counts as gone."""
    stages = [n for n in range(len(architecture.stages)) if _weighted(architecture, n)]
    matrices = [[adjacency(architecture.graph(n), one.values[n]).numpy() for n in stages] for one in moments]
    largest = max(float(np.abs(matrix).max()) for row in matrices for matrix in row) or 1.0
    norm = SymLogNorm(max(threshold, largest / 1000), vmin=-largest, vmax=largest)
    columns = len(stages) + 1
    figure = new_figure(CELL_INCHES * columns + 2.2, CELL_INCHES * len(moments) + 1.5)
    grid = figure.add_gridspec(
        len(moments), columns, width_ratios=[1.0] * len(stages) + [1.35], left=0.09, right=0.97,
        top=1 - 0.85 / figure.get_figheight(), bottom=0.85 / figure.get_figheight(), hspace=0.3, wspace=0.28,
    )  # fmt: skip
    figure.suptitle(title, fontsize=12, color=INK, y=1 - 0.2 / figure.get_figheight(), va="center")
    for place, (moment, row) in enumerate(zip(moments, matrices, strict=True)):
        for column, (stage, matrix) in enumerate(zip(stages, row, strict=True)):
            axes = figure.add_subplot(grid[place, column])
            _heat(axes, matrix, architecture, stage, threshold, norm)
            if not place:
                axes.set_title(f"stage {stage + 1}", fontsize=9, color=INK)
            if not column:
                axes.set_ylabel(f"epoch {moment.epoch}", fontsize=9, color=INK)
        _histogram(figure.add_subplot(grid[place, columns - 1]), architecture, moment, threshold, largest)
    bar = figure.add_axes((0.09, 0.38 / figure.get_figheight(), 0.5, 0.1 / figure.get_figheight()))
    figure.colorbar(ScalarMappable(norm, SIGNED), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7, length=2, color=SOFT, labelcolor=SOFT)
    return figure


def _weighted(architecture: Architecture, stage: int) -> bool:
    return any(edge.weight != "none" for edge in architecture.graph(stage).edges)


def _heat(
    axes: Axes, matrix: np.ndarray[Any, Any], architecture: Architecture, stage: int, threshold: float,
    norm: SymLogNorm,
) -> None:  # fmt: skip
    graph = architecture.graph(stage)
    place = {node: position for position, node in enumerate(graph.order)}
    shown = np.full(matrix.shape, np.nan)
    for edge in graph.edges:
        cell = place[edge.target], place[edge.source]
        shown[cell] = 0.0 if abs(matrix[cell]) <= threshold else matrix[cell]
    colours = SIGNED.with_extremes(bad="#e8ebee")
    axes.imshow(shown, cmap=colours, norm=norm, interpolation="nearest")
    axes.tick_params(labelsize=6, length=1.5, color=SOFT, labelcolor=SOFT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))


def _histogram(
    axes: Axes, architecture: Architecture, moment: Moment, threshold: float, largest: float
) -> None:
    weights = np.concatenate(
        [
            weights_of(graph, values).numpy()[[edge.weight != "none" for edge in graph.edges]]
            for stage, values in enumerate(moment.values)
            for graph in [architecture.graph(stage)]
        ]
    )
    gone = int((np.abs(weights) <= threshold).sum())
    axes.hist(weights, bins=np.linspace(-largest, largest, BARS).tolist(), color=SETTING_COLOURS[0])
    axes.set_yscale("symlog", linthresh=1)
    axes.tick_params(labelsize=6, length=1.5, color=SOFT, labelcolor=SOFT)
    axes.set_title(f"{gone} of {len(weights)} edges gone", fontsize=7, color=SOFT, pad=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_snapshots(found: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Accuracy of networks trained from scratch with the edges of each moment, and how many of the edges are
    gone there. `found`: of a report (cluster/snapshots.py)."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    beside = axes.twinx()
    parents = list(dict.fromkeys(one["parent"] for one in found))
    for parent, colour in zip(parents, SETTING_COLOURS * len(parents), strict=False):
        own = [one for one in found if one["parent"] == parent and metric in one["metrics"]]
        epochs = [one["epoch"] for one in own]
        means = [100 * one["metrics"][metric]["mean"] for one in own]
        spreads = [100 * (one["metrics"][metric]["deviation"] or 0.0) for one in own]
        label = own[0]["label"].rpartition(" after ")[0] if own else parent
        axes.errorbar(epochs, means, yerr=spreads, marker="o", capsize=4, color=colour, label=label, zorder=3)
        beside.plot(
            epochs,
            [100 * one["sparsity"] for one in own],
            color=colour,
            linestyle="--",
            linewidth=1,
            alpha=0.7,
        )
    axes.set_xlabel("epoch that the edges are of", fontsize=9, color=INK)
    axes.set_ylabel(f"{metric.replace('_', ' ')}, percent (solid)", fontsize=9, color=INK)
    beside.set_ylabel("edges gone, percent (dashed)", fontsize=9, color=SOFT)
    beside.set_ylim(-2, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, loc="best")
    figure.tight_layout()
    return figure
