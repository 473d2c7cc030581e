"""Learned edge weights for any architecture (TopoNet, spec 2.5): what a network has as shortcuts becomes
edges whose weights are trained with the rest, and edges may be added wherever shapes agree."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from networks.adjacency import weights_of, with_graphs
from networks.architecture import Architecture, Stage
from networks.blocks import find_operation
from networks.errors import UserError
from networks.graph import Edge, Graph, Node

Which = Literal["skips", "all"]


def learnable(
    architecture: Architecture,
    which: Which = "skips",
    complete: bool = False,
    values: Sequence[Tensor] | None = None,
) -> Architecture:
    """The architecture with a real weight on each of its edges, or on those alone that pass on what they read
    (`skips`: operations of category S). Means become weighted sums.

    Weights start at what the edge weighs now, at these trained `values` of each stage or else at its own
    start, so that the network computes at first what it computed. `complete` adds every other edge that fits
    between two nodes of a stage, with a weight that starts at 0. Outputs that join nodes stay as they are.
    Raises `UserError` where there is no edge to weigh.
    """
    graphs = []
    for position, stage in enumerate(architecture.stages):
        graph = architecture.graph(position)
        weights = weights_of(graph, None if values is None else values[position]).tolist()
        edges = [
            _learned(graph, edge, weight, which) for edge, weight in zip(graph.edges, weights, strict=True)
        ]
        if complete:
            edges += _missing(graph, stage)
        graphs.append(_weighted(graph, edges))
    if not any(edge.weight == "real" for graph in graphs for edge in graph.edges):
        fix = "" if which == "all" else "Weigh all edges instead of the skips."
        raise UserError("edges", which, "edges that a network has (none here)", fix)
    return with_graphs(architecture, graphs)


def _learned(graph: Graph, edge: Edge, weight: float, which: Which) -> Edge:
    joined = graph.aggregation_of[edge.target] == "concat"
    skips = find_operation(edge.operation).category == "S"
    if joined or edge.operation == "none" or not (skips or which == "all"):
        kept = graph.aggregation_of[edge.target] != "mean" and edge.weight == "none"
        return edge if kept or joined else _real(edge, weight)
    return _real(edge, weight)


def _real(edge: Edge, weight: float) -> Edge:
    return Edge(**{**edge.model_dump(), "weight": "real", "value": weight})


def _missing(graph: Graph, stage: Stage) -> list[Edge]:
    """Edges that are not there between nodes of one shape, the earlier to the later."""
    order = graph.order
    fed = _entry_readers(graph, stage)
    there = {(edge.source, edge.target) for edge in graph.edges}
    slots = {node: len(graph.incoming[node]) for node in order}
    found = []
    for late, target in enumerate(order):
        if target in graph.inputs or target in fed or graph.aggregation_of[target] == "concat":
            continue
        for source in order[:late]:
            if (source, target) in there or (source in graph.inputs and stage.rule != "input"):
                continue  # where the graph itself resizes, its input has another shape than its nodes
            found.append(Edge(source=source, target=target, slot=slots[target], weight="real", value=0.0))
            slots[target] += 1
    return found


def _entry_readers(graph: Graph, stage: Stage) -> set[int]:
    """The nodes that must read the stage's input alone, because they change its size and width."""
    if stage.rule != "sources":
        return set()
    return {edge.target for edge in graph.edges if edge.source in graph.inputs}


def _weighted(graph: Graph, edges: Sequence[Edge]) -> Graph:
    sums = {edge.target for edge in edges if edge.weight != "none"}
    nodes = tuple(
        Node(id=node.id, operation=node.operation, aggregation="weighted_sum") if node.id in sums else node
        for node in graph.nodes
    )
    return Graph(nodes=nodes, edges=tuple(edges), inputs=graph.inputs, output=graph.output)
