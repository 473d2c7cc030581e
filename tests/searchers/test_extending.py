"""A searcher that was given more budget has asked for what it would have asked for with it from the start."""

from collections import deque
from typing import get_args

import pytest

from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.evolution import EvolutionSettings
from searchers.extending import BY_ASKS, BY_GENERATIONS, with_budget
from searchers.grid import GridSettings
from searchers.local_search import LocalSettings
from searchers.model_based import ModelBasedSettings
from searchers.nat import NatSettings
from searchers.nsga import NsgaSettings
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings
from searchers.settings import SearcherSettings
from tests.searchers.toys import CELLS, evaluation, problem, separable

SETTINGS: list[SearcherSettings] = [
    RandomSettings(budget=14),
    LocalSettings(budget=14, starts=3),
    LocalSettings(budget=14, starts=3, improvement="best"),
    RegularisedEvolutionSettings(budget=14, population=6, sample=3),
    ModelBasedSettings(budget=14, starts=4),
    EvolutionSettings(population=7, generations=2, parents=3, mutants=3, crossovers=3),
    NsgaSettings(population=7, generations=2),
]
GRID = GridSettings()
NAT = NatSettings(transform=((0,) * 6,))  # the weight of entropy follows the number of steps


def asks(settings: SearcherSettings, size: int, depth: int, known: int = 0) -> list[Genes]:
    """Asked for in rounds of `size`, `depth` of them in flight; the first `known` candidates told before."""
    score = separable(CELLS, 3)
    searcher = settings.build(problem(CELLS))
    warm = [genes for genes, _ in zip(CELLS.enumerate(), range(known), strict=False)]
    searcher.tell([evaluation(genes, score=score(genes)) for genes in warm])
    asked: list[Genes] = []
    flying: deque[list[Genes]] = deque()
    while True:
        while len(flying) < depth and (some := searcher.ask(size)):
            flying.append(some)
            asked += some
        if not flying:
            return asked
        searcher.tell([evaluation(genes, score=score(genes)) for genes in flying.popleft()])


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize(("size", "depth"), [(1, 1), (1, 4), (4, 1), (5, 3), (20, 1)])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_the_first_asks_do_not_depend_on_the_budget(
    settings: SearcherSettings, size: int, depth: int, known: int
) -> None:
    less, more = asks(settings, size, depth, known), asks(with_budget(settings, 35), size, depth, known)
    assert more[: len(less)] == less
    assert len(more) == len(less) + 21


def test_every_searcher_is_looked_at() -> None:
    union, _ = get_args(SearcherSettings)
    assert {type(one) for one in (*SETTINGS, GRID, NAT)} == set(get_args(union))
    assert {type(one) for one in SETTINGS} == {*BY_ASKS, *BY_GENERATIONS}


def test_a_budget_is_what_is_asked_for_in_all() -> None:
    for settings in SETTINGS:
        assert settings.most_asks(CELLS) == 14
        assert with_budget(settings, 28).most_asks(CELLS) == 28
        assert with_budget(settings, 28).model_dump(exclude={"budget", "generations"}) == settings.model_dump(
            exclude={"budget", "generations"}
        )


@pytest.mark.parametrize(
    ("settings", "budget", "words"),
    [
        (SETTINGS[0], 14, "--budget: 14 cannot be used; allowed: more than the 14 that it had"),
        (SETTINGS[0], 3, "more than the 14"),
        (
            SETTINGS[5],
            20,
            "--budget: 20 cannot be used; allowed: a multiple of the population (7), from 21 on",
        ),
        (SETTINGS[5], 14, "from 21 on"),
        (SETTINGS[6], 7, "whole generations"),
        (GRID, 30, "searcher: 'grid' cannot be used; allowed: one that can be extended: random, local, "),
        (NAT, 30, "searcher: 'nat' cannot be used"),
    ],
)
def test_what_is_refused(settings: SearcherSettings, budget: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        with_budget(settings, budget, "--budget")
    assert words in str(caught.value)
