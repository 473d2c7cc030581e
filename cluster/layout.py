"""Where to draw the nodes and edges of a graph: the layered layout of Sugiyama, Tagawa and Toda (1981).

Nodes stand in rows, one a topological level. An edge that skips rows passes each of them at a place of its
own, so that it runs beside the nodes there and not through them. Everything is deterministic.
"""

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from networks.graph import Graph

Point = tuple[float, float]
Stop = tuple[int, int]  # (-1, node), or (edge position, row) where an edge passes a row
NODE_ROOM, EDGE_ROOM = 1.0, 0.36  # width that a node and a passing edge take in a row
PASSING_ROOM = 14.0  # what all passing edges of a row may take: those of dense graphs draw together
ORDER_SWEEPS, PLACE_SWEEPS = 16, 16
STRAIGHT = 4.0
TWIN_GAP = 0.35  # between parallel edges of neighbouring rows


class Layout(NamedTuple):
    """`nodes`: id -> (x, row). `edges`: for each of the graph's edges the points from source to target,
    one a row. x is centred at 0; neighbouring nodes are at least 1 apart, passing edges `edge_room`."""

    nodes: dict[int, Point]
    edges: list[list[Point]]
    rows: int
    edge_room: float

    @property
    def reach(self) -> float:
        """The largest distance from the middle."""
        points = [*self.nodes.values(), *(point for edge in self.edges for point in edge)]
        return max(abs(x) for x, _ in points)


def lay_out(graph: Graph) -> Layout:
    """Rows by topological level; few crossings, short edges."""
    level = {node: row for row, nodes in enumerate(graph.levels) for node in nodes}
    paths: list[list[Stop]] = []
    for position, edge in enumerate(graph.edges):
        passed = [(position, row) for row in range(level[edge.source] + 1, level[edge.target])]
        paths.append([(-1, edge.source), *passed, (-1, edge.target)])
    rows: list[list[Stop]] = [[(-1, node) for node in nodes] for nodes in graph.levels]
    for path in paths:
        for stop in path[1:-1]:
            rows[stop[1]].append(stop)
    above: dict[Stop, list[Stop]] = {stop: [] for row in rows for stop in row}
    below: dict[Stop, list[Stop]] = {stop: [] for row in rows for stop in row}
    for path in paths:
        for upper, lower in pairwise(path):
            below[upper].append(lower)
            above[lower].append(upper)
    rows = _uncross(rows, above, below)
    passing = max(sum(stop[0] >= 0 for stop in row) for row in rows)
    room = min(EDGE_ROOM, PASSING_ROOM / max(1, passing))
    x = _place(rows, above, below, room)
    edges = [
        [(x[stop], float(level[stop[1]] if stop[0] < 0 else stop[1])) for stop in path] for path in paths
    ]
    _part_twins(graph, edges)
    nodes = {node: (x[(-1, node)], float(row)) for node, row in level.items()}
    return Layout(nodes, edges, len(rows), room)


def _uncross(
    rows: list[list[Stop]], above: dict[Stop, list[Stop]], below: dict[Stop, list[Stop]]
) -> list[list[Stop]]:
    """Order each row by the mean place of its neighbours, down and up in turn; the best order seen."""
    rows = [list(row) for row in rows]
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(ORDER_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for number in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            fixed = rows[number - 1 if down else number + 1]
            place = {stop: i for i, stop in enumerate(fixed)}
            mean = {
                stop: sum(place[one] for one in neighbours[stop]) / len(neighbours[stop])
                for stop in rows[number]
                if neighbours[stop]
            }
            rows[number].sort(key=lambda stop, mean=mean: mean.get(stop, 0.0))  # type: ignore[misc]
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _crossings(rows: list[list[Stop]], below: dict[Stop, list[Stop]]) -> int:
    """Pairs of edge segments that cross between neighbouring rows."""
    count = 0
    for row, next_row in pairwise(rows):
        place = {stop: i for i, stop in enumerate(next_row)}
        seen: list[int] = []  # where the edges of the stops to the left end, sorted
        for stop in row:
            ends = [place[lower] for lower in below[stop]]
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return count


def _place(
    rows: list[list[Stop]], above: dict[Stop, list[Stop]], below: dict[Stop, list[Stop]], edge_room: float
) -> dict[Stop, float]:
    """x of every stop: near its neighbours, in the row's order, with room for each."""
    x: dict[Stop, float] = {}
    for row in rows:
        x.update(zip(row, _spread([0.0] * len(row), row, edge_room), strict=True))
    for sweep in range(PLACE_SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wished = []
            for stop in row:
                # A passing edge pulls its own next stop harder than a node does: long edges become straight.
                near = above[stop] + below[stop]
                pulls = [(x[one], STRAIGHT if stop[0] >= 0 and one[0] >= 0 else 1.0) for one in near]
                wished.append(sum(at * pull for at, pull in pulls) / sum(pull for _, pull in pulls))
            x.update(zip(row, _spread(wished, row, edge_room), strict=True))
    middle = (min(x.values()) + max(x.values())) / 2
    return {stop: at - middle for stop, at in x.items()}


def _spread(wished: Sequence[float], row: Sequence[Stop], edge_room: float) -> list[float]:
    """The places nearest to the wished ones (least squares) that keep order and room: pool adjacent
    violators."""
    room = [NODE_ROOM if stop[0] < 0 else edge_room for stop in row]
    offset = [0.0]
    for left, right in pairwise(room):
        offset.append(offset[-1] + (left + right) / 2)
    pools: list[tuple[float, int]] = []  # mean of (wish - offset), number of stops
    for wish, shift in zip(wished, offset, strict=True):
        mean, size = wish - shift, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, size = (mean * size + other * others) / (size + others), size + others
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + shift for mean, shift in zip(flat, offset, strict=True)]


def _part_twins(graph: Graph, edges: list[list[Point]]) -> None:
    """Bend parallel edges between neighbouring rows apart; longer ones have places of their own already."""
    ends = [(edge.source, edge.target) for edge in graph.edges]
    number, drawn = Counter(ends), Counter[tuple[int, int]]()
    for position, pair in enumerate(ends):
        if number[pair] > 1 and len(edges[position]) == 2:
            (x0, y0), (x1, y1) = edges[position]
            aside = TWIN_GAP * (drawn[pair] - (number[pair] - 1) / 2)
            edges[position] = [(x0, y0), ((x0 + x1) / 2 + aside, (y0 + y1) / 2), (x1, y1)]
            drawn[pair] += 1
