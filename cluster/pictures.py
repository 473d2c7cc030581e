"""Pictures of a search: wirings, leaders, learning curves. Made without pyplot: no global state."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cluster.layout import EDGE_ROOM, Layout, Point, lay_out
from cluster.ledger import Row
from networks.architecture import Architecture
from networks.execution import edge_weights
from networks.graph import Graph
from trainers.damage import Damage

INK, SOFT, FAINT = "#1f2933", "#52606d", "#cbd2d9"
INPUT, OUTPUT = "#f0b429", "#d64545"
DEGREES = mpl.colormaps["YlGnBu"]
SETTING_COLOURS = ("#0967d2", "#d9822b", "#1b998b", "#a23b72", "#6b7a8f", "#8a6d3b")
ROW_INCHES, UNIT_INCHES = 0.44, 0.36
NODE_AREA = 120.0  # points squared

Weights = Mapping[tuple[int, int], float]
Colour = tuple[float, float, float, float]


class Scale(NamedTuple):
    """Colours for out-degrees from 0 to `top`."""

    top: int

    def colour(self, degree: int) -> Colour:
        red, green, blue, alpha = DEGREES(degree / self.top)
        return red, green, blue, alpha


def trained_weights(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Weights:
    """The sigmoids of the learned edge values in a checkpoint's tensors, for `draw_architecture`."""
    weights: dict[tuple[int, int], float] = {}
    for stage in range(len(architecture.stages)):
        edges = architecture.graph(stage).edges
        learned = [position for position, edge in enumerate(edges) if edge.weight != "none"]
        values = edge_weights(
            tensors[f"network.stages.{stage}.edge_values"], [edges[position].weight for position in learned]
        )
        for position, value in zip(learned, values.tolist(), strict=True):
            if edges[position].weight == "sigmoid":
                weights[stage, position] = value
    return weights


def draw_architecture(architecture: Architecture, title: str, weights: Weights | None = None) -> Figure:
    """The stages' graphs side by side, data flowing down, one row a topological level.

    Nodes are coloured by out-degree. `weights` maps (stage, position in `graph.edges`) to a factor in 0..1
    (`trained_weights`): an edge's width and darkness follow it; one that has none weighs 1.
    """
    graphs = [architecture.graph(position) for position in range(len(architecture.stages))]
    layouts = [lay_out(graph) for graph in graphs]
    shapes = architecture.stage_shapes()[1:]
    widths = [max(2.6, UNIT_INCHES * (2 * layout.reach + 2)) for layout in layouts]
    height = ROW_INCHES * max(layout.rows for layout in layouts) + 1.9
    figure = _figure(sum(widths) + 0.4, height)
    figure.suptitle(title, x=0.5, y=1 - 0.22 / height, fontsize=13, color=INK, va="center")
    degrees = (_out_degrees(graph)[node] for graph in graphs for node in _inner(graph))
    scale = Scale(max(degrees, default=1) or 1)
    left = 0.2
    for position, (graph, layout, shape) in enumerate(zip(graphs, layouts, shapes, strict=True)):
        inches = (figure.get_figwidth(), height)
        axes = figure.add_axes(
            (left / inches[0], 0.95 / height, widths[position] / inches[0], (height - 1.85) / height)
        )
        left += widths[position]
        _draw_graph(axes, graph, layout, scale, _of_stage(weights, position))
        axes.set_title(f"stage {position + 1}", fontsize=10, color=INK, loc="center", pad=16)
        note = f"{shape.c}x{shape.h}x{shape.w},  {len(_inner(graph))} nodes, {len(graph.edges)} edges"
        axes.text(0.5, 1, note, transform=axes.transAxes, ha="center", va="bottom", fontsize=8, color=SOFT)
    _legend(figure, scale, weighted=weights is not None)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _out_degrees(graph: Graph) -> dict[int, int]:
    degrees = dict.fromkeys(graph.operation_of, 0)
    for edge in graph.edges:
        degrees[edge.source] += 1
    return degrees


def _inner(graph: Graph) -> list[int]:
    """The computing nodes."""
    return [node.id for node in graph.nodes if node.id not in graph.inputs and node.id != graph.output]


def _of_stage(weights: Weights | None, stage: int) -> dict[int, float] | None:
    if weights is None:
        return None
    return {edge: weight for (where, edge), weight in weights.items() if where == stage}


def _draw_graph(
    axes: Axes, graph: Graph, layout: Layout, scale: Scale, weights: Mapping[int, float] | None
) -> None:
    axes.set_axis_off()
    half = max(layout.reach + 1, 2.6 / UNIT_INCHES / 2)
    axes.set_xlim(-half, half)
    axes.set_ylim(layout.rows - 0.5, -0.5)
    degrees = _out_degrees(graph)
    thin = max(0.4, layout.edge_room / EDGE_ROOM)
    for position, points in enumerate(layout.edges):
        source = graph.edges[position].source
        colour = SOFT if source in graph.inputs else scale.colour(degrees[source])
        weight = 0.5 if weights is None else weights.get(position, 1.0)
        patch = PathPatch(
            _smooth(points), facecolor="none", edgecolor=_darker(colour), capstyle="round",
            linewidth=thin * (0.35 + 1.7 * weight),
            alpha=0.75 if weights is None else 0.25 + 0.65 * weight,
        )  # fmt: skip
        axes.add_patch(patch)
    inner = _inner(graph)
    _dots(axes, [layout.nodes[node] for node in inner], "o", [scale.colour(degrees[n]) for n in inner])
    _dots(axes, [layout.nodes[node] for node in graph.inputs], "s", [INPUT] * len(graph.inputs))
    _dots(axes, [layout.nodes[graph.output]], "s", [OUTPUT])
    for node in inner:
        x, y = layout.nodes[node]
        dark = degrees[node] > 0.55 * scale.top
        axes.text(
            x, y, str(node), ha="center", va="center_baseline", fontsize=6, color="white" if dark else INK
        )


def _dots(axes: Axes, points: Sequence[Point], marker: str, colours: Sequence[object]) -> PathCollection:
    x, y = [point[0] for point in points], [point[1] for point in points]
    return axes.scatter(
        x, y, s=NODE_AREA, c=list(colours), marker=marker, edgecolors=INK, linewidths=0.7, zorder=3
    )


def _smooth(points: Sequence[Point]) -> Curve:
    """A curve through the points that crosses every row straight down."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)


def _darker(colour: str | Colour) -> tuple[float, float, float]:
    """Light colours vanish as thin lines on white."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return 0.72 * red, 0.72 * green, 0.72 * blue


def _legend(figure: Figure, scale: Scale, weighted: bool) -> None:
    width, height = figure.get_size_inches()
    marks = [
        Line2D(
            [], [], marker="s", linestyle="", markersize=8, color=INPUT, markeredgecolor=INK, label="input"
        ),
        Line2D(
            [], [], marker="s", linestyle="", markersize=8, color=OUTPUT, markeredgecolor=INK, label="output"
        ),
    ]
    if weighted:
        marks += [
            Line2D([], [], color=SOFT, linewidth=0.35 + 1.7 * w, alpha=0.25 + 0.65 * w, label=f"weight {w:g}")
            for w in (0.1, 0.9)
        ]
    figure.legend(
        handles=marks, loc="center", bbox_to_anchor=(0.3, 0.42 / height), ncols=2, frameon=False, fontsize=8
    )
    bar = figure.add_axes((0.58, 0.5 / height, min(0.34, 2.2 / width), 0.12 / height))
    figure.colorbar(ScalarMappable(Normalize(0, scale.top), DEGREES), cax=bar, orientation="horizontal")
    bar.set_title("out-degree (nodes, and the edges that leave them)", fontsize=8, color=INK, pad=4)
    bar.tick_params(labelsize=7, length=2, color=SOFT, labelcolor=SOFT)
    bar.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_leaders(rows: Iterable[Row], metric: str = "validation_accuracy") -> Figure:
    """The metric of each setting over its seeds: a dot a candidate, mean and sample deviation beside them
    (the paper's Fig. 3). Only candidates that were trained to the end count; a setting without one is
    named, and has no dots."""
    finals = {row.candidate.ask_index: row for row in rows if row.final}
    values: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for row in (finals[ask] for ask in sorted(finals)):
        setting = str(row.names.get("setting", "all candidates"))
        kinds.setdefault(setting, str(row.names.get("generator", setting)))
        scores = values.setdefault(setting, [])
        if row.status == "ok" and not math.isnan(row.metrics.get(metric, math.nan)):
            scores.append(row.metrics[metric])
    settings = sorted(values, key=lambda setting: list(dict.fromkeys(kinds.values())).index(kinds[setting]))
    figure = _figure(max(4.8, 1.2 + 0.6 * len(settings)), 4.6)
    axes = figure.add_subplot()
    colours = dict(zip(dict.fromkeys(kinds.values()), SETTING_COLOURS * len(kinds), strict=False))
    for place, setting in enumerate(settings):
        scores, colour = values[setting], colours[kinds[setting]]
        if not scores:
            continue
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        mean = statistics.fmean(scores)
        axes.errorbar(
            place + 0.14, mean, yerr=spread, fmt="D", markersize=5.5, color=colour, elinewidth=1.6,
            capsize=4, zorder=3,
        )  # fmt: skip
        axes.scatter([place - 0.14] * len(scores), scores, s=22, color=colour, alpha=0.55, linewidths=0)
    axes.set_xticks(range(len(settings)))
    names = [setting if values[setting] else f"{setting}, none finished" for setting in settings]
    turned = len(settings) > 4
    axes.set_xticklabels(
        names,
        rotation=45 if turned else 0,
        rotation_mode="anchor",
        ha="right" if turned else "center",
        fontsize=8,
    )
    axes.set_xlim(-0.6, len(settings) - 0.4)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=SOFT, alpha=0.6, markersize=5, label="one seed"),
        Line2D([], [], marker="D", linestyle="-", color=SOFT, markersize=5, label="mean ± deviation"),
    ]
    axes.legend(handles=marks, frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    _dress(axes, metric)
    figure.tight_layout()
    return figure


def draw_curves(rows: Iterable[Row], metric: str = "validation_accuracy") -> Figure:
    """The metric of every candidate against the epoch. Coloured: trained to the end, the best one thick.
    Grey with a bar: stopped early. Grey with a cross: failed. A candidate without a final row runs on."""
    curves: dict[str, list[Point]] = {}
    last: dict[str, Row] = {}
    for row in rows:
        points = curves.setdefault(row.candidate.id, [])
        points += [(point["epoch"], point[metric]) for point in row.curve if metric in point]
        last[row.candidate.id] = row
    figure = _figure(7.2, 4.4)
    axes = figure.add_subplot()
    finished = {key: row for key, row in last.items() if row.status == "ok" and curves[key]}
    best = max(finished, key=lambda key: finished[key].metrics.get(metric, -math.inf), default=None)
    kinds = list(dict.fromkeys(str(row.names.get("generator", "candidates")) for row in last.values()))
    colours = dict(zip(kinds, SETTING_COLOURS * len(kinds), strict=False))
    for key, points in curves.items():
        x, y = [point[0] for point in points], [point[1] for point in points]
        if key in finished:
            colour = colours[str(last[key].names.get("generator", "candidates"))]
            width, alpha = (2.4, 1.0) if key == best else (1.1, 0.65)
            axes.plot(x, y, color=colour, linewidth=width, alpha=alpha, zorder=3 if key == best else 2)
        else:
            end = {"stopped": "|", "failed": "x"}.get(last[key].status, "")
            axes.plot(x, y, color=FAINT, linewidth=1, zorder=1)
            axes.plot(x[-1:], y[-1:], color=SOFT, alpha=0.6, marker=end, markersize=6, linestyle="", zorder=1)
    shown = dict.fromkeys(str(row.names.get("generator", "candidates")) for row in finished.values())
    marks = [Line2D([], [], color=colours[kind], label=kind) for kind in shown]
    for end, status in (("|", "stopped early"), ("x", "failed")):
        if any(row.status == status.split()[0] for row in last.values()):
            marks.append(Line2D([], [], color=FAINT, marker=end, markeredgecolor=SOFT, label=status))
    if best is not None:
        marks.insert(0, Line2D([], [], color=INK, linewidth=2.4, label=f"best: {finished[best].label}"))
    axes.legend(handles=marks, frameon=False, fontsize=8, loc="best")
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _dress(axes, metric)
    figure.tight_layout()
    return figure


def draw_damage(found: Sequence[Damage]) -> Figure:
    """The paper's Fig. 4: accuracy lost without a node against its out-degree, and without an edge against
    its target's in-degree. A dot a removal (hollow: it left a node without inputs), a line for the mean."""
    figure = _figure(9.2, 4.2)
    panels = (("node", "out-degree of the removed node"), ("edge", "in-degree of the removed edge's target"))
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        some = [one for one in found if one.kind == kind]
        colour = SETTING_COLOURS[0 if kind == "node" else 2]
        seen: Counter[int] = Counter()
        for orphaning in (False, True):
            chosen = [one for one in some if one.orphaning == orphaning]
            aside = []
            for one in chosen:  # side by side, in the order of the study, so that equal losses stay apart
                aside.append(0.06 * (seen[one.degree] % 9 - 4))
                seen[one.degree] += 1
            axes.scatter(
                [one.degree + shift for one, shift in zip(chosen, aside, strict=True)],
                [one.loss for one in chosen], s=16, alpha=0.55,
                facecolors="none" if orphaning else colour, edgecolors=colour, linewidths=0.8,
            )  # fmt: skip
        degrees = sorted({one.degree for one in some})
        means = [statistics.fmean(one.loss for one in some if one.degree == degree) for degree in degrees]
        axes.plot(degrees, means, color=INK, marker="D", markersize=5, linewidth=1.4, zorder=3)
        axes.axhline(0, color=SOFT, linewidth=0.8)
        axes.set_xlabel(title, fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _dress(axes, "accuracy lost")
    figure.axes[1].set_ylabel("")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=SOFT, markersize=4, label="one removal"),
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            markerfacecolor="none",
            color=SOFT,
            markersize=4,
            label="it left a node without inputs",
        ),
        Line2D([], [], marker="D", color=INK, markersize=5, label="mean"),
    ]
    figure.legend(handles=marks, frameon=False, fontsize=8, loc="upper center", ncols=3)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return figure


def _dress(axes: Axes, metric: str) -> None:
    axes.set_ylabel(metric.replace("_", " "), fontsize=9, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG, by the name's ending. Equal figures give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "weft"}):
        figure.savefig(path, dpi=150, metadata=stamp)
