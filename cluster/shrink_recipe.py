"""What a recipe says of shrinking: a search that loses its worst operators while its supernet trains."""

from pydantic import Field, field_validator

from searchers.shrinking import ShrinkRule
from trainers.scores.registry import find_score


class Shrinking(ShrinkRule):
    """After `supernet.steps`, and then every `steps`, the space loses operators (`ShrinkRule`); when it is
    small enough the supernet trains for `then` steps more, and the search begins in what is left.

    `score`: what ranks operators, through the candidates that hold them. `supernets`: so many are trained,
    each with weights and paths of its own; they vote, and the first one searches. `rebase_after`: once more
    than so many operators are dropped, angles are measured from the weights of that moment. `patience_s`: how
    long the supernets that have voted wait for one that has not."""

    score: str = "angle"
    steps: int = Field(500, ge=0)
    then: int = Field(0, ge=0)
    supernets: int = Field(1, ge=1)
    rebase_after: int | None = Field(None, ge=1)
    patience_s: float = Field(3600.0, gt=0)

    @field_validator("score")
    @classmethod
    def _known(cls, name: str) -> str:
        find_score(name, "")
        return name
