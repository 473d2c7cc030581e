"""Grid search: every candidate of a space, once, in the space's own order."""

from collections.abc import Sequence

from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace
from searchers.searcher import Evaluation


class GridSearcher:
    """Asks for the whole space and learns nothing. Scores, NaN among them, change nothing."""

    def __init__(self, space: SearchSpace) -> None:
        self._all = list(space.enumerate())
        self._asked = 0

    def __len__(self) -> int:
        return len(self._all)

    def ask(self, n: int) -> list[Genes]:
        genes = self._all[self._asked : self._asked + n]
        self._asked += len(genes)
        return genes

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        pass

    @property
    def finished(self) -> bool:
        return self._asked == len(self._all)

    def state_dict(self) -> dict[str, object]:
        return {"asked": self._asked}

    def load_state_dict(self, state: dict[str, object]) -> None:
        asked = state.get("asked")
        if not isinstance(asked, int) or not 0 <= asked <= len(self._all):
            raise UserError("asked", asked, f"0 to {len(self._all)}", "The state is of another space.")
        self._asked = asked
