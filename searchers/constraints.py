"""What a candidate may cost. Constraints bind before anything is scored (DESIGN 4.5)."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from networks.complexity import Complexity
from networks.counters import counter_random
from networks.errors import UserError, nearest
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes, SearchSpace

Costs = Callable[[Genes], Mapping[str, float]]

# What `SearchSpace.cost` knows without building anything; every other cost is measured.
STATIC = Complexity._fields
# Spaces up to this size are looked through whole.
SMALL = 50_000
# Draws before constraints count as such that nothing meets.
TRIES = 10_000
# As many where a cost does not add up (milliseconds each), and where it is measured (up to a second each).
DECODED = 1_000
MEASURED = 64


class Constraint(BaseModel):
    """Bounds, both included, on one cost: `params`, `macs` and `activations` are known of every candidate,
    others (`latency_ms`) are measured. Raises `UserError` without a bound, and when they cross."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: str = Field(min_length=1)
    at_most: float | None = Field(None, allow_inf_nan=False)
    at_least: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_bounds(self) -> "Constraint":
        if self.at_most is None and self.at_least is None:
            raise UserError("at_most", None, "a number", "A constraint needs at_most, at_least or both.")
        if self.at_most is not None and self.at_least is not None and self.at_most < self.at_least:
            raise UserError("at_least", self.at_least, f"at most {self.at_most:.12g}, which is at_most")
        return self

    def met(self, costs: Mapping[str, float]) -> bool:
        """NaN (a measurement that failed) meets nothing. Raises `UserError` when the cost is not there."""
        if self.cost not in costs:
            known = ", ".join(costs)
            raise UserError(
                "cost", self.cost, f"a cost that is known here: {known}", nearest(self.cost, costs)
            )
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= costs[self.cost] <= high

    def __str__(self) -> str:
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return f"{self.cost} " + " and ".join(
            f"{word} {bound:.12g}" for word, bound in bounds if bound is not None
        )


def static_costs(space: SearchSpace) -> Costs:
    """Parameters, MACs and activations of a candidate of this space."""
    return lambda genes: space.cost(genes)._asdict()


def no_costs(genes: Genes) -> Mapping[str, float]:
    return {}


class Feasible:
    """Whether a candidate meets all constraints. Its costs are asked for once, and not at all without
    constraints."""

    def __init__(self, constraints: Iterable[Constraint], costs: Costs = no_costs) -> None:
        self.constraints, self.costs = tuple(constraints), costs
        self._known: dict[Genes, bool] = {}

    def __call__(self, genes: Genes) -> bool:
        if not self.constraints:
            return True
        known = self._known.get(genes)
        if known is None:
            costs = self.costs(genes)
            known = self._known[genes] = all(constraint.met(costs) for constraint in self.constraints)
        return known

    def sample(self, space: SearchSpace, rng: random.Random) -> Genes:
        """A uniform draw of the space, drawn again until it meets the constraints. `UserError` after
        10,000 draws."""
        for _ in range(TRIES):
            genes = space.sample(rng)
            if self(genes):
                return genes
        raise refusal(self.constraints, f"None of {TRIES:,} random candidates meets them.")


ANYTHING = Feasible(())


def refusal(constraints: Sequence[Constraint], why: str) -> UserError:
    words = "; ".join(map(str, constraints))
    return UserError("constraints", words, "constraints that some candidate meets", why)


class Range(NamedTuple):
    """The smallest and largest value of a cost. `sampled`: of so many candidates; None when exact."""

    low: float
    high: float
    sampled: int | None

    def __str__(self) -> str:
        how = "" if self.sampled is None else f" (of {self.sampled:,} sampled)"
        return f"smallest {_number(self.low)}, largest {_number(self.high)}{how}"


def cost_range(space: SearchSpace, cost: str, costs: Costs, seed: int) -> Range:
    """Exact where costs add up and in spaces that are looked through whole, else from random candidates;
    for a measured cost the ones with the fewest and the most MACs are among them."""
    if isinstance(space, ChoiceSpace) and cost in STATIC:
        return Range(*space.extremes(cost), None)
    tries = DECODED if cost in STATIC else MEASURED
    whole = space.size <= tries
    candidates = list(space.enumerate()) if whole else list(_drawn(space, tries, seed))
    if isinstance(space, ChoiceSpace) and not whole:
        candidates[:2] = (_by_macs(space, min), _by_macs(space, max))
    values = [value for value in (costs(genes)[cost] for genes in candidates) if not math.isnan(value)]
    if not values:
        raise UserError("cost", cost, "a cost that can be measured", f"All {len(candidates)} tries failed.")
    return Range(min(values), max(values), None if whole else len(values))


def check_satisfiable(space: SearchSpace, constraints: Sequence[Constraint], costs: Costs, seed: int) -> None:
    """Raise `UserError` when nothing in the space meets the constraints, each alone or all together.

    To be called before a search. Alone: by `cost_range`. Together: all candidates of a small space whose
    costs add up, else random ones, so that what passes can also be drawn; the message says which.
    """
    ranges = []
    for position, constraint in enumerate(constraints):
        try:
            if constraint.cost not in STATIC:
                constraint.met(costs(next(_drawn(space, 1, seed))))
            found = cost_range(space, constraint.cost, costs, seed)
        except UserError as error:
            raise error.under(f"constraints.{position}") from None
        ranges.append(f"{constraint.cost}: {found}")
        _check_alone(constraint, found, f"constraints.{position}")
    measured = [constraint for constraint in constraints if constraint.cost not in STATIC]
    known = Feasible([one for one in constraints if one.cost in STATIC], static_costs(space))
    additive = isinstance(space, ChoiceSpace)
    whole = not measured and space.size <= (SMALL if additive else DECODED)
    tries = TRIES if additive else DECODED
    candidates = filter(known, space.enumerate() if whole else _drawn(space, tries, seed))
    # What meets the known costs is measured, a few of them.
    some = itertools.islice(candidates, MEASURED if measured else 1)
    if any(all(one.met(costs(genes)) for one in measured) for genes in some):
        return
    count = f"the {space.size:,} candidates" if whole else f"{tries:,} sampled"
    raise refusal(constraints, f"None of {count} meets all of them. In this space, {'; '.join(ranges)}.")


def _check_alone(constraint: Constraint, found: Range, field: str) -> None:
    words = f"In this space, {constraint.cost}: {found}."
    if constraint.at_most is not None and constraint.at_most < found.low:
        raise UserError(f"{field}.at_most", constraint.at_most, f"{_number(found.low)} or more", words)
    if constraint.at_least is not None and constraint.at_least > found.high:
        raise UserError(f"{field}.at_least", constraint.at_least, f"{_number(found.high)} or less", words)


def _drawn(space: SearchSpace, count: int, seed: int) -> Iterator[Genes]:
    rng = counter_random(seed, "search", "constraints")
    return (space.sample(rng) for _ in range(count))


def _by_macs(space: ChoiceSpace, end: Callable[..., int]) -> Genes:
    return tuple(end(range(len(some)), key=lambda i: some[i].macs) for some in space.cost_table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
