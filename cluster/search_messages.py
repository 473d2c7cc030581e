"""What the process of a search over choices is told, and what it says."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from cluster.pool import ALONE, Crew
from cluster.recipe_base import PathField
from cluster.search_recipe import SearchRecipe
from cluster.vitals import Vitals
from networks.spaces.narrowed import Operator

Stage = Literal["training", "shrinking", "search", "random", "ranking", "done"]


class SearchConfig(BaseModel):
    """What a process needs to run a search. `folder` is the run's, absolute; `ranking` the folder in it
    that the ranking's ledger lies in. `replicas` is decided where the search is driven; None where it has
    no actors. Of a search that shrinks: `supernet` is which of those that vote this one trains, the first of
    them searches, and `dropped` are the operators that each rung dropped, as far as it is decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: SearchRecipe
    folder: PathField
    ranking: str = "ranking"
    replicas: int | None = None
    supernet: int = 0
    dropped: tuple[tuple[Operator, ...], ...] = ()


class SearchReport(BaseModel):
    """What a trial says after a step. `asked`: candidates committed in the stage, of at most `planned`.
    `metrics`: of training. `began`: Unix seconds of the process's first step. `best`: value of the first
    objective so far. `supernet`: which of those that vote; `rung`: so many lie behind it; `left`: candidates
    of the space that it trains in."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = {}
    asked: int = 0
    planned: int = 0
    began: float = 0.0
    best: float | None = None
    crew: Crew = ALONE
    supernet: int = 0
    rung: int = 0
    left: int = 0

    def vitals(self) -> Vitals:
        """For those who watch from outside."""
        said = self.model_dump(include={"stage", "asked", "planned", "step", "steps", "best"})
        return Vitals(**said, **self.crew._asdict())

    @property
    def done(self) -> bool:
        return self.stage == "done"
