"""A fixed list of candidates, in order: for rankings, and to score what somebody chose."""

from collections.abc import Sequence

from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.searcher import Evaluation


class ListedSearcher:
    """Asks for the given genes and learns nothing. Scores, NaN among them, change nothing."""

    def __init__(self, genes: Sequence[Genes]) -> None:
        self._genes = list(genes)
        self._asked = 0

    def ask(self, n: int) -> list[Genes]:
        genes = self._genes[self._asked : self._asked + n]
        self._asked += len(genes)
        return genes

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        pass

    @property
    def finished(self) -> bool:
        return self._asked == len(self._genes)

    def state_dict(self) -> dict[str, object]:
        return {"asked": self._asked}

    def load_state_dict(self, state: dict[str, object]) -> None:
        asked = state.get("asked")
        if not isinstance(asked, int) or not 0 <= asked <= len(self._genes):
            raise UserError("asked", asked, f"0 to {len(self._genes)}", "The state is of another list.")
        self._asked = asked
