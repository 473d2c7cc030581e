"""Paths through a cell: which there are, and which cells of the DARTS family are legal.

An edge is named by its position in a list of (source, target) pairs; a path is the positions that it takes,
from its start to its end.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from networks.graph import Graph

Path = tuple[int, ...]


def paths_between(
    edges: Sequence[tuple[int, int]], starts: Collection[int], ends: Collection[int]
) -> tuple[Path, ...]:
    """Every path of one or more edges from a node in `starts` to a node in `ends`, sorted.

    Which ends count is a choice of the method: on DARTS cells (inputs 0 and 1, nodes 2 to 5) ABS counts the
    16 paths that end at node 5, RLNAS the 30 that end at any of the nodes 2 to 5 (angle spec section 2).
    """

    def walks(node: int) -> Iterator[Path]:
        if node in starts:
            yield ()
        for position, (source, target) in enumerate(edges):
            if target == node:
                yield from ((*before, position) for before in walks(source))

    return tuple(sorted(path for end in set(ends) for path in walks(end) if path))


def graph_paths(graph: Graph) -> tuple[Path, ...]:
    """From any input to the output, as positions in `graph.edges`."""
    edges = [(edge.source, edge.target) for edge in graph.edges]
    return paths_between(edges, graph.inputs, (graph.output,))


def last_paths(graph: Graph) -> tuple[Path, ...]:
    """As `graph_paths`; where the output joins several nodes, to the last of them alone."""
    if graph.widths == 1:
        return graph_paths(graph)
    last = graph.edges.index(graph.incoming[graph.output][-1])
    return tuple(path for path in graph_paths(graph) if path[-1] == last)


def has_two_inputs(edges: Sequence[tuple[int, int]], dead: Collection[int], nodes: Collection[int]) -> bool:
    """Whether exactly two edges that are not `dead` (positions) lead into each of `nodes`: the rule for
    DARTS cells (RLNAS's check_cand, spec A10). A node with j + 2 incoming edges then has j dead ones."""
    alive = Counter(target for position, (_, target) in enumerate(edges) if position not in dead)
    return all(alive[node] == 2 for node in nodes)
