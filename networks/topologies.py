"""Topologies over the same nodes: which outputs each node adds up (TopoNet, 2008.08261; spec 2.1, 2.2).

A topology on N nodes, the distributing input and the adding output included, is a set of pairs (i, j) with
i < j. `topology_graph` makes it a graph of one operation a node: z_j = sum of alpha_ij x_i, x_j = f_j(z_j).
Random topologies are the wirings of networks/generators.py between an input and an output.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from networks.errors import UserError
from networks.generators import RandomGraph
from networks.graph import Edge, EdgeWeight, Graph, Node

Pair = tuple[int, int]
DENSE_LINK = "relu_conv_1x1"


class Topology(BaseModel, ABC):
    """A fixed wiring of any number of nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    link: ClassVar[str] = "identity"  # the operation of every edge

    @property
    def label(self) -> str:
        return self.kind

    @property
    def setting(self) -> dict[str, int | float]:
        return {}

    def check(self, nodes: int) -> None:
        """Raise `UserError` when there are too few nodes, or a number that it cannot wire."""
        if nodes < 3:
            raise UserError("nodes", nodes, "3 or more: an input, an output and one between them")

    @abstractmethod
    def pairs(self, nodes: int) -> tuple[Pair, ...]:
        """Its edges, sorted by target, then by source."""


class Plain(Topology):
    """A chain: each node reads the one before it. N - 1 edges."""

    kind: ClassVar[str] = "plain"
    topology: Literal["plain"] = "plain"

    def pairs(self, nodes: int) -> tuple[Pair, ...]:
        return tuple(pairwise(range(nodes)))


class Complete(Topology):
    """Each node reads all before it. N(N-1)/2 edges. With weights of 1 it is the residual network whose every
    node has a shortcut (spec 2.2)."""

    kind: ClassVar[str] = "complete"
    topology: Literal["complete"] = "complete"

    def pairs(self, nodes: int) -> tuple[Pair, ...]:
        return _by_target(combinations(range(nodes), 2))


class Dense(Topology):
    """Complete, and each edge has a 1x1 convolution of its own: their sum is one 1x1 convolution of what all
    nodes before put out, joined along the channels, as DenseNet's nodes begin with (1608.06993)."""

    kind: ClassVar[str] = "dense"
    link: ClassVar[str] = DENSE_LINK
    topology: Literal["dense"] = "dense"

    def pairs(self, nodes: int) -> tuple[Pair, ...]:
        return Complete().pairs(nodes)


class Residual(Topology):
    """Blocks of `interval` nodes one after the other, around each of which a shortcut leads.

    What is added up along the shortcuts is what the input and every block before have put out; so the first
    node of a block, and the output, read all of those, and a node inside a block the one before it:
    B(l-1) + (B+1)(B+2)/2 edges for B blocks of l nodes, N = lB + 2 (spec 2.2).
    """

    kind: ClassVar[str] = "residual"
    topology: Literal["residual"] = "residual"
    interval: int = Field(1, ge=1)

    @property
    def label(self) -> str:
        return f"residual({self.interval})"

    @property
    def setting(self) -> dict[str, int | float]:
        return {"interval": self.interval}

    def check(self, nodes: int) -> None:
        super().check(nodes)
        if (nodes - 2) % self.interval:
            allowed = f"a multiple of the interval {self.interval}, and 2 (input and output)"
            raise UserError("nodes", nodes, allowed)

    def pairs(self, nodes: int) -> tuple[Pair, ...]:
        ends = range(0, nodes - 1, self.interval)  # the input, and the last node of each block
        starts = [end + 1 for end in ends]
        joined = [(end, start) for start in starts for end in ends if end < start]
        inside = [(node - 1, node) for node in range(1, nodes - 1) if node not in starts]
        return _by_target([*joined, *inside])


TOPOLOGIES: dict[str, type[Topology]] = {one.kind: one for one in (Plain, Residual, Complete, Dense)}


def pairs_of(
    topology: Topology | RandomGraph, nodes: int, seed: int = 0, *path: int | str
) -> tuple[Pair, ...]:
    """The edges of any topology on N nodes; those of a random one are drawn from the counter (seed, path).

    Of a random graph on the N - 2 nodes between them, its sources read the input and its sinks are read by
    the output.
    """
    if isinstance(topology, Topology):
        topology.check(nodes)
        return topology.pairs(nodes)
    Plain().check(nodes)
    wiring = topology.wiring(nodes - 2, seed, *path)
    inner = [(source + 1, target + 1) for source, target in wiring.edges]
    entering = [(0, source + 1) for source in wiring.sources]
    leaving = [(sink + 1, nodes - 1) for sink in wiring.sinks]
    return _by_target([*entering, *inner, *leaving])


def topology_graph(
    nodes: int,
    pairs: Iterable[Pair],
    operation: str,
    weight: EdgeWeight = "none",
    link: str = "identity",
) -> Graph:
    """Nodes 0 (the input) to N - 1 (the output) with these edges; those between have this operation. Every
    edge is weighted so, and has the operation `link`."""
    last = nodes - 1
    aggregation: Literal["sum", "weighted_sum"] = "sum" if weight == "none" else "weighted_sum"
    inner = [Node(id=node, operation=operation, aggregation=aggregation) for node in range(1, last)]
    edges, taken = [], [0] * nodes
    for source, target in _by_target(pairs):
        edges.append(Edge(source=source, target=target, slot=taken[target], operation=link, weight=weight))
        taken[target] += 1
    return Graph(
        nodes=(Node(id=0), *inner, Node(id=last, aggregation=aggregation)),
        edges=tuple(edges),
        inputs=(0,),
        output=last,
    )


def subgraphs(nodes: int) -> Iterator[frozenset[Pair]]:
    """Every set of edges on N nodes: 2^(N(N-1)/2), the empty one first (spec 2.3)."""
    pairs = list(combinations(range(nodes), 2))
    for chosen in range(2 ** len(pairs)):
        yield frozenset(pair for number, pair in enumerate(pairs) if chosen >> number & 1)


def _by_target(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    return tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0])))
