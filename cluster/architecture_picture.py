"""The picture of an architecture: the graphs of its stages. Made without pyplot: no global state."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
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
from cluster.pictures import INK, SOFT, new_figure
from networks.architecture import Architecture
from networks.execution import edge_weights
from networks.graph import Graph

INPUT, OUTPUT = "#f0b429", "#d64545"
DEGREES = mpl.colormaps["YlGnBu"]
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
    """What edges weigh in a checkpoint's tensors, for `draw_architecture`: of sigmoids as they are, of all
    others the size, as a part of the stage's largest."""
    weights: dict[tuple[int, int], float] = {}
    for stage in range(len(architecture.stages)):
        edges = architecture.graph(stage).edges
        weighted = [position for position, edge in enumerate(edges) if edge.weight != "none"]
        values = edge_weights(
            tensors[f"network.stages.{stage}.edge_values"], [edges[position].weight for position in weighted]
        ).tolist()
        free = [
            abs(value)
            for position, value in zip(weighted, values, strict=True)
            if edges[position].weight != "sigmoid"
        ]
        largest = max(free, default=0.0) or 1.0
        for position, value in zip(weighted, values, strict=True):
            weights[stage, position] = value if edges[position].weight == "sigmoid" else abs(value) / largest
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
    figure = new_figure(sum(widths) + 0.4, height)
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
            smooth(points), facecolor="none", edgecolor=_darker(colour), capstyle="round",
            linewidth=thin * (0.35 + 1.7 * weight),
            alpha=0.75 if weights is None else 0.25 + 0.65 * weight,
        )  # fmt: skip
        axes.add_patch(patch)
    inner = _inner(graph)
    dots(axes, [layout.nodes[node] for node in inner], "o", [scale.colour(degrees[n]) for n in inner])
    dots(axes, [layout.nodes[node] for node in graph.inputs], "s", [INPUT] * len(graph.inputs))
    dots(axes, [layout.nodes[graph.output]], "s", [OUTPUT])
    for node in inner:
        x, y = layout.nodes[node]
        dark = degrees[node] > 0.55 * scale.top
        axes.text(
            x, y, str(node), ha="center", va="center_baseline", fontsize=6, color="white" if dark else INK
        )


def dots(axes: Axes, points: Sequence[Point], marker: str, colours: Sequence[object]) -> PathCollection:
    x, y = [point[0] for point in points], [point[1] for point in points]
    return axes.scatter(
        x, y, s=NODE_AREA, c=list(colours), marker=marker, edgecolors=INK, linewidths=0.7, zorder=3
    )


def smooth(points: Sequence[Point]) -> Curve:
    """A curve through the points that crosses every row straight down."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)


def between(start: Point, end: Point, t: float) -> Point:
    """A point of the curve between two neighbouring ones: t from 0 to 1."""
    first, second = (1 - t) ** 3 + 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t) + t**3
    middle = (start[1] + end[1]) / 2
    y = start[1] * (1 - t) ** 3 + 3 * middle * t * (1 - t) + end[1] * t**3
    return start[0] * first + end[0] * second, y


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
