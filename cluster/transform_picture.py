"""A picture of what a candidate was rewritten to: its cells before and after, the changed links marked."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch

from cluster.architecture_picture import INPUT, OUTPUT, between, dots, smooth
from cluster.layout import Layout, lay_out
from cluster.pictures import FAINT, INK, SOFT, new_figure
from networks.cells import Links
from networks.graph import Edge, Graph, Node
from searchers.transitions import category_of

CHANGED = "#d64545"
COLOURS = {"O": INK, "S": "#0967d2", "N": FAINT}
STYLES = {"O": "-", "S": "-", "N": (0, (2, 2))}
COLUMN, ROW, HEAD, NODE = 3.6, 0.62, 0.5, "#e4e7eb"  # inches, and a colour
PLACES = (0.5, 0.36, 0.64)  # of labels along their links: those that cross stand apart
SOME = 4  # cells that are drawn: those with changes first


def draw_transformed(
    before: Sequence[Links], after: Sequence[Links], names: Sequence[str], title: str
) -> Figure:
    """The cells of two candidates of the same wiring, a column each: above as they were given, below as they
    became. At most four, those with changes first."""
    same = [old.words == new.words for old, new in zip(before, after, strict=True)]
    shown = sorted(sorted(range(len(before)), key=lambda cell: (same[cell], cell))[:SOME])
    graphs = [wiring(before[cell]) for cell in shown]
    layouts = [lay_out(graph) for graph in graphs]
    rows = max(layout.rows for layout in layouts)
    height = 2 * (rows * ROW + HEAD) + 1.1
    widths = [max(COLUMN, 0.9 * (2 * layout.reach + 2)) for layout in layouts]
    figure = new_figure(sum(widths), height)
    figure.suptitle(title, x=0.5, y=1 - 0.2 / height, fontsize=12, color=INK, va="center")
    left = 0.0
    for cell, graph, layout, width in zip(shown, graphs, layouts, widths, strict=True):
        for place, (name, links) in enumerate((("given", before[cell]), ("became", after[cell]))):
            bottom = 0.45 + (1 - place) * (rows * ROW + HEAD)
            axes = figure.add_axes(
                (left / sum(widths), bottom / height, width / sum(widths), rows * ROW / height)
            )
            axes.set_title(f"{names[cell]}, {name}", fontsize=9, color=SOFT, pad=8)
            _draw(axes, graph, layout, links.words, before[cell].words)
        left += width
    marks = [
        Line2D([], [], color=COLOURS["O"], label="computes"),
        Line2D([], [], color=COLOURS["S"], label="skip (S)"),
        Line2D([], [], color=COLOURS["N"], linestyle=STYLES["N"], label="nothing (N)"),
        Line2D([], [], color=CHANGED, linewidth=2.4, label="changed"),
    ]
    figure.legend(handles=marks, loc="lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def wiring(links: Links) -> Graph:
    """The links as a graph with one output, which joins what is joined, or else what nobody reads. Its edges
    begin with the links, in order."""
    sources, targets = ({end[side] for end in links.ends} for side in (0, 1))
    inputs = sorted(sources - targets)
    joined = links.joined or tuple(sorted(targets - sources))
    edges = [Edge(source=a, target=b, slot=slot) for slot, (a, b) in enumerate(links.ends)]
    output = joined[0]
    if len(joined) > 1 or links.joined:
        output = max(sources | targets) + 1
        edges += [Edge(source=node, target=output, slot=len(edges) + i) for i, node in enumerate(joined)]
    nodes = tuple(Node(id=node) for node in sorted(sources | targets | {output}))
    # Not validated: a node may lead nowhere here.
    return Graph.model_construct(nodes=nodes, edges=tuple(edges), inputs=tuple(inputs), output=output)


def _draw(axes: Axes, graph: Graph, layout: Layout, words: Sequence[str], were: Sequence[str]) -> None:
    axes.set_axis_off()
    half = layout.reach + 1
    axes.set_xlim(-half, half)
    axes.set_ylim(layout.rows - 0.5, -0.5)
    for position, points in enumerate(layout.edges):
        if position >= len(words):
            axes.add_patch(PathPatch(smooth(points), facecolor="none", edgecolor=FAINT, linewidth=3.0))
            continue
        word, old = words[position], were[position]
        category = category_of(word)
        changed = word != old
        colour, thickness = (CHANGED, 2.4) if changed else (COLOURS[category], 1.2)
        style = {"linewidth": thickness, "linestyle": STYLES[category], "alpha": 0.9}
        axes.add_patch(PathPatch(smooth(points), facecolor="none", edgecolor=colour, **style))
        middle = (len(points) - 1) // 2
        text = f"{old} → {word}" if changed else word
        if changed or category == "O":
            x, y = between(points[middle], points[middle + 1], PLACES[position % len(PLACES)])
            axes.text(
                x, y, text, fontsize=6.5, ha="center", va="center",
                color=CHANGED if changed else INK, zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )  # fmt: skip
    for node, point in layout.nodes.items():
        colour = INPUT if node in graph.inputs else OUTPUT if node == graph.output else NODE
        dots(axes, [point], "o", [colour])
        axes.text(*point, str(node), ha="center", va="center_baseline", fontsize=6, color=INK, zorder=5)
