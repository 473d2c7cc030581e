"""Several objectives at once: non-dominated sorting and crowding (NSGA-II, Deb et al. 2002).

Values are tuples, one number for each objective, higher is better in all. One candidate dominates another
when it is nowhere worse and somewhere better; equal ones do not dominate each other.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

Values = Sequence[Sequence[float]]


def frontier(values: Values) -> list[int]:
    """The positions of all that nothing dominates, ascending. NaN is refused with `ValueError`."""
    points = np.asarray(values, dtype=np.float64)
    if not len(points):
        return []
    if np.isnan(points).any():
        raise ValueError("NaN cannot be ranked")
    # After this sort, best first objective first, nothing dominates what stands before it.
    order = np.lexsort(tuple(-points[:, i] for i in reversed(range(points.shape[1]))))
    kept: list[int] = []
    best = np.empty_like(points)
    for position in order:
        point, rivals = points[position], best[: len(kept)]
        if not ((rivals >= point).all(axis=1) & (rivals > point).any(axis=1)).any():
            best[len(kept)] = point
            kept.append(int(position))
    return sorted(kept)


def fronts(values: Values) -> Iterator[list[int]]:
    """Positions by front: the frontier, then the frontier of what is left, and so on."""
    left = list(range(len(values)))
    while left:
        front = [left[i] for i in frontier([values[position] for position in left])]
        yield front
        gone = set(front)
        left = [position for position in left if position not in gone]


def crowding(values: Values) -> list[float]:
    """How far apart each one's neighbours on its front are: the sum over objectives of the distance
    between the next lower and the next higher, as a share of the front's range. Infinite at the ends."""
    distance = [0.0] * len(values)
    for objective in range(len(values[0]) if values else 0):
        order = sorted(range(len(values)), key=lambda i: values[i][objective])
        column = [values[i][objective] for i in order]
        distance[order[0]] = distance[order[-1]] = math.inf
        span = column[-1] - column[0]
        if span > 0:
            for i in range(1, len(order) - 1):
                distance[order[i]] += (column[i + 1] - column[i - 1]) / span
    return distance
