"""Grid search: every candidate of a space, once, in the space's own order."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace
from searchers.constraints import ANYTHING, Feasible
from searchers.problem import Problem
from searchers.searcher import Evaluation

# A list of more is no longer a matter of a moment, and nobody trains so many.
LARGEST = 1_000_000


def check_listable(space: SearchSpace) -> None:
    """Raise `UserError` for a space of more than a million candidates."""
    if space.size > LARGEST:
        allowed = f"spaces of at most {LARGEST:,} candidates"
        raise UserError("searcher", "grid", allowed, f"This one has {space.size:,}.")


class GridSettings(BaseModel):
    """No settings: the whole space, as far as the constraints allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["grid"] = "grid"

    def most_asks(self, space: SearchSpace) -> int:
        """Raises `UserError` for a space that is too large."""
        check_listable(space)
        return space.size

    def build(self, problem: Problem) -> "GridSearcher":
        return GridSearcher(problem.space, problem.feasible)


class GridSearcher:
    """Asks for the whole space and learns nothing. Scores, NaN among them, change nothing.

    Candidates that were told without being asked for are left out. Raises `UserError` for a space of more
    than a million candidates.
    """

    def __init__(self, space: SearchSpace, feasible: Feasible = ANYTHING) -> None:
        check_listable(space)
        self._all = [genes for genes in space.enumerate() if feasible(genes)]
        self._place = {genes: place for place, genes in enumerate(self._all)}
        self._asked = 0
        # Places further on that were told already.
        self._known: set[int] = set()

    def __len__(self) -> int:
        return len(self._all)

    def ask(self, n: int) -> list[Genes]:
        genes: list[Genes] = []
        while len(genes) < n and not self.finished:
            genes.append(self._all[self._asked])
            self._asked += 1
            self._pass_known()
        return genes

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        places = (self._place.get(one.candidate.genes, -1) for one in evaluations)
        self._known.update(place for place in places if place >= self._asked)
        self._pass_known()

    def _pass_known(self) -> None:
        while self._asked in self._known:
            self._known.remove(self._asked)
            self._asked += 1

    @property
    def finished(self) -> bool:
        return self._asked == len(self._all)

    def state_dict(self) -> dict[str, object]:
        return {"asked": self._asked, "known": sorted(self._known)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        asked, known = state.get("asked"), state.get("known", [])
        if not isinstance(asked, int) or not 0 <= asked <= len(self._all):
            raise UserError("asked", asked, f"0 to {len(self._all)}", "The state is of another space.")
        self._asked, self._known = asked, set(known)
