"""Pictures: layouts that hide nothing, and figures that say what the ledger says."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from PIL import Image

from cluster.architecture_picture import draw_architecture, trained_weights
from cluster.checkpoints import CheckpointStore
from cluster.layout import NODE_ROOM, lay_out
from cluster.ledger import Row
from cluster.pictures import draw_curves, draw_damage, draw_leaders, save_figure
from networks.architecture import Architecture, Shape
from networks.complexity import Complexity
from networks.generators import BarabasiAlbert, ErdosRenyi, RandomGraph, WattsStrogatz
from networks.graph import Edge, Graph, Node
from networks.network import build_network
from networks.randwire import RandWireTemplate, stage_graph
from searchers.searcher import Candidate
from trainers.damage import Damage

WIRINGS: list[RandomGraph] = [
    WattsStrogatz(k=4, p=0.75), WattsStrogatz(k=4, p=0.0), WattsStrogatz(k=2, p=1.0), ErdosRenyi(p=0.0),
    ErdosRenyi(p=0.2), BarabasiAlbert(m=1), BarabasiAlbert(m=5),
]  # fmt: skip


@pytest.mark.parametrize("generator", WIRINGS, ids=lambda one: one.label)
def test_a_layout_hides_nothing(generator: RandomGraph) -> None:
    graph = stage_graph(generator.wiring(32, 7))
    layout = lay_out(graph)
    rows: dict[float, list[float]] = {}
    for x, row in layout.nodes.values():
        rows.setdefault(row, []).append(x)
    for places in rows.values():
        gaps = [right - left for left, right in itertools.pairwise(sorted(places))]
        assert all(gap >= NODE_ROOM - 1e-9 for gap in gaps)
    # Every edge goes down row by row from its source to its target, and passes no node on its way.
    for edge, points in zip(graph.edges, layout.edges, strict=True):
        assert points[0] == layout.nodes[edge.source]
        assert points[-1] == layout.nodes[edge.target]
        assert [y for _, y in points] == [points[0][1] + step for step in range(len(points))]
        for x, y in points[1:-1]:
            assert min(abs(x - node) for node in rows[y]) >= NODE_ROOM / 2
    # No two edges share a place.
    passing = [point for points in layout.edges for point in points[1:-1]]
    assert len(set(passing)) == len(passing)
    assert layout == lay_out(graph)


def test_a_planar_graph_is_drawn_without_crossings() -> None:
    """Two chains whose ends are given crosswise."""
    pairs = [(0, 1), (0, 2), (1, 4), (2, 3), (3, 6), (4, 5), (5, 7), (6, 7)]
    graph = plain_graph(pairs, last=7)
    x = {node: place for node, (place, _) in lay_out(graph).nodes.items()}
    assert (x[1] < x[2]) == (x[4] < x[3]) == (x[5] < x[6])


def plain_graph(pairs: list[tuple[int, int]], last: int) -> Graph:
    taken: dict[int, int] = {}
    edges = []
    for source, target in pairs:
        edges.append(Edge(source=source, target=target, slot=taken.get(target, 0)))
        taken[target] = taken.get(target, 0) + 1
    return Graph(
        nodes=tuple(Node(id=i) for i in range(last + 1)), edges=tuple(edges), inputs=(0,), output=last
    )


def test_parallel_edges_are_drawn_apart() -> None:
    layout = lay_out(plain_graph([(0, 1), (0, 1), (0, 1), (1, 2)], last=2))
    middles = [points[1][0] for points in layout.edges[:3]]
    assert len(set(middles)) == 3
    assert len(layout.edges[3]) == 2


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    template = RandWireTemplate(regime="cifar", nodes=32, channels=24, classes=10, image=Shape(3, 32, 32))
    return template.architecture(WattsStrogatz(k=4, p=0.75), 1)


def edges_of(figure: Figure) -> list[PathPatch]:
    return [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, PathPatch)]


def test_an_architecture_is_drawn_whole(architecture: Architecture, tmp_path: Path) -> None:
    figure = draw_architecture(architecture, "WS(4, 0.75) seed 1: 91.20 %")
    graphs = [architecture.graph(position) for position in range(3)]
    assert len(edges_of(figure)) == sum(len(graph.edges) for graph in graphs)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [word for word in words if word.isdigit()] == [
        str(node) for _ in range(3) for node in range(1, 33)
    ]
    assert f"24x32x32,  32 nodes, {len(graphs[0].edges)} edges" in words
    shared = {id(axes) for axes in figure.axes}
    save_figure(figure, tmp_path / "deep" / "one.png")
    with Image.open(tmp_path / "deep" / "one.png") as image:
        assert image.width > 1200
        assert len(image.convert("RGB").getcolors(1 << 20)) > 200  # type: ignore[arg-type]
    assert {id(axes) for axes in figure.axes} == shared


@pytest.mark.parametrize("name", ["one.png", "one.svg"])
def test_equal_figures_give_equal_files(architecture: Architecture, tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        save_figure(draw_architecture(architecture, "same"), tmp_path / folder / name)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_edges_follow_their_weights(architecture: Architecture) -> None:
    weights = {(0, 3): 0.95, (0, 4): 0.05, (2, 0): 0.5}
    edges = edges_of(draw_architecture(architecture, "weights", weights))
    heavy, light = edges[3], edges[4]
    assert heavy.get_linewidth() > 3 * light.get_linewidth()
    assert (heavy.get_alpha() or 0) > (light.get_alpha() or 0)


def test_the_weights_of_a_trained_network_are_drawn(architecture: Architecture, tmp_path: Path) -> None:
    """What a trainer's checkpoint holds reaches the edges that learned it, as the network uses it."""
    network = build_network(architecture, 0)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for stage in network.graph_stages:
            stage.edge_values.copy_(3 * torch.randn(len(stage.edge_values), generator=draws))
    store = CheckpointStore(tmp_path)
    store.save(1, {f"network.{name}": value for name, value in network.state_dict().items()}, {})
    checkpoint = store.newest()
    assert checkpoint is not None
    weights = trained_weights(architecture, checkpoint.tensors)
    assert weights == {
        (number, position): pytest.approx(torch.sigmoid(stage.edge_values[factor]).item())
        for number, stage in enumerate(network.graph_stages)
        for factor, position in enumerate(stage.weighted_edges)
    }
    drawn = edges_of(draw_architecture(architecture, "trained", weights))
    start = len(architecture.graph(0).edges)
    strongest = max((weight, edge) for (stage, edge), weight in weights.items() if stage == 1)[1]
    weakest = min((weight, edge) for (stage, edge), weight in weights.items() if stage == 1)[1]
    assert drawn[start + strongest].get_linewidth() > 2 * drawn[start + weakest].get_linewidth()


def make_row(ask: int, setting: str, seed: int, status: str, curve: list[float], start: int = 1) -> Row:
    points = tuple({"epoch": float(start + i), "validation_accuracy": value} for i, value in enumerate(curve))
    values: dict[str, Any] = {
        "candidate": Candidate.of("search", "space", (ask,), ask),
        "names": {"generator": setting[:2], "setting": setting, "seed": seed},
        "architecture": "0", "cost": Complexity(), "rung": 0, "epoch": start + len(curve) - 1,
        "status": status, "curve": points,
        "metrics": {"validation_accuracy": curve[-1]} if curve and status != "failed" else {},
    }  # fmt: skip
    return Row(**values)


ROWS = [
    make_row(0, "WS(4, 0)", 1, "promoted", [0.2, 0.3]),
    make_row(1, "WS(4, 0)", 2, "promoted", [0.1, 0.4]),
    make_row(2, "ER(0.2)", 1, "stopped", [0.1, 0.2]),
    make_row(3, "WS(4, 1)", 1, "failed", [0.1]),
    make_row(4, "WS(4, 1)", 2, "ok", [0.1, 0.4, 0.7, 0.9]),
    make_row(0, "WS(4, 0)", 1, "ok", [0.5, 0.6], start=3),
    make_row(1, "WS(4, 0)", 2, "ok", [0.6, 0.8], start=3),
]


def test_leaders_show_mean_and_spread_of_finished_candidates() -> None:
    axes = draw_leaders(ROWS).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        "WS(4, 0)",
        "WS(4, 1)",
        "ER(0.2), none finished",
    ]
    dots = [
        [float(y) for _, y in cloud.get_offsets()] for cloud in axes.collections if len(cloud.get_offsets())
    ]  # type: ignore[arg-type,misc]
    assert [0.6, 0.8] in dots
    assert [0.9] in dots
    means = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"]  # type: ignore[index]
    assert means == [pytest.approx(0.7), pytest.approx(0.9)]
    bars = [bar.get_segments()[0] for bar in axes.collections if hasattr(bar, "get_segments")]
    spread = math.sqrt(2 * 0.1**2)  # of 0.6 and 0.8, over n - 1
    assert [float(end) for end in bars[0][:, 1]] == pytest.approx([0.7 - spread, 0.7 + spread])


def test_curves_join_the_rungs_and_tell_who_stopped() -> None:
    axes = draw_curves(ROWS).axes[0]
    lines = {tuple(line.get_ydata()): line for line in axes.lines}  # type: ignore[arg-type]
    joined, best, stopped = lines[(0.2, 0.3, 0.5, 0.6)], lines[(0.1, 0.4, 0.7, 0.9)], lines[(0.1, 0.2)]
    assert list(joined.get_xdata()) == [1, 2, 3, 4]  # type: ignore[arg-type]
    assert best.get_linewidth() > joined.get_linewidth()
    assert stopped.get_color() not in {joined.get_color(), best.get_color()}
    assert {lines[(0.2,)].get_marker(), lines[(0.1,)].get_marker()} >= {"|"}
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["best: WS(4, 1) seed 2", "WS", "stopped early", "failed"]


def test_a_search_without_results_has_pictures_too(tmp_path: Path) -> None:
    for name, rows in (("none", []), ("failed", [make_row(0, "WS(4, 0)", 1, "failed", [])])):
        save_figure(draw_leaders(rows), tmp_path / f"{name}-leaders.png")
        save_figure(draw_curves(rows), tmp_path / f"{name}-curves.png")
    assert len(list(tmp_path.iterdir())) == 4


def test_damage_shows_every_removal_and_the_means() -> None:
    found = [
        Damage(0, "node", "1", 2, 0.10, False), Damage(0, "node", "2", 2, 0.30, True),
        Damage(1, "node", "1", 4, 0.5, False), Damage(0, "edge", "1-2", 3, 0.05, False),
    ]  # fmt: skip
    figure = draw_damage(found)
    nodes, edges = figure.axes
    dots = [sorted(float(y) for _, y in cloud.get_offsets()) for cloud in nodes.collections]  # type: ignore[arg-type,misc]
    assert dots == [[0.1, 0.5], [0.3]]
    mean = next(line for line in nodes.lines if line.get_marker() == "D")
    assert list(mean.get_xdata()) == [2, 4]  # type: ignore[arg-type]
    assert list(mean.get_ydata()) == pytest.approx([0.2, 0.5])  # type: ignore[arg-type]
    assert "in-degree" in edges.get_xlabel()
