"""Graph damage: what a trained network loses when one node or one edge is removed (RandWire spec 1.10).

Nothing is trained again and no statistics are recomputed. A removed node sends nothing and leaves the
output's mean; a removed edge carries nothing. A node that is left without inputs reads zeros; such cases
are marked, because what the paper does with them is not known.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from networks.graph import Graph
from networks.network import Network


class Damage(NamedTuple):
    """One removal. `degree`: a node's out-degree, or the in-degree of an edge's target, both within the
    stage's computing nodes. `loss`: undamaged minus damaged accuracy. `orphaning`: somebody was left
    without inputs."""

    stage: int
    kind: Literal["node", "edge"]
    name: str
    degree: int
    loss: float
    orphaning: bool


def removals(graph: Graph) -> list[tuple[Literal["node", "edge"], str, int, frozenset[int]]]:
    """Every single removal of a stage: kind, name, degree, positions of the edges that go."""
    computing = {node for node, operation in graph.operation_of.items() if operation is not None}
    inner = [
        position
        for position, edge in enumerate(graph.edges)
        if edge.source in computing and edge.target in computing
    ]
    out_degree = dict.fromkeys(sorted(computing), 0)
    in_degree = dict(out_degree)
    for position in inner:
        out_degree[graph.edges[position].source] += 1
        in_degree[graph.edges[position].target] += 1
    found: list[tuple[Literal["node", "edge"], str, int, frozenset[int]]] = []
    for node in sorted(computing):
        leaving = frozenset(i for i, edge in enumerate(graph.edges) if edge.source == node)
        found.append(("node", str(node), out_degree[node], leaving))
    for position in inner:
        edge = graph.edges[position]
        found.append(("edge", f"{edge.source}-{edge.target}", in_degree[edge.target], frozenset({position})))
    return found


def damage_study(network: Network, accuracy: Callable[[], float], undamaged: float) -> Iterator[Damage]:
    """Remove each node and each edge of each stage in turn; the network is whole again afterwards.

    `accuracy` scores the network as it stands (0 to 1), and `undamaged` is what it gave for the whole one.
    The number of removals is known beforehand: `removals` of each stage's graph.
    """
    for number, stage in enumerate(network.graph_stages):
        for kind, name, degree, edges in removals(stage.graph):
            stage.remove(edges)
            try:
                loss = undamaged - accuracy()
            finally:
                stage.remove([])
            yield Damage(number, kind, name, degree, loss, _orphans(stage.graph, edges))


def _orphans(graph: Graph, removed: frozenset[int]) -> bool:
    left = dict.fromkeys((edge.target for edge in graph.edges), 0)
    for position, edge in enumerate(graph.edges):
        left[edge.target] += position not in removed
    return min(left.values()) == 0
