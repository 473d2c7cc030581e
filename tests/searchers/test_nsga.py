"""Several objectives: fronts against their definition, crowding by hand, and a frontier that is known."""

import math

import pytest

from networks.counters import counter_random
from networks.spaces.space import Genes
from searchers.nsga import Member, NsgaSettings, survivors
from searchers.pareto import crowding, frontier, fronts
from searchers.problem import Objective, Problem
from searchers.random_search import RandomSettings
from searchers.searcher import Searcher
from tests.searchers.toys import CHAIN, evaluation

INF = math.inf


def dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_fronts_are_those_of_the_definition(objectives: int, levels: int) -> None:
    """Few levels make ties and equal candidates."""
    rng = counter_random(0, "points", objectives, levels)
    points = [tuple(float(rng.randrange(levels)) for _ in range(objectives)) for _ in range(120)]
    found = list(fronts(points))
    assert sorted(i for front in found for i in front) == list(range(120))
    left = set(range(120))
    for front in found:
        free = [i for i in sorted(left) if not any(dominates(points[j], points[i]) for j in left)]
        assert front == free
        left -= set(front)
    assert frontier(points) == found[0]


def test_frontiers_of_little() -> None:
    assert frontier([]) == list(fronts([])) == crowding([]) == []
    assert frontier([(1.0, 2.0)]) == [0]
    assert frontier([(1.0, 2.0), (1.0, 2.0), (1.0, 1.0)]) == [0, 1]
    assert frontier([(0.0, -INF), (0.0, -INF), (1.0, -INF)]) == [2]
    with pytest.raises(ValueError, match="NaN"):
        frontier([(1.0, float("nan"))])


def test_crowding_by_hand() -> None:
    """Neighbours of (1, 5): (5 - 0) / 10 and (9 - 3) / 10; of (5, 3): (10 - 1) / 10 and (5 - -1) / 10."""
    points = [(5.0, 3.0), (0.0, 9.0), (10.0, -1.0), (1.0, 5.0)]
    assert crowding(points) == pytest.approx([0.9 + 0.6, INF, INF, 0.5 + 0.6])
    assert crowding([(1.0, 1.0)]) == [INF]
    assert crowding([(2.0, 7.0)] * 3)[1] == 0.0


def test_survivors_are_whole_fronts_then_the_least_crowded() -> None:
    first = [(5.0, 3.0), (0.0, 9.0), (10.0, -1.0), (1.0, 5.0)]
    second = [(4.0, 2.0), (-1.0, 8.0)]
    members = [Member((i,), point) for i, point in enumerate([*second, *first])]
    assert [member.genes[0] for member in survivors(members, 4)] == [3, 4, 2, 5]
    assert [member.genes[0] for member in survivors(members, 3)] == [3, 4, 2]
    assert [member.genes[0] for member in survivors(members, 5)][4] in (0, 1)
    assert len(survivors(members, 100)) == 6


def test_many_known_candidates_are_sorted_as_far_as_it_takes() -> None:
    """A warm start from a whole table: its 6,561 points have hundreds of fronts."""
    searcher = NsgaSettings().build(Problem(CHAIN, OBJECTIVES, 0))
    known = [genes for genes in CHAIN.enumerate() if genes[0] or genes[1]]
    searcher.tell([evaluation(genes, **metrics(genes)) for genes in known])
    asked = searcher.ask(50)
    assert len(asked) == 50
    assert len(searcher.state_dict()["members"]) == 50  # type: ignore[arg-type]


# The search ---------------------------------------------------------------------------------------

OBJECTIVES = (Objective(metric="gain"), Objective(metric="price", maximise=False))


def metrics(genes: Genes) -> dict[str, float]:
    """Each position has its own worth: the frontier is what is bought by falling gain for the price."""
    gain = sum(gene * (i + 1) for i, gene in enumerate(genes))
    return {"gain": float(gain), "price": float(sum(gene**2 * (9 - i) for i, gene in enumerate(genes)))}


def values(genes: Genes) -> tuple[float, float]:
    found = metrics(genes)
    return found["gain"], -found["price"]


def played(searcher: Searcher) -> list[Genes]:
    asked = []
    while not searcher.finished:
        for genes in searcher.ask(10):
            asked.append(genes)
            searcher.tell([evaluation(genes, **metrics(genes))])
    return asked


def test_the_known_frontier_is_found() -> None:
    """1,000 of 6,561 candidates; the frontier is that of the whole space. Random search finds 15 % of it."""
    everything = list(CHAIN.enumerate())
    points = [values(genes) for genes in everything]
    true = {points[i] for i in frontier(points)}
    assert len(true) == 29
    shares: dict[str, list[float]] = {"nsga": [], "random": []}
    for seed in range(5):
        problem = Problem(CHAIN, OBJECTIVES, seed)
        for name, settings in (("nsga", NsgaSettings()), ("random", RandomSettings(budget=1000))):
            asked = played(settings.build(problem))
            assert len(asked) == len(set(asked)) == 1000
            shares[name].append(len(true & set(map(values, asked))) / len(true))
    assert min(shares["nsga"]) >= 0.9
    assert max(shares["random"]) < 0.4


def test_one_objective_is_enough() -> None:
    asked = played(NsgaSettings().build(Problem(CHAIN, OBJECTIVES[:1], 0)))
    assert (2,) * 8 in asked


def test_who_lacks_an_objective_is_no_parent() -> None:
    """Cheap, and of unknown gain: without this rule it would stay on the frontier for ever."""
    searcher = NsgaSettings(population=10, generations=2).build(Problem(CHAIN, OBJECTIVES, 0))
    first = searcher.ask(10)
    searcher.tell([evaluation(genes, price=-1.0) for genes in first[:9]])
    searcher.tell([evaluation(first[9], **metrics(first[9]))])
    members = searcher.state_dict()["members"]
    assert members == [[list(first[9]), list(values(first[9]))]]
    assert len(searcher.ask(10)) == 10
