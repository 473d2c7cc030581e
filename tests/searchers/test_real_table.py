"""The classical searchers on NAS-Bench-201's accuracies: the mean queries that others needed
(search_quality.md, table a), and B5. A query is the first evaluation of a cell."""

import csv
import math
import statistics
from typing import Any

import pytest

from networks.spaces.choices import ChoiceSpace
from networks.spaces.narrowed import narrowed
from networks.spaces.nasbench201 import cell_genes
from networks.spaces.space import Genes
from searchers.evolution import EvolutionSettings
from searchers.local_search import LocalSettings
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings
from searchers.shrinking import ShrinkRule, children_of, decide, operator_scores
from tests.searchers.toys import CELLS, drive, problem
from tests.trainers.test_data_files import real

SEEDS = 100


@pytest.fixture(scope="module")
def table() -> dict[str, dict[Genes, float]]:
    with real("nasbench201.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    genes = [cell_genes(row["arch"]) for row in rows]
    columns = {name: f"{name}_test_200" for name in ("c10", "c100", "in16")}
    return {
        name: dict(zip(genes, (float(row[column]) for row in rows), strict=True))
        for name, column in columns.items()
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (LocalSettings(budget=15625, starts=1, improvement="best"), {"c10": 128, "c100": 126}),
        (LocalSettings(budget=15625, starts=1), {"c10": 64, "c100": 67}),
        (LocalSettings(budget=15625), {"c10": 62, "c100": 66, "in16": 334}),
        (RegularisedEvolutionSettings(budget=15625), {"c10": 143, "c100": 152}),
        (EvolutionSettings(generations=300), {"c10": 171, "c100": 187}),
    ],
    ids=["local best", "local first", "local first 10", "regularised", "spos"],
)
def test_mean_queries_to_the_optimum(
    table: dict[str, dict[Genes, float]], settings: Any, expected: dict[str, float]
) -> None:
    """Within four standard errors of ours, and of the figure's own (at most 4 %)."""
    for column, anchor in expected.items():
        scores = table[column]
        best = max(scores.values())
        queries = [
            len(drive(settings.build(problem(CELLS, seed)), scores.__getitem__, until=best))
            for seed in range(SEEDS)
        ]
        error = math.hypot(statistics.stdev(queries) / math.sqrt(SEEDS), 0.04 * anchor)
        assert abs(statistics.mean(queries) - anchor) < 4 * error, column


def test_b5_regularised_evolution_beats_random_search(table: dict[str, dict[Genes, float]]) -> None:
    """The mean best test accuracy of 20 seeds after 200 queries, on each of the three sets."""
    for scores in table.values():
        settings = (RegularisedEvolutionSettings(budget=200), RandomSettings(budget=200))
        means = []
        for one in settings:
            asked = [drive(one.build(problem(CELLS, seed)), scores.__getitem__) for seed in range(20)]
            means.append(statistics.mean(max(map(scores.__getitem__, cells)) for cells in asked))
        assert means[0] > means[1] + 0.05


@pytest.mark.parametrize(("drop", "lost"), [(1, 0.0), (20, 2.09)])
def test_what_shrinking_by_the_truth_loses(
    table: dict[str, dict[Genes, float]], drop: int, lost: float
) -> None:
    """From 15,625 cells to at most 100, operators scored anew after every rung: no accuracy of the best is
    lost, and two points where twenty go at once."""
    scores = table["c100"]
    rule = ShrinkRule(drop=drop, until=100)
    space: ChoiceSpace = CELLS
    while not rule.over(space):
        children = children_of(space, rule, 0)
        votes = [operator_scores(space, children, [scores[genes] for genes in children])]
        space = narrowed(space, decide(votes, space, rule))
    left = max(scores[genes] for genes in space.enumerate())
    assert space.size <= 100 and max(scores.values()) - left == pytest.approx(lost, abs=0.01)
