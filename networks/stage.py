"""The module of one stage: a graph's operations, its learned edge values, and how they are run."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from networks.architecture import PROJECTION, Placements, Shape, Stage
from networks.counters import counter_random
from networks.graph import Edge, Graph
from networks.operations import find_operation


class GraphStage(nn.Module):
    """N x C x H x W -> N x channels x H/stride x W/stride.

    `edge_values[i]` is the scalar of the i-th edge of `weighted_edges`; it starts at 0 (a sigmoid edge
    then weighs 0.5; RandWire spec 1.4 leaves the start open). `removed` names edges (positions in
    `graph.edges`) that carry nothing: a node left without inputs reads zeros, a mean is taken over what
    is left. Damage studies and edge-drop set it; nothing else of the stage changes.
    """

    def __init__(self, graph: Graph, stage: Stage, entry: Shape) -> None:
        super().__init__()
        self.graph, self.stage, self.entry = graph, stage, entry
        placements = Placements(graph, stage, entry)
        self.projection: nn.Module = nn.Identity()
        if placements.projection is not None:
            place = placements.projection
            self.projection = find_operation(PROJECTION).build(place.entry.c, place.c_out, place.stride)
        self.operations = nn.ModuleDict()
        for node in graph.nodes:
            if node.operation is not None:
                place = placements.node(node.id)
                built = find_operation(node.operation).build(place.entry.c, place.c_out, place.stride)
                self.operations[node_key(node.id)] = built
        for edge in graph.edges:
            if edge.operation != "identity":
                place = placements.edge(edge)
                built = find_operation(edge.operation).build(place.entry.c, place.c_out, place.stride)
                self.operations[edge_key(edge)] = built
        self.weighted_edges = [i for i, edge in enumerate(graph.edges) if edge.weight != "none"]
        self.edge_values = nn.Parameter(torch.zeros(len(self.weighted_edges)))
        self.removed: frozenset[int] = frozenset()

    def forward(self, x: Tensor) -> Tensor:
        weights = self._edge_weights()
        values = {self.graph.inputs[0]: self.projection(x)}
        for node in self.graph.order[1:]:
            values[node] = self._node(node, values, weights)
        return values[self.graph.output]

    def _edge_weights(self) -> dict[int, Tensor]:
        """The factor of each weighted edge, by its position in `graph.edges`."""
        weights = {}
        for value, position in zip(self.edge_values, self.weighted_edges, strict=True):
            sigmoid = self.graph.edges[position].weight == "sigmoid"
            weights[position] = torch.sigmoid(value) if sigmoid else value
        return weights

    def _node(self, node: int, values: dict[int, Tensor], weights: dict[int, Tensor]) -> Tensor:
        parts: list[Tensor] = []
        incoming = self.graph.incoming[node]
        for edge in incoming:
            position = self.graph.edges.index(edge)
            if position in self.removed:
                continue
            part = values[edge.source]
            if edge.operation != "identity":
                part = self.operations[edge_key(edge)](part)
            parts.append(part * weights[position] if position in weights else part)
        aggregation = self.graph.aggregation_of[node]
        if not parts:
            z = torch.zeros_like(values[incoming[0].source])
        elif aggregation == "concat":
            z = torch.cat(parts, 1)
        else:
            z = sum(parts[1:], parts[0])
            z = z / len(parts) if aggregation == "mean" else z
        return self.operations[node_key(node)](z) if node_key(node) in self.operations else z

    def remove(self, edges: Iterable[int]) -> None:
        """From now on these edges (positions in `graph.edges`) carry nothing; `remove([])` restores all."""
        self.removed = frozenset(edges)

    @property
    def droppable_edges(self) -> list[int]:
        """Edges that edge-drop may remove: those whose target has other inputs (spec 1.8)."""
        output = self.graph.output
        return [
            position
            for position, edge in enumerate(self.graph.edges)
            if len(self.graph.incoming[edge.target]) > 1 and edge.target != output
        ]

    def draw_edge_drop(self, seed: int, *path: int | str) -> None:
        """With probability `stage.edge_drop`, remove one random droppable edge for the next pass."""
        rng = counter_random(seed, *path, "edge_drop")
        droppable = self.droppable_edges
        drops = bool(droppable) and rng.random() < self.stage.edge_drop
        self.remove([rng.choice(droppable)] if drops else [])


def node_key(node: int) -> str:
    return f"node_{node}"


def edge_key(edge: Edge) -> str:
    return f"edge_{edge.source}_{edge.target}_{edge.slot}"
