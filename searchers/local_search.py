"""Local search: move to a better neighbour until there is none, then start again (2004.08996)."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from networks.counters import counter_random
from networks.spaces.space import Genes, SearchSpace
from searchers.problem import Problem
from searchers.visiting import VisitingSearcher, genes_of, list_of, plain, score_of


class LocalSettings(BaseModel):
    """`budget`: how many candidates are asked for. `starts`: random ones before the first climb.
    `improvement`: move at the `first` better neighbour, or to the `best` of all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local"] = "local"
    budget: int = Field(ge=1)
    starts: int = Field(10, ge=1)
    improvement: Literal["first", "best"] = "first"

    def most_asks(self, space: SearchSpace) -> int:
        return min(self.budget, space.size)

    def build(self, problem: Problem) -> "LocalSearcher":
        return LocalSearcher(problem, self)


class LocalSearcher(VisitingSearcher):
    """Climbs from the best of `starts` random candidates, then again and again from one random candidate.

    Neighbours (one gene differs) come in random order. One that was scored before counts with its score
    and is not asked for again. Warm starts count as random starts of the first climb. It waits for the
    starts, and for a neighbourhood before it calls its centre an optimum. Failed and NaN are the worst
    score: nothing moves there.
    """

    def __init__(self, problem: Problem, settings: LocalSettings) -> None:
        super().__init__(problem, settings.budget)
        self.settings = settings
        self._scores: dict[Genes, float] = {}
        self._climbs = 0
        # The random candidates from which the next climb begins; empty during a climb.
        self._starts: list[Genes] = []
        self._centre: Genes | None = None
        self._around: list[Genes] = []
        self._position = 0

    def _next(self) -> Genes | None:
        while True:
            if self._centre is None:
                if len(self._starts) < (1 if self._climbs else self.settings.starts):
                    start = self._draw()
                    if start is not None:
                        self._starts.append(start)
                        return start
                    self._exhausted = not self._starts
                if self._exhausted or any(start not in self._scores for start in self._starts):
                    return None
                self._climbs += 1
                self._move(max(self._starts, key=self._scores.__getitem__))
            neighbour = self._unknown_neighbour()
            if neighbour is not None:
                return neighbour
            if self._open:
                return None
            self._leave()

    def _unknown_neighbour(self) -> Genes | None:
        """The next one to ask for. On the way to it, moves to known ones that are better."""
        while self._position < len(self._around):
            neighbour = self._around[self._position]
            self._position += 1
            if neighbour not in self._visited:
                if self.problem.feasible(neighbour):
                    return neighbour
            elif self.settings.improvement == "first" and self._is_better(neighbour):
                self._move(neighbour)
        return None

    def _leave(self) -> None:
        """From a centre whose neighbours are all known: to the best of them, or to a new start."""
        best = max(self._around, key=lambda genes: self._scores.get(genes, -math.inf), default=None)
        if best is not None and self._is_better(best):
            self._move(best)
        else:
            self._centre, self._around, self._position = None, [], 0

    def _move(self, centre: Genes) -> None:
        self._centre, self._position, self._starts = centre, 0, []
        self._around = self._neighbourhood(centre)

    def _neighbourhood(self, centre: Genes) -> list[Genes]:
        """In an order of this climb's own, so that a later climb by the same candidate may end elsewhere."""
        around = list(self.problem.space.neighbours(centre))
        counter_random(self.problem.seed, "search", "neighbours", self._climbs, *centre).shuffle(around)
        return around

    def _is_better(self, genes: Genes) -> bool:
        here = -math.inf if self._centre is None else self._scores[self._centre]
        return self._scores.get(genes, -math.inf) > here

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        self._scores[genes] = values[0]
        if not self._climbs and genes not in self._starts:
            self._starts.append(genes)
        elif self.settings.improvement == "first" and genes in self._around and self._is_better(genes):
            self._move(genes)

    def _state(self) -> dict[str, object]:
        return {
            "scores": [[list(genes), plain(score)] for genes, score in self._scores.items()],
            "climbs": self._climbs,
            "starts": list_of(self._starts),
            "centre": None if self._centre is None else list(self._centre),
            "position": self._position,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._scores = {tuple(genes): score_of(score) for genes, score in state["scores"]}
        self._climbs, self._starts = state["climbs"], genes_of(state["starts"])
        self._centre = None if state["centre"] is None else tuple(state["centre"])
        self._around = [] if self._centre is None else self._neighbourhood(self._centre)
        self._position = state["position"]
