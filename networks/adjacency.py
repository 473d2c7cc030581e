"""Edge weights as a matrix, and graphs less the edges that carry nothing (TopoNet, spec 2.1, 2.7)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from networks.architecture import Architecture
from networks.errors import UserError
from networks.execution import edge_weights
from networks.graph import Edge, EdgeWeight, Graph
from networks.plan import edge_key


def weights_of(graph: Graph, values: Tensor | None = None) -> Tensor:
    """What each edge weighs, in order: 1 where it has no weight, and a share where a mean is taken. `values`:
    those of its stage, one for each weighted edge (None: what they start at)."""
    weighted = [edge for edge in graph.edges if edge.weight != "none"]
    if values is None:
        values = torch.tensor([edge.start for edge in weighted])
    found = iter(edge_weights(values.detach(), [edge.weight for edge in weighted]).tolist())
    return torch.tensor(
        [next(found) if edge.weight != "none" else _share(graph, edge) for edge in graph.edges],
        dtype=torch.float64,
    )


def _share(graph: Graph, edge: Edge) -> float:
    averages = graph.aggregation_of[edge.target] == "mean"
    return 1 / len(graph.incoming[edge.target]) if averages else 1.0


def adjacency(graph: Graph, values: Tensor | None = None) -> Tensor:
    """N x N, float64: [j, i] is what the edge from i to j weighs, 0 where there is none. Nodes in topological
    order (`graph.order`). Rows hold the edges into a node, columns those out of it (spec 2.1)."""
    place = {node: position for position, node in enumerate(graph.order)}
    matrix = torch.zeros(len(place), len(place), dtype=torch.float64)
    for edge, weight in zip(graph.edges, weights_of(graph, values).tolist(), strict=True):
        matrix[place[edge.target], place[edge.source]] += weight
    return matrix


def sparsity(graphs: Sequence[Graph], values: Sequence[Tensor], threshold: float) -> float:
    """Which part of all weighted edges weighs no more than the threshold, sign aside."""
    parts = []
    for graph, of_stage in zip(graphs, values, strict=True):
        weighted = [edge.weight != "none" for edge in graph.edges]
        parts.append(weights_of(graph, of_stage)[torch.tensor(weighted, dtype=torch.bool)].abs() <= threshold)
    small = torch.cat(parts) if parts else torch.zeros(0)
    return float(small.double().mean()) if len(small) else 0.0


class Pruned(NamedTuple):
    """A graph less some edges; `edges`: what positions those that are left had."""

    graph: Graph
    edges: tuple[int, ...]


def pruned(graph: Graph, weights: Tensor, threshold: float = 0.0) -> Pruned:
    """Without the weighted edges that weigh no more than the threshold, sign aside, and without the nodes
    that nothing reads then.

    A node that would have no edge left keeps the strongest of them (of equal ones the first): it still puts
    out what its operation makes of nothing. So edges of exactly zero may go without any change.
    """
    strength = weights.abs().tolist()
    position = {(edge.target, edge.slot): number for number, edge in enumerate(graph.edges)}
    live, kept = {graph.output}, set[int]()
    for node in reversed(graph.order):
        if node not in live or node in graph.inputs:
            continue
        into = [position[edge.target, edge.slot] for edge in graph.incoming[node]]
        strong = [p for p in into if graph.edges[p].weight == "none" or strength[p] > threshold]
        strong = strong or [max(into, key=lambda p: strength[p])]
        kept.update(strong)
        live.update(graph.edges[p].source for p in strong)
    edges, taken = [], dict.fromkeys(live, 0)
    left = sorted(kept, key=lambda p: (graph.edges[p].slot, p))
    slots = {}
    for p in left:
        slots[p] = taken[graph.edges[p].target]
        taken[graph.edges[p].target] += 1
    for p in sorted(kept):
        edges.append(graph.edges[p].model_copy(update={"slot": slots[p]}))
    smaller = Graph(
        nodes=tuple(node for node in graph.nodes if node.id in live or node.id in graph.inputs),
        edges=tuple(edges),
        inputs=graph.inputs,
        output=graph.output,
    )
    return Pruned(smaller, tuple(sorted(kept)))


def edge_values(architecture: Architecture, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Of each stage, from a network's `state_dict`."""
    return [tensors[f"stages.{position}.edge_values"] for position in range(len(architecture.stages))]


def prune(
    architecture: Architecture, tensors: Mapping[str, Tensor], threshold: float = 0.0
) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture without the edges that weigh no more than the threshold (`pruned`), and the network's
    `state_dict` without what went with them."""
    if threshold < 0:
        raise UserError("threshold", threshold, "0 or more")
    left = dict(tensors)
    graphs = []
    for stage, values in enumerate(edge_values(architecture, tensors)):
        graph = architecture.graph(stage)
        one = pruned(graph, weights_of(graph, values), threshold)
        graphs.append(one.graph)
        _keep_what_is_left(left, f"stages.{stage}.", graph, one, values)
    return with_graphs(architecture, graphs), left


def _keep_what_is_left(
    tensors: dict[str, Tensor], where: str, graph: Graph, left: Pruned, values: Tensor
) -> None:
    """Drop from `tensors` what a smaller stage has no more, and give edges' operations their new names."""
    weighted = [number for number, edge in enumerate(graph.edges) if edge.weight != "none"]
    there = [factor for factor, number in enumerate(weighted) if number in left.edges]
    tensors[f"{where}edge_values"] = values[there]
    renamed = {
        edge_key(graph.edges[old]): edge_key(new)
        for old, new in zip(left.edges, left.graph.edges, strict=True)
    }
    nodes = {f"node_{node.id}" for node in left.graph.nodes}
    below = f"{where}operations."
    of_stage = {name: tensors.pop(name) for name in list(tensors) if name.startswith(below)}
    for name, tensor in of_stage.items():
        key, _, rest = name.removeprefix(below).partition(".")
        new = renamed.get(key, key if key in nodes else None)
        if new is not None:
            tensors[f"{below}{new}.{rest}"] = tensor


def frozen(architecture: Architecture, values: Sequence[Tensor]) -> Architecture:
    """The architecture with its learned edges fixed at these values, one vector for each stage: what they
    weigh is part of it then, and is not trained (spec 2.7)."""
    graphs = []
    for position, of_stage in enumerate(values):
        graph = architecture.graph(position)
        numbers = iter(weights_of(graph, of_stage).tolist())
        edges = [
            edge if edge.weight == "none" else _weighing(edge, "fixed", number)
            for edge, number in zip(graph.edges, numbers, strict=True)
        ]
        graphs.append(_with_edges(graph, edges))
    return with_graphs(architecture, graphs)


def _weighing(edge: Edge, weight: EdgeWeight, value: float | None) -> Edge:
    return Edge(**{**edge.model_dump(), "weight": weight, "value": value})


def _with_edges(graph: Graph, edges: Sequence[Edge]) -> Graph:
    return Graph(nodes=graph.nodes, edges=tuple(edges), inputs=graph.inputs, output=graph.output)


def with_graphs(architecture: Architecture, graphs: Sequence[Graph]) -> Architecture:
    """The same stem, widths and head around other graphs, one for each stage."""
    stages = tuple(
        stage.model_copy(update={"graph": graph})
        for stage, graph in zip(architecture.stages, graphs, strict=True)
    )
    fields = {name: getattr(architecture, name) for name in type(architecture).model_fields}
    return type(architecture)(**{**fields, "stages": stages, "cells": {}})
