"""What a search is about: the space, what is wanted of a candidate, and what it may cost."""

import math
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from networks.spaces.space import SearchSpace
from searchers.constraints import ANYTHING, Feasible
from searchers.searcher import Evaluation


class Objective(BaseModel):
    """A metric to be made as large as possible, or as small as possible with `maximise: false`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(min_length=1)
    maximise: bool = True

    def value(self, evaluation: Evaluation) -> float:
        """Higher is better. -inf for a failed candidate and for a metric that is missing or not finite."""
        number = evaluation.metrics.get(self.metric)
        if evaluation.status == "failed" or number is None or not math.isfinite(number):
            return -math.inf
        return number if self.maximise else -number


class Problem(NamedTuple):
    """`objectives`: at least one; a searcher that knows only one goes by the first. `seed`: of all draws."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    seed: int
    feasible: Feasible = ANYTHING
