"""The methods themselves: what moves where, who breeds, and that learning beats drawing (S8, R3, B5)."""

from collections.abc import Callable
from typing import Any

import pytest

from networks.counters import counter_random
from networks.spaces.space import Genes
from searchers.constraints import Constraint, Feasible
from searchers.evolution import EvolutionSearcher, EvolutionSettings
from searchers.local_search import LocalSettings
from searchers.problem import Problem
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings, changed_once
from searchers.searcher import Searcher
from tests.searchers.toys import CELLS, CHAIN, GRAPHS, SCORE, SHUFFLE, drive, evaluation, problem, separable


def distance(first: Genes, second: Genes) -> int:
    return sum(map(int.__ne__, first, second))


def landscape(seed: int) -> Callable[[Genes], float]:
    """Of all cells: a drawn number for each value of each gene and for each pair of values, and noise."""
    rng = counter_random(seed, "landscape")
    genes = range(6)
    single = [[rng.random() for _ in range(5)] for _ in genes]
    pairs = {(i, j): [[rng.random() for _ in range(5)] for _ in range(5)] for i in genes for j in range(i)}

    def score(cell: Genes) -> float:
        alone = sum(single[i][cell[i]] for i in genes)
        together = sum(table[cell[i]][cell[j]] for (i, j), table in pairs.items())
        return alone + 0.2 * together + 0.05 * counter_random(seed, "noise", *cell).random()

    return score


# SPOS's evolution ---------------------------------------------------------------------------------


def test_s8_evolution_beats_random_search_and_keeps_the_budget() -> None:
    """4^20, sum of drawn numbers, MACs below the middle of the space, 1,000 evaluations each, 20 seeds."""
    low, high = SHUFFLE.extremes("macs")
    budget = (low + high) / 2
    light = Feasible((Constraint(cost="macs", at_most=budget),), lambda genes: {"macs": macs(genes)})
    better = 0
    for seed in range(20):
        score, best = separable(SHUFFLE, seed), []
        for settings in (EvolutionSettings(), RandomSettings(budget=1000)):
            asked = drive(settings.build(Problem(SHUFFLE, SCORE, seed, light)), score)
            assert len(asked) == len(set(asked)) == 1000
            assert max(map(macs, asked)) <= budget
            assert max(SHUFFLE.cost(genes).macs for genes in asked[::100]) <= budget
            best.append(max(map(score, asked)))
        better += best[0] > best[1]
    assert better >= 19


def macs(genes: Genes) -> float:
    """As `SHUFFLE.cost` says, which takes longer."""
    added = (row[gene].macs for row, gene in zip(SHUFFLE.cost_table, genes, strict=True))
    return SHUFFLE.base_cost.macs + sum(added)


def test_generations() -> None:
    """Known parents: with nobody mutating and crossover alone, children mix the genes of the best."""
    score = separable(CHAIN, 1)
    settings = EvolutionSettings(population=20, generations=3, parents=4, mutants=0, crossovers=6)
    searcher = settings.build(problem(CHAIN))
    first = searcher.ask(100)
    assert len(first) == 20
    searcher.tell([evaluation(genes, score=score(genes)) for genes in first])
    best = sorted(first, key=score, reverse=True)[:4]
    second = searcher.ask(100)
    assert len(second) == 20
    mixed = [all(gene in {one[i] for one in best} for i, gene in enumerate(genes)) for genes in second]
    assert all(mixed[:6]) and not all(mixed[6:])
    # Better ones join the parents, who stay through all generations; equal ones stand behind.
    searcher.tell([evaluation(genes, score=score(best[3])) for genes in second])
    assert parents(searcher) == best
    third = searcher.ask(100)
    searcher.tell([evaluation(genes, score=100.0 + place) for place, genes in enumerate(third)])
    assert parents(searcher) == third[:-5:-1], "the last generation is ranked too"
    assert searcher.finished


def parents(searcher: EvolutionSearcher) -> list[Genes]:
    return [tuple(genes) for _, genes in searcher.state_dict()["parents"]]  # type: ignore[attr-defined]


def test_mutants_that_change_nothing_are_filled_up_at_random() -> None:
    """Ten tries for each: with probability 0 a mutant is its parent, which is visited."""
    settings = EvolutionSettings(population=8, generations=2, mutants=8, crossovers=0, probability=0)
    searcher = settings.build(problem(CHAIN))
    asked = drive(searcher, separable(CHAIN, 0))
    assert len(set(asked)) == 16


# Regularised evolution ----------------------------------------------------------------------------


def test_children_differ_in_one_gene_from_the_best_that_are_alive() -> None:
    """A sample of 500 out of 10 holds them all."""
    score = separable(SHUFFLE, 2)
    settings = RegularisedEvolutionSettings(budget=200, population=10, sample=500)
    searcher = settings.build(problem(SHUFFLE))
    drive(searcher, score, limit=10)
    for _ in range(150):
        (child,) = searcher.ask(1)
        alive = [tuple(genes) for genes in searcher.state_dict()["alive"]]  # type: ignore[attr-defined]
        assert len(alive) == 10
        assert distance(child, max(alive, key=score)) == 1
        searcher.tell([evaluation(child, score=score(child))])
        after = [tuple(genes) for genes in searcher.state_dict()["alive"]]  # type: ignore[attr-defined]
        assert after == [*alive[1:], child], "the oldest dies"


def test_children_that_were_scored_before_join_free() -> None:
    """They age the population between two asks, all of which are new."""
    searcher = RegularisedEvolutionSettings(budget=30, population=5, sample=3).build(problem(GRAPHS))
    score = sum
    asked = drive(searcher, score, limit=5)
    joined = []
    for _ in range(20):
        before = searcher.state_dict()["alive"]
        (child,) = searcher.ask(1)
        if (alive := searcher.state_dict()["alive"]) != before:
            joined.append(tuple(alive[-1]))  # type: ignore[index]
            assert joined[-1] in asked
        asked.append(child)
        searcher.tell([evaluation(child, score=score(child))])
    assert joined


def test_many_known_candidates_leave_the_best() -> None:
    score = separable(CHAIN, 2)
    searcher = RegularisedEvolutionSettings(budget=5, population=10).build(problem(CHAIN))
    known = [CHAIN.sample(counter_random(0, "known", i)) for i in range(100)]
    searcher.tell([evaluation(genes, score=score(genes)) for genes in known])
    alive = {tuple(genes) for genes in searcher.state_dict()["alive"]}  # type: ignore[attr-defined]
    assert alive == set(sorted(set(known), key=score, reverse=True)[:10])


@pytest.mark.parametrize("space", [CELLS, GRAPHS], ids=["cells", "graphs"])
def test_one_gene_is_changed(space: Any) -> None:
    """In graphs the setting may follow the generator: what became illegal is drawn again."""
    rng = counter_random(0, "changes")
    seen = set()
    for _ in range(3000):
        genes = space.sample(rng)
        child = changed_once(space, genes, rng)
        space.check(child)
        changed = tuple(i for i in range(len(genes)) if genes[i] != child[i])
        seen.add(changed)
        assert changed
    single = {(i,) for i in range(len(space.positions))}
    assert seen == (single if space is CELLS else single | {(0, 1)})


def test_b5_regularised_evolution_beats_random_search() -> None:
    """The mean best score of 20 seeds after 200 evaluations of cells, on a landscape that is drawn."""
    score = landscape(1)
    settings = (RegularisedEvolutionSettings(budget=200), RandomSettings(budget=200))
    means = []
    for one in settings:
        found = [max(map(score, drive(one.build(problem(CELLS, seed)), score))) for seed in range(20)]
        means.append(sum(found) / 20)
    assert means[0] > means[1] + 0.1


# Local search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("improvement", ["first", "best"])
@pytest.mark.parametrize("starts", [1, 10])
def test_local_search_climbs(improvement: Any, starts: int) -> None:
    """Followed by hand from the best of the starts to the optimum: a separable score has one only."""
    score = separable(CHAIN, 3)
    searcher = LocalSettings(budget=500, starts=starts, improvement=improvement).build(problem(CHAIN))
    asked = drive(searcher, score, limit=400)
    centre = max(asked[:starts], key=score)
    known = set(asked[:starts])
    climb = iter(asked[starts:])
    moves = 0
    while True:
        around = set(CHAIN.neighbours(centre))
        better = None
        while around - known and not (improvement == "first" and better):
            genes = next(climb)
            assert genes in around
            known.add(genes)
            better = genes if score(genes) > score(centre) else better
        best = max(around & known, key=score)
        if score(best) <= score(centre):
            break
        moves += 1
        centre = better if improvement == "first" and better else best
    assert moves >= 2
    assert centre == max(CHAIN.enumerate(), key=score)
    # A new start, and a climb that needs no query where all is known.
    later = list(climb)
    assert later[0] not in CHAIN.neighbours(centre)
    assert len(later) > 100


def test_a_late_score_of_a_neighbour_moves_the_search() -> None:
    """Three in flight: the second is better, so the next neighbour asked for is one of its own."""
    searcher = LocalSettings(budget=50, starts=1).build(problem(CHAIN))
    (start,) = searcher.ask(1)
    searcher.tell([evaluation(start, score=0.0)])
    first, second, third = searcher.ask(3)
    searcher.tell([evaluation(first, score=-1.0), evaluation(second, score=1.0)])
    (fourth,) = searcher.ask(1)
    assert distance(fourth, second) == 1
    searcher.tell([evaluation(third, score=2.0), evaluation(fourth, score=float("nan"))])
    assert all(distance(genes, third) == 1 for genes in searcher.ask(2)) == (distance(second, third) == 1)


def test_a_centre_is_no_optimum_before_all_its_neighbours_are_told() -> None:
    searcher = LocalSettings(budget=50, starts=1).build(problem(CHAIN))
    (start,) = searcher.ask(1)
    searcher.tell([evaluation(start, score=0.0)])
    around = searcher.ask(100)
    assert set(around) == set(CHAIN.neighbours(start))
    searcher.tell([evaluation(genes, score=-1.0) for genes in around[:-1]])
    assert searcher.ask(1) == [] and not searcher.finished
    searcher.tell([evaluation(around[-1], score=1.0)])
    assert distance(searcher.ask(1)[0], around[-1]) == 1


def test_each_climb_has_its_own_order() -> None:
    """Else a climb that passes a known candidate ends where the last one ended."""
    orders = []
    for climbs in (1, 2):
        searcher = LocalSettings(budget=50, starts=1).build(problem(CHAIN))
        (start,) = searcher.ask(1)
        searcher.tell([evaluation(start, score=0.0)])
        searcher.load_state_dict(
            {**searcher.state_dict(), "climbs": climbs, "starts": [], "centre": [*start]}
        )
        orders.append(searcher.ask(100))
    assert orders[0] != orders[1]
    assert set(orders[0]) == set(orders[1])


def test_a_neighbourhood_of_failures_is_an_optimum() -> None:
    searcher: Searcher = LocalSettings(budget=60, starts=1, improvement="best").build(problem(CHAIN))
    asked = drive(searcher, lambda genes: float("nan"))
    assert len(set(asked)) == 60
    assert all(distance(asked[0], genes) == 1 for genes in asked[1:17])
    assert distance(asked[0], asked[17]) > 1
