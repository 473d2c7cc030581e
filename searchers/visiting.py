"""What searchers share that never ask for the same genes twice."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.constraints import SMALL, TRIES, none_drawn, refusal
from searchers.problem import Problem
from searchers.searcher import Evaluation

# Draws of a small space before those that are left are listed.
FEW_TRIES = 200


class VisitingSearcher(ABC):
    """A searcher with a visited set, an optional budget of asks, and any number of asks in flight.

    Visited is what was asked for, and what was told without being asked for (a warm start). A warm start
    that breaks a constraint is visited and otherwise ignored; a candidate that is told again changes
    nothing. It finishes when the budget is spent or nothing is left that is feasible and not visited.
    Random numbers are functions of (seed, "search", purpose, how many are visited), so no generator is
    part of the state.
    """

    def __init__(self, problem: Problem, budget: int | None) -> None:
        self.problem, self.budget = problem, budget
        self.asked = 0
        self._visited: set[Genes] = set()
        # Asked for and not told yet, in ask order.
        self._open: dict[Genes, None] = {}
        self._exhausted = False
        # What is left of a small space, once it was listed; a superset of what is left now.
        self._rest: list[Genes] | None = None

    @abstractmethod
    def _next(self) -> Genes | None:
        """A feasible candidate that is not visited; None when the method waits or nothing is left."""

    @abstractmethod
    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        """One more known candidate, asked for or not; a value for each objective, higher is better."""

    @abstractmethod
    def _state(self) -> dict[str, object]:
        """What the method itself knows, JSON-ready."""

    @abstractmethod
    def _load(self, state: dict[str, Any]) -> None:
        """Take up what `_state` gave."""

    @property
    def finished(self) -> bool:
        return self._exhausted or (self.budget is not None and self.asked >= self.budget)

    def ask(self, n: int) -> list[Genes]:
        asked: list[Genes] = []
        while len(asked) < n and not self.finished:
            genes = self._next()
            if genes is None:
                break
            self._visited.add(genes)
            self._open[genes] = None
            self.asked += 1
            asked.append(genes)
        return asked

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for one in evaluations:
            genes = one.candidate.genes
            if genes in self._open:
                del self._open[genes]
            elif genes in self._visited:
                continue
            else:
                self.problem.space.check(genes)
                self._visited.add(genes)
                if not self.problem.feasible(genes):
                    continue
            self._learn(genes, tuple(objective.value(one) for objective in self.problem.objectives))

    def state_dict(self) -> dict[str, object]:
        return {
            "asked": self.asked,
            "exhausted": self._exhausted,
            "open": list_of(self._open),
            "visited": list_of(sorted(self._visited)),
            **self._state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        visited = genes_of(state["visited"])
        for genes in visited:
            try:
                self.problem.space.check(genes)
            except UserError as error:
                raise UserError(
                    "visited", genes, "genes of this space", "The state is of another space."
                ) from error
        self.asked, self._exhausted = state["asked"], state["exhausted"]
        self._open, self._visited, self._rest = dict.fromkeys(genes_of(state["open"])), set(visited), None
        self._load(state)

    def _is_new(self, genes: Genes) -> bool:
        return genes not in self._visited and self.problem.feasible(genes)

    @cached_property
    def _small(self) -> bool:
        return self.problem.space.size <= SMALL

    def _draw(self, taken: Collection[Genes] = ()) -> Genes | None:
        """A random candidate that is new and none of `taken`, or None when there is none left.

        Draws of the space are rejected until one fits (`Feasible.draws`). In a small space all that is left
        is listed after 200 of them, so that None is exact there; else None comes after 10,000. Raises
        `UserError` when not even a first candidate is found.
        """
        space, rng = self.problem.space, self._rng("draw", len(taken))
        for genes in self.problem.feasible.draws(space, rng, FEW_TRIES if self._small else TRIES):
            if genes not in taken and genes not in self._visited:
                return genes
        if self._small:
            left = space.enumerate() if self._rest is None else self._rest
            self._rest = [genes for genes in left if self._is_new(genes)]
            free = [genes for genes in self._rest if genes not in taken]
            if free:
                return free[rng.randrange(len(free))]
        if not self._visited and not taken:
            found = "No candidate meets them." if self._small else none_drawn(space)
            raise refusal(self.problem.feasible.constraints, found)
        return None

    def _rng(self, *purpose: int | str) -> random.Random:
        return counter_random(self.problem.seed, "search", *purpose, len(self._visited))


def list_of(many: Iterable[Genes]) -> list[list[int]]:
    return [list(genes) for genes in many]


def genes_of(many: Iterable[Sequence[int]]) -> list[Genes]:
    return [tuple(genes) for genes in many]


def plain(value: float) -> float | None:
    """A score for JSON, which knows no infinity: None stands for -inf."""
    return None if value == -math.inf else value


def score_of(value: float | None) -> float:
    return -math.inf if value is None else value
