"""Regularised evolution: a queue of candidates in which the oldest dies (1802.01548, algorithm 1)."""

import random
from collections import deque
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from networks.spaces.space import Genes, SearchSpace, drawn
from searchers.problem import Problem
from searchers.visiting import VisitingSearcher, plain, score_of

# Children in a row that were scored before; then a random candidate joins instead.
KNOWN_CHILDREN = 1_000


class RegularisedEvolutionSettings(BaseModel):
    """`budget`: how many candidates are asked for. `population`: how many are alive. `sample`: how many
    of them, drawn with replacement, compete to be the parent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["regularised_evolution"] = "regularised_evolution"
    budget: int = Field(ge=1)
    population: int = Field(50, ge=1)
    sample: int = Field(10, ge=1)

    def most_asks(self, space: SearchSpace) -> int:
        return min(self.budget, space.size)

    def build(self, problem: Problem) -> "RegularisedEvolution":
        return RegularisedEvolution(problem, self)


class RegularisedEvolution(VisitingSearcher):
    """Random candidates until the population is full, then children of the best of a sample.

    A child has one gene changed. One that was scored before joins the population with that score, and
    the next is bred; one that is in flight or breaks a constraint is dropped. Of a warm start before the
    first ask the best join, later ones as others do. It waits only for the first population. Failed and
    NaN are the worst score; they live and die as others do.
    """

    def __init__(self, problem: Problem, settings: RegularisedEvolutionSettings) -> None:
        super().__init__(problem, settings.budget)
        self.settings = settings
        self._scores: dict[Genes, float] = {}
        self._alive: deque[Genes] = deque(maxlen=settings.population)

    def _next(self) -> Genes | None:
        full = len(self._alive) == self.settings.population
        if not full and len(self._alive) + len(self._open) >= self.settings.population:
            return None
        genes = self._child() if full else self._draw()
        self._exhausted = genes is None
        return genes

    def _child(self) -> Genes | None:
        rng = self._rng("child")
        for _ in range(KNOWN_CHILDREN):
            rivals = rng.choices(self._alive, k=self.settings.sample)
            child = changed_once(self.problem.space, max(rivals, key=self._scores.__getitem__), rng)
            if child in self._scores:
                self._alive.append(child)
            elif self._is_new(child):
                return child
        return self._draw()

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        self._scores[genes] = values[0]
        if self.asked == 0 and len(self._alive) == self.settings.population:
            worst = min(self._alive, key=self._scores.__getitem__)
            if values[0] <= self._scores[worst]:
                return
            self._alive.remove(worst)
        self._alive.append(genes)

    def _state(self) -> dict[str, object]:
        return {
            "scores": [[list(genes), plain(score)] for genes, score in self._scores.items()],
            "alive": [list(genes) for genes in self._alive],
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._scores = {tuple(genes): score_of(score) for genes, score in state["scores"]}
        self._alive = deque(map(tuple, state["alive"]), maxlen=self.settings.population)


def changed_once(space: SearchSpace, genes: Genes, rng: random.Random) -> Genes:
    """The genes with one of them, drawn uniformly, set to another of its values, drawn uniformly.

    Genes that this makes illegal are drawn anew. Where no gene has a second value, the genes themselves.
    """
    others = [[value for value in space.values(genes[:i]) if value != gene] for i, gene in enumerate(genes)]
    free = [i for i, some in enumerate(others) if some]
    if not free:
        return genes
    i = free[rng.randrange(len(free))]
    child = (*genes[:i], drawn(others[i], rng), *genes[i + 1 :])
    return child if space.legal(child) else space.mutate(child, rng, 0.0)
