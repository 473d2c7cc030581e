"""The recipe of a search that asks and tells: a space of choices, a searcher, and what scores candidates."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from cluster.recipe_base import BaseRecipe, HomePath, Section
from cluster.recipe_errors import Mistakes, explain
from cluster.recipe_spaces import ChoiceSection
from cluster.retrain_recipe import Retraining
from cluster.shrink_recipe import Shrinking
from networks.architecture import Shape
from networks.complexity import LATENCY
from networks.errors import UserError, nearest
from searchers.constraints import Constraint
from searchers.grid import GridSettings
from searchers.nat import NatSettings
from searchers.problem import Objective
from searchers.random_search import RandomSettings
from searchers.settings import SearcherSettings
from trainers.one_shot_settings import OneShotSettings
from trainers.scores.registry import find_score

COSTS = ("params", "macs", "activations", LATENCY)


class ComputedScore(Section):
    """Scores that replicas compute: of the trained supernet, or of a candidate's own untrained network.
    `batch_size`: images a batch, in validation and wherever a score takes batches."""

    kind: Literal["computed"] = "computed"
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("accuracy",)
    batch_size: int = Field(250, ge=2)

    @field_validator("names")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for position, name in enumerate(names):
            find_score(name, str(position))
        return names


class TableScore(Section):
    """Columns of a table, read by genes: a search over known results, in milliseconds."""

    kind: Literal["table"] = "table"
    path: HomePath
    names: tuple[str, ...] = Field(min_length=1)
    image: Shape = Shape(3, 32, 32)
    classes: int = Field(10, ge=2)


class WarmStart(Section):
    """Candidates that are known already: a csv with the space's cells and a column for each objective."""

    path: HomePath


class Ranking(Section):
    """How well scores rank: `scores` of that many random candidates against a column of a table."""

    table: HomePath
    truth: str
    scores: tuple[str, ...] = Field(min_length=1)
    cells: int = Field(1000, ge=3)

    @field_validator("scores")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return ComputedScore._known(names)


class Stretch(Section):
    """Where a search ended before it was given more budget: so many candidates of its searcher, and so many
    random ones to compare with, had been asked for."""

    search: int = Field(ge=0)
    random: int = Field(ge=0)


class SearchRecipe(BaseRecipe):
    """A search over a space of choices. The first objective ranks; all of them make the frontier.

    `round`: candidates that are asked for, committed and told together. `in_flight`: candidates asked for
    and not told, a multiple of `round`; None is one round. `baseline`: also score as many random
    candidates, to compare with; None: unless the searcher itself is random or looks at everything. None of
    them follows from the number of replicas. `extended`: written by `weft extend`. `shrinking`: the space
    shrinks while the supernet trains. `retraining`: the networks that the search ends with are trained on
    their own.
    """

    PLACES: ClassVar[Mapping[str, Any]] = {
        **BaseRecipe.PLACES,
        "score": {"path"},
        "warm_start": {"path"},
        "ranking": {"table"},
        "shrinking": {"patience_s"},
    }

    space: ChoiceSection
    searcher: SearcherSettings
    supernet: OneShotSettings | None = None
    score: Annotated[ComputedScore | TableScore, Field(discriminator="kind")] = ComputedScore()
    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    round: int = Field(25, ge=1)
    in_flight: int | None = Field(None, ge=1)
    baseline: bool | None = None
    warm_start: WarmStart | None = None
    ranking: Ranking | None = None
    extended: tuple[Stretch, ...] = ()
    shrinking: Shrinking | None = None
    retraining: Retraining | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.in_flight is not None and self.in_flight % self.round:
            fix = "Candidates are told a whole round at a time."
            raise UserError("in_flight", self.in_flight, f"a multiple of round ({self.round})", fix)
        known = tuple(dict.fromkeys((*self.score.names, *COSTS)))
        for position, objective in enumerate(self.objectives):
            if objective.metric not in known:
                fix = nearest(objective.metric, known)
                raise UserError(f"objectives.{position}.metric", objective.metric, ", ".join(known), fix)
        if not self.goals[0].maximise:
            raise UserError("objectives.0.maximise", False, "true: the first objective ranks candidates")
        if self.goals[0].metric not in self.score.names:
            raise UserError("objectives.0.metric", self.goals[0].metric, ", ".join(self.score.names))
        if isinstance(self.score, TableScore):
            for field in ("supernet", "data", "ranking", "shrinking", "retraining"):
                if getattr(self, field) != type(self).model_fields[field].default:
                    raise UserError(field, "given", "nothing where a table scores the candidates")
        elif self.supernet is None:
            if self.shrinking is not None:
                raise UserError(
                    "shrinking", "given", "nothing without a supernet: it shrinks while that trains"
                )
            check_untrained("score.names", self.score.names)
            if self.ranking is not None:
                check_untrained("ranking.scores", self.ranking.scores)
        if self.shrinking is not None and self.supernet is not None:
            trains_on = self.shrinking.steps or self.shrinking.then
            if trains_on and not self.supernet.final_lr:
                fix = "It is the rate of what is trained after the steps over which the rate falls."
                raise UserError("supernet.final_lr", 0.0, "above 0 with shrinking", fix)
        if isinstance(self.searcher, NatSettings) and self.searcher.alternate is not None:
            if self.supernet is None:
                raise UserError("searcher.alternate", "given", "nothing without a supernet, which it trains")
            if not self.supernet.final_lr:
                fix = "It is the rate of what is trained after the steps over which the rate falls."
                raise UserError("supernet.final_lr", 0.0, "above 0 with searcher.alternate", fix)
        if isinstance(self.searcher, NatSettings):
            for field in ("shrinking", "warm_start"):
                if getattr(self, field) is not None:
                    fix = "A policy learns from rewritings that it draws itself, in the whole space."
                    raise UserError(field, "given", "nothing with the searcher nat", fix)
        batches = self.searcher.reward_batches if isinstance(self.searcher, NatSettings) else None
        if batches is not None and isinstance(self.score, TableScore):
            raise UserError("searcher.reward_batches", batches, "nothing where a table scores")
        if self.retraining is not None:
            try:
                _ = self.retrained_space
            except ValidationError as error:
                mistakes = explain(error, type(self.space), self._retrained())
                raise Mistakes(mistakes).under("retraining.space") from None
        if self.baseline and not self.has_baseline:
            raise UserError("baseline", True, f"nothing with {self.searcher.kind}: it would say nothing new")
        for position, (before, after) in enumerate(pairwise(self.extended), 1):
            if after.search < before.search or after.random < before.random:
                allowed = "not fewer than before, as weft extend writes it"
                raise UserError(f"extended.{position}", after.model_dump(), allowed)
        return self

    @model_serializer(mode="wrap")
    def _where_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was never extended, or does not shrink, says nothing of it, and has the digest that it had
        before one could."""
        said: dict[str, Any] = write(self)
        later = {"extended", "shrinking", "retraining"}
        return {name: value for name, value in said.items() if name not in later or value}

    @cached_property
    def retrained_space(self) -> ChoiceSection:
        """The space whose networks are trained at last."""
        return type(self.space).model_validate(self._retrained())

    def _retrained(self) -> dict[str, Any]:
        assert self.retraining is not None
        return {**self.space.model_dump(), **self.retraining.space}

    @property
    def trained_beside(self) -> int:
        """Steps that the supernet trains while the searcher learns, after `supernet.steps`."""
        return self.searcher.trained_beside() if isinstance(self.searcher, NatSettings) else 0

    @property
    def has_baseline(self) -> bool:
        alone = GridSettings | RandomSettings | NatSettings  # the last is compared with what it rewrites
        return self.baseline is not False and not isinstance(self.searcher, alone)

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives; the first score's where none are given."""
        return self.objectives or (Objective(metric=self.score.names[0]),)

    @property
    def metric(self) -> str:
        """What ranks; maximised."""
        return self.goals[0].metric

    @property
    def needs_latency(self) -> bool:
        """Whether an objective or a constraint is the latency."""
        named = [*(goal.metric for goal in self.goals), *(one.cost for one in self.constraints)]
        return LATENCY in named

    @property
    def needed(self) -> tuple[str, ...]:
        """The scores without which a candidate has failed: those that are objectives."""
        return tuple(goal.metric for goal in self.goals if goal.metric in self.score.names)

    @property
    def rounds_in_flight(self) -> int:
        return (self.in_flight or self.round) // self.round


def check_untrained(field: str, names: Sequence[str]) -> None:
    """Refuse scores of a trained supernet where there is none."""
    for position, name in enumerate(names):
        if find_score(name, field).needs_supernet:
            allowed = "scores of untrained networks, where `supernet` is not given"
            raise UserError(f"{field}.{position}", name, allowed)
