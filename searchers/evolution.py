"""SPOS's evolution: mutants and crossovers of the best so far (1904.00420, spec one-shot section 1)."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace
from searchers.generations import GenerationalSearcher
from searchers.problem import Problem


class EvolutionSettings(BaseModel):
    """`population` candidates in each of `generations`; `mutants` and `crossovers` of the best `parents`
    so far, random ones for the rest. `probability`: that a mutant's gene is drawn again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["evolution"] = "evolution"
    population: int = Field(50, ge=1)
    generations: int = Field(20, ge=1)
    parents: int = Field(10, ge=1)
    mutants: int = Field(25, ge=0)
    crossovers: int = Field(25, ge=0)
    probability: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> "EvolutionSettings":
        room = self.population - self.crossovers
        if self.mutants > room:
            allowed = f"at most {max(room, 0)}: population less crossovers"
            raise UserError("mutants", self.mutants, allowed)
        return self

    def most_asks(self, space: SearchSpace) -> int:
        return min(self.population * self.generations, space.size)

    def build(self, problem: Problem) -> "EvolutionSearcher":
        return EvolutionSearcher(problem, self)


class EvolutionSearcher(GenerationalSearcher):
    """The list of parents runs through all generations; ties go to the candidate that was told first.

    A mutant's gene may be drawn as it was; crossover takes two parents, possibly the same, and each gene
    from either. At most ten tries for each wanted mutant and crossover; constraints and the visited set
    are looked at before scoring. The released loop scores a last generation that it never ranks (1,050
    scored, 1,000 ranked); here there is none: `population` x `generations` are scored and ranked. Failed
    and NaN candidates are never parents.
    """

    def __init__(self, problem: Problem, settings: EvolutionSettings) -> None:
        super().__init__(problem, settings.population, settings.generations)
        self.settings = settings
        # Best first.
        self._parents: list[tuple[float, Genes]] = []

    def _breed(self) -> dict[Genes, None]:
        family: dict[Genes, None] = {}
        if not self._parents:
            return family
        space, settings = self.problem.space, self.settings
        parents = [genes for _, genes in self._parents]
        rng = self._rng("breed")
        self._add_children(
            family,
            settings.mutants,
            lambda: space.mutate(rng.choice(parents), rng, settings.probability),
        )
        self._add_children(
            family,
            settings.crossovers,
            lambda: space.crossover(rng.choice(parents), rng.choice(parents), rng),
        )
        return family

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        super()._learn(genes, values)
        if values[0] > -math.inf:
            ranked = sorted([*self._parents, (values[0], genes)], key=lambda pair: -pair[0])
            self._parents = ranked[: self.settings.parents]

    def _state(self) -> dict[str, object]:
        return {**super()._state(), "parents": [[value, list(genes)] for value, genes in self._parents]}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self._parents = [(value, tuple(genes)) for value, genes in state["parents"]]
