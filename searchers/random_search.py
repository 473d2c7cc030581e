"""Random search: what every other searcher has to beat."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from networks.spaces.space import Genes, SearchSpace
from searchers.problem import Problem
from searchers.visiting import VisitingSearcher


class RandomSettings(BaseModel):
    """`budget`: how many candidates are asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random"] = "random"
    budget: int = Field(ge=1)

    def most_asks(self, space: SearchSpace) -> int:
        return min(self.budget, space.size)

    def build(self, problem: Problem) -> "RandomSearcher":
        return RandomSearcher(problem, self)


class RandomSearcher(VisitingSearcher):
    """Draws of the space, each candidate once. Scores, NaN among them, change nothing; it never waits."""

    def __init__(self, problem: Problem, settings: RandomSettings) -> None:
        super().__init__(problem, settings.budget)

    def _next(self) -> Genes | None:
        genes = self._draw()
        self._exhausted = genes is None
        return genes

    def _learn(self, genes: Genes, values: tuple[float, ...]) -> None:
        pass

    def _state(self) -> dict[str, object]:
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        pass
