"""Paths through cells, and which DARTS cells are legal (angle spec, section 2 and A10)."""

import itertools

import pytest

from networks.spaces.nasbench201 import EDGES, PATHS, cell
from networks.spaces.paths import graph_paths, has_two_inputs, paths_between

# A DARTS cell: inputs 0 and 1; nodes 2 to 5 each read all before them.
DARTS = [(source, target) for target in range(2, 6) for source in range(target)]


def test_nasbench201_has_four_paths() -> None:
    assert set(paths_between(EDGES, (0,), (3,))) == set(PATHS)
    graph = cell((1, 2, 3, 4, 0, 1))
    named = {tuple(EDGES.index((graph.edges[e].source, graph.edges[e].target)) for e in path)
             for path in graph_paths(graph)}  # fmt: skip
    assert named == set(PATHS)


@pytest.mark.parametrize(("ends", "number"), [((5,), 16), ((2, 3, 4, 5), 30)])
def test_darts_path_sets(ends: tuple[int, ...], number: int) -> None:
    """ABS counts 16 paths, RLNAS 30."""
    paths = paths_between(DARTS, (0, 1), ends)
    assert len(set(paths)) == len(paths) == number
    for path in paths:
        steps = [DARTS[edge] for edge in path]
        assert steps[0][0] in (0, 1) and steps[-1][1] in ends
        assert all(one[1] == two[0] for one, two in itertools.pairwise(steps))


def test_parallel_edges_are_paths_of_their_own() -> None:
    assert paths_between([(0, 1), (0, 1), (1, 2)], (0,), (2,)) == ((0, 2), (1, 2))


def test_a10_every_node_keeps_two_inputs() -> None:
    incoming = {node: [e for e, (_, target) in enumerate(DARTS) if target == node] for node in range(2, 6)}
    for node, edges in incoming.items():
        others = {e for other, some in incoming.items() if other != node for e in some[2:]}
        for number in range(len(edges) + 1):
            for dead in itertools.combinations(edges, number):
                legal = number == node - 2  # node j + 2, of j + 2 incoming edges, has j dead ones
                assert has_two_inputs(DARTS, others | set(dead), range(2, 6)) == legal
