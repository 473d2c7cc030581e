"""The graph: which tensors a stage computes and how they flow.

A graph has input nodes (they only distribute), computing nodes and one output node (it only aggregates).
It says nothing about widths or sizes: the same graph can be built at any of them. Edge values that are
learned live in the network's state_dict; the graph only says that they exist.
"""

from collections import Counter
from functools import cached_property
from typing import Literal, Self

import networkx as nx
from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.blocks import find_operation
from networks.errors import UserError

Aggregation = Literal["sum", "weighted_sum", "mean", "concat"]
EdgeWeight = Literal["none", "sigmoid", "real", "fixed"]
LEARNED: frozenset[EdgeWeight] = frozenset({"sigmoid", "real"})


class Node(BaseModel):
    """`operation` None passes the aggregate on unchanged. A node with one input needs no aggregation
    rule: all mean the same there, up to an edge weight. concat, along the channels and in slot order, is for
    the output alone: inside a graph all nodes are as wide as its stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    operation: str | None = None
    aggregation: Aggregation = "sum"


class Edge(BaseModel):
    """`slot` orders the edges into a node: 0, 1, … in the order in which they are aggregated.

    `weight`: none = 1; sigmoid = sigmoid(a) and real = a, with one learned scalar a for each edge; fixed = a
    number that is not learned. `value`: what a starts at (None: 0 for a sigmoid, 1 for a real one), or is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: int
    target: int
    slot: int = 0
    operation: str = "identity"
    weight: EdgeWeight = "none"
    # Left out where it says nothing, so that graphs keep the digests that they had before it could be.
    value: float | None = Field(None, allow_inf_nan=False, exclude_if=lambda value: value is None)

    @property
    def start(self) -> float:
        """What the scalar of a weighted edge starts at."""
        return self.value if self.value is not None else float(self.weight == "real")


class Graph(BaseModel):
    """A directed acyclic graph from `inputs` to `output`.

    Valid when: ids are distinct; edges join known nodes; operations are registered; inputs have no
    incoming edges and no operation; the output is no input and has no outgoing edges; slots at each node
    are 0..k-1; weights stand only on edges into a `weighted_sum`, all learned or all fixed; and every node
    lies on a path from an input to the output, save that one of two inputs may be read by nobody, as in some
    published cells.
    Parallel edges are legal. Anything else raises `UserError` (inside pydantic's ValidationError when
    parsed).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    inputs: tuple[int, ...]
    output: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = Counter(node.id for node in self.nodes)
        repeated = [node for node, count in ids.items() if count > 1]
        if repeated:
            raise UserError("nodes", repeated, "each id once")
        for position, node in enumerate(self.nodes):
            if node.operation is not None:
                find_operation(node.operation, f"nodes.{position}.operation")
        for position, edge in enumerate(self.edges):
            find_operation(edge.operation, f"edges.{position}.operation")
            for end in (edge.source, edge.target):
                if end not in ids:
                    raise UserError(f"edges.{position}", end, f"the ids of nodes: {sorted(ids)}")
        for end in (*self.inputs, self.output):
            if end not in ids:
                raise UserError("inputs / output", end, f"the ids of nodes: {sorted(ids)}")
        if len(set(self.inputs)) != len(self.inputs):
            raise UserError("inputs", list(self.inputs), "each id once")
        if self.output in self.inputs:
            raise UserError("output", self.output, "a node that is no input")
        if any(edge.source == self.output for edge in self.edges):
            raise UserError("output", self.output, "a node without outgoing edges")
        self._check_flow()
        self._check_weights()
        for node in self.nodes:
            self._check_node(node)
        return self

    def _check_flow(self) -> None:
        flow = nx.DiGraph([(edge.source, edge.target) for edge in self.edges])
        flow.add_nodes_from(node.id for node in self.nodes)
        if not nx.is_directed_acyclic_graph(flow):
            raise UserError("edges", nx.find_cycle(flow), "a graph without cycles")
        reached = set(self.inputs).union(*(nx.descendants(flow, node) for node in self.inputs))
        useful = {self.output} | nx.ancestors(flow, self.output)
        idle = sorted(set(flow) - (reached & useful))
        if len(self.inputs) > 1:
            idle = [node for node in idle if node not in self.inputs]
        if idle:
            raise UserError("nodes", idle, "nodes on a path from an input to the output")

    def _check_weights(self) -> None:
        for position, edge in enumerate(self.edges):
            if edge.weight == "fixed" and edge.value is None:
                raise UserError(f"edges.{position}.value", None, "a number, where the weight is fixed")
            if edge.weight == "none" and edge.value is not None:
                allowed = "nothing where the weight is none (or the weight fixed)"
                raise UserError(f"edges.{position}.value", edge.value, allowed)
        kinds = sorted({edge.weight for edge in self.edges} - {"none"})
        if "fixed" in kinds and len(kinds) > 1:
            raise UserError("edges: weight", kinds, "learned ones or fixed ones, not both in one graph")

    def _check_node(self, node: Node) -> None:
        incoming = [edge for edge in self.edges if edge.target == node.id]
        where = f"node {node.id}"
        if node.id in self.inputs and (incoming or node.operation is not None):
            raise UserError(where, "an input", "inputs without incoming edges and without an operation")
        if sorted(edge.slot for edge in incoming) != list(range(len(incoming))):
            slots = [edge.slot for edge in incoming]
            raise UserError(f"{where}: slots of its edges", slots, f"each of 0 to {len(incoming) - 1} once")
        if node.aggregation == "concat" and (node.id != self.output or node.operation is not None):
            raise UserError(f"{where}: aggregation", "concat", "the output, without an operation")
        if node.aggregation != "weighted_sum" and any(edge.weight != "none" for edge in incoming):
            raise UserError(
                f"{where}: aggregation", node.aggregation, "weighted_sum, where an edge has a weight"
            )

    @cached_property
    def incoming(self) -> dict[int, tuple[Edge, ...]]:
        """Edges into each node, in slot order."""
        table: dict[int, list[Edge]] = {node.id: [] for node in self.nodes}
        for edge in sorted(self.edges, key=lambda edge: edge.slot):
            table[edge.target].append(edge)
        return {node: tuple(edges) for node, edges in table.items()}

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Topological levels: inputs first; a node is one level below its deepest source. Ascending ids."""
        flow = nx.DiGraph([(edge.source, edge.target) for edge in self.edges])
        flow.add_nodes_from(node.id for node in self.nodes)
        return tuple(tuple(sorted(level)) for level in nx.topological_generations(flow))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """A topological order: level by level, ascending ids within one."""
        return tuple(node for level in self.levels for node in level)

    @cached_property
    def aggregation_of(self) -> dict[int, Aggregation]:
        return {node.id: node.aggregation for node in self.nodes}

    @property
    def is_frozen(self) -> bool:
        """Its edges have weights that are not learned."""
        return any(edge.weight == "fixed" for edge in self.edges)

    @property
    def is_cell(self) -> bool:
        """Of two inputs or a joined output, as in the DARTS family."""
        return len(self.inputs) > 1 or self.widths > 1

    @property
    def widths(self) -> int:
        """How many times as wide as its stage the output is."""
        joined = self.aggregation_of[self.output] == "concat"
        return len(self.incoming[self.output]) if joined else 1

    @cached_property
    def operation_of(self) -> dict[int, str | None]:
        return {node.id: node.operation for node in self.nodes}


def single_edge(operation: str) -> Graph:
    """From an input to the output, with this operation."""
    edge = Edge(source=0, target=1, operation=operation)
    return Graph(nodes=(Node(id=0), Node(id=1)), edges=(edge,), inputs=(0,), output=1)
