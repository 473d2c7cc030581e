"""What evolutions by generations share: a whole generation is bred, asked for and told before the next."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from networks.spaces.space import Genes
from searchers.problem import Problem
from searchers.visiting import VisitingSearcher, genes_of, list_of

# Tries for each wanted child of an operator (SPOS).
TRIES_PER_CHILD = 10


class GenerationalSearcher(VisitingSearcher):
    """The first generation is random, the others are bred; all of them, the last one too, are ranked.

    `generations` counts the random one. Within a generation nothing waits; between two all does. Known
    candidates that are told before the first ask take places in the first generation.
    """

    def __init__(self, problem: Problem, population: int, generations: int) -> None:
        super().__init__(problem, population * generations)
        self.population, self.generations = population, generations
        self._generation = 0
        # Of this generation, not asked for yet.
        self._queue: list[Genes] = []
        self._known = 0

    @abstractmethod
    def _breed(self) -> dict[Genes, None]:
        """At most `population` new candidates, no two alike; random ones fill the rest."""

    @property
    def finished(self) -> bool:
        return super().finished or (self._generation >= self.generations and not self._queue)

    def _next(self) -> Genes | None:
        while True:
            while self._queue:
                genes = self._queue.pop(0)
                # A warm start may have told it in the meantime.
                if genes not in self._visited:
                    return genes
            if self._open or self.finished:
                return None
            self._begin_generation()

    def _begin_generation(self) -> None:
        wanted = self.population if self._generation else max(0, self.population - self._known)
        family = self._breed() if self._generation else {}
        while len(family) < wanted:
            genes = self._draw(family)
            if genes is None:
                self._exhausted = not family
                break
            family[genes] = None
        self._generation += 1
        self._queue = list(family)

    def _add_children(self, family: dict[Genes, None], wanted: int, child: Callable[[], Genes]) -> None:
        """Up to `wanted` new children for the family; ten tries for each of them all told."""
        full = min(len(family) + wanted, self.population)
        for _ in range(TRIES_PER_CHILD * wanted):
            if len(family) >= full:
                return
            genes = child()
            if genes not in family and self._is_new(genes):
                family[genes] = None

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        if self._generation == 0:
            self._known += 1

    def _state(self) -> dict[str, object]:
        return {"generation": self._generation, "queue": list_of(self._queue), "known": self._known}

    def _load(self, state: dict[str, Any]) -> None:
        self._generation, self._known = state["generation"], state["known"]
        self._queue = genes_of(state["queue"])
