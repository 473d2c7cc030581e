"""Evolution for several objectives (NSGA-II, Deb et al. 2002)."""

import math
import random
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from networks.spaces.space import Genes, SearchSpace
from searchers.generations import GenerationalSearcher
from searchers.pareto import crowding, fronts
from searchers.problem import Problem


class NsgaSettings(BaseModel):
    """`population` candidates in each of `generations`. `probability`: that a child's gene is drawn again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nsga"] = "nsga"
    population: int = Field(50, ge=2)
    generations: int = Field(20, ge=1)
    probability: float = Field(0.1, ge=0, le=1)

    def most_asks(self, space: SearchSpace) -> int:
        return min(self.population * self.generations, space.size)

    def build(self, problem: Problem) -> "NsgaSearcher":
        return NsgaSearcher(problem, self)


class Member(NamedTuple):
    genes: Genes
    values: tuple[float, ...]


class NsgaSearcher(GenerationalSearcher):
    """Parents and children compete for `population` places: by front, within the last front by crowding.

    A child is a crossover of two winners of binary tournaments, then mutated; at most ten tries for each.
    A candidate that failed, or lacks one of the objectives, is never a parent.
    """

    def __init__(self, problem: Problem, settings: NsgaSettings) -> None:
        super().__init__(problem, settings.population, settings.generations)
        self.settings = settings
        self._members: list[Member] = []

    def _breed(self) -> dict[Genes, None]:
        # Best first, so that of two the earlier one wins a tournament.
        self._members = survivors(self._members, self.population)
        family: dict[Genes, None] = {}
        if self._members:
            rng = self._rng("breed")
            self._add_children(family, self.population, lambda: self._child(rng))
        return family

    def _child(self, rng: random.Random) -> Genes:
        count = len(self._members)
        first, second = (
            self._members[min(rng.randrange(count), rng.randrange(count))].genes for _ in range(2)
        )
        space = self.problem.space
        return space.mutate(space.crossover(first, second, rng), rng, self.settings.probability)

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        super()._learn(genes, values)
        if all(value > -math.inf for value in values):
            self._members.append(Member(genes, values))

    def _state(self) -> dict[str, object]:
        members = [[list(member.genes), list(member.values)] for member in self._members]
        return {**super()._state(), "members": members}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self._members = [Member(tuple(genes), tuple(values)) for genes, values in state["members"]]


def survivors(members: list[Member], count: int) -> list[Member]:
    """The best `count`, best first: by front, then by crowding, then as they stand."""
    kept: list[Member] = []
    for front in fronts([member.values for member in members]):
        if len(kept) >= count:
            break
        space_around = crowding([members[i].values for i in front])
        order = sorted(range(len(front)), key=lambda i: -space_around[i])
        kept += [members[front[i]] for i in order]
    return kept[:count]
