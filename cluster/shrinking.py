"""The rungs of a search that shrinks: what is decided at each, and what a supernet does between them.

A supernet trains up to a rung and votes: it scores the operators that are left. When all have voted, the
space loses the lowest (searchers/shrinking.py), and that is written down before anybody goes on. Everything
here follows from the recipe and from what is written, so that a search is resumed anywhere.
"""

import math
import time
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from cluster.files import AnyPath
from cluster.ledger import Segments, read_checked
from cluster.search_recipe import SearchRecipe
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace, Kept
from networks.spaces.narrowed import NarrowedSpace, Operator, narrowed
from searchers.constraints import Feasible, check_satisfiable
from searchers.shrinking import decide

Vote = Mapping[Operator, float]
RUNGS = "shrinking"  # in a run's folder
PICTURE = "shrinking.png"  # of the space after each rung


class OperatorScore(BaseModel):
    """Of one option of one gene: what it is called, what each supernet gave it (None: no candidate that holds
    it has a score), and whether it was dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: Operator
    name: str
    scores: tuple[float | None, ...]
    dropped: bool


class Rung(BaseModel):
    """A decision. `step`: of training. `operators`: those that could have been dropped. `size`: candidates
    that are left after it; `kept`: the options of each gene; `time`: Unix milliseconds, which decide
    nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    operators: tuple[OperatorScore, ...]
    size: int
    kept: Kept
    time: int = 0

    @property
    def dropped(self) -> tuple[Operator, ...]:
        return tuple(one.operator for one in self.operators if one.dropped)


class Rungs(Segments):
    """The decisions of a search, each a file of its own."""

    def read(self) -> list[Rung]:
        """Raises `UserError` for one that was altered."""
        return [Rung.model_validate(rung) for path in self.segments() for rung in read_checked(path)]


class Course(NamedTuple):
    """What a supernet goes through, as far as it is decided. `dropped`: the operators that each rung dropped;
    a rung that dropped none ended the shrinking."""

    recipe: SearchRecipe
    space: ChoiceSpace
    dropped: tuple[tuple[Operator, ...], ...] = ()

    def left(self, rungs: int) -> ChoiceSpace:
        """The space after so many rungs."""
        return narrowed(self.space, (one for some in self.dropped[:rungs] for one in some))

    def kept(self, rungs: int) -> Kept | None:
        """The options that are left of it; None for all."""
        space = self.left(rungs)
        return space.kept if isinstance(space, NarrowedSpace) else None

    @property
    def over(self) -> bool:
        """Whether no rung is to come."""
        shrinking = self.recipe.shrinking
        if shrinking is None or (self.dropped and not self.dropped[-1]):
            return True
        return shrinking.over(self.left(len(self.dropped)))

    def until(self, rungs: int) -> int:
        """The step up to which a supernet trains that has so many rungs behind it."""
        supernet, shrinking = self.recipe.supernet, self.recipe.shrinking
        first = 0 if supernet is None else supernet.steps
        if shrinking is None or not rungs:
            return first
        last = first + (rungs - 1) * shrinking.steps
        return last + (shrinking.then if self.over and rungs == len(self.dropped) else shrinking.steps)

    def rebases(self, rung: int) -> bool:
        """Whether angles are measured from the weights that this rung finds (the first is 0)."""
        after = None if self.recipe.shrinking is None else self.recipe.shrinking.rebase_after
        totals = list(accumulate(map(len, self.dropped[: rung + 1]), initial=0))
        return after is not None and totals[-2] <= after < totals[-1]


class ShrinkBarrier:
    """Where the supernets of a search meet: it hears of their votes, and decides when all have voted.
    `folder` is the run's. Raises `UserError` for decisions that were altered."""

    def __init__(self, recipe: SearchRecipe, space: ChoiceSpace, feasible: Feasible, folder: AnyPath) -> None:
        assert recipe.shrinking is not None
        self._rule, self._feasible = recipe.shrinking, feasible
        self._rungs = Rungs(folder / RUNGS)
        self.course = Course(recipe, space, tuple(rung.dropped for rung in self._rungs.read()))
        self._votes: dict[int, Vote] = {}

    @property
    def waiting(self) -> frozenset[int]:
        """Supernets that have voted at a rung that is not decided."""
        return frozenset(self._votes)

    def arrive(self, supernet: int, rung: int, vote: Vote) -> bool:
        """A supernet has voted at the rung of this number. Whether that one is decided now; a vote at one
        that was decided before changes nothing."""
        if rung < len(self.course.dropped):
            return True
        self._votes[supernet] = vote
        if len(self._votes) < self._rule.supernets:
            return False
        votes = [self._votes[number] for number in sorted(self._votes)]
        before = self.course.left(rung)
        dropped = tuple(decide(votes, before, self._rule, self._possible))
        after = narrowed(before, dropped)
        scores = tuple(
            OperatorScore(
                operator=one,
                name=in_words(before, one),
                scores=tuple(vote[one] if math.isfinite(vote[one]) else None for vote in votes),
                dropped=one in dropped,
            )
            for one in sorted(votes[0])
        )
        step = self.course.until(rung)
        now = time.time_ns() // 1_000_000
        self._write(rung, Rung(step=step, operators=scores, size=after.size, kept=after.kept, time=now))
        self.course = self.course._replace(dropped=(*self.course.dropped, dropped))
        self._votes.clear()
        return True

    def _write(self, number: int, rung: Rung) -> None:
        try:
            self._rungs.append_at(number, [rung])
        except FileExistsError as error:
            fix = "Another process is driving this run: let it end, or end it."
            folder = str(self._rungs.folder)
            raise UserError("shrinking", folder, "decisions that one process writes", fix) from error

    def _possible(self, space: ChoiceSpace) -> bool:
        """Whether something in the space meets the constraints that need no measuring."""
        feasible = self._feasible
        try:
            check_satisfiable(space, feasible.constraints, feasible.costs, 0, measure=False)
        except UserError:
            return False
        return True


def named(vote: Vote) -> dict[str, float]:
    """For a result of Tune, whose keys are words."""
    return {f"{gene}.{option}": score for (gene, option), score in vote.items()}


def unnamed(scores: Mapping[str, float]) -> dict[Operator, float]:
    return {Operator(*map(int, name.split("."))): score for name, score in scores.items()}


def in_words(space: ChoiceSpace, operator: Operator) -> str:
    """``0-1 none``."""
    return f"{space.positions[operator.gene]} {space.options[operator.gene][operator.option].word}"
