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
# Uniform draws before what meets the constraints counts as rare.
TRIES = 10_000
# Draws that are repaired then.
REPAIRS = 200
# Draws where a cost does not add up (milliseconds each), and where it is measured (up to a second each).
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

    @property
    def bounds(self) -> tuple[float, float]:
        low = -math.inf if self.at_least is None else self.at_least
        return low, math.inf if self.at_most is None else self.at_most

    def met(self, costs: Mapping[str, float]) -> bool:
        """NaN (a measurement that failed) meets nothing. Raises `UserError` when the cost is not there."""
        if self.cost not in costs:
            known = ", ".join(costs)
            raise UserError(
                "cost", self.cost, f"a cost that is known here: {known}", nearest(self.cost, costs)
            )
        low, high = self.bounds
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
    constraints. `measured` gives the other costs; it is asked only of what meets the rest."""

    def __init__(
        self, constraints: Iterable[Constraint], costs: Costs = no_costs, measured: Costs = no_costs
    ) -> None:
        self.constraints, self.costs, self._measured = tuple(constraints), costs, measured
        self._known: dict[Genes, bool] = {}
        self._rare: dict[str, bool] = {}  # by the space's digest

    def __call__(self, genes: Genes) -> bool:
        if not self.constraints:
            return True
        known = self._known.get(genes)
        if known is None:
            known = self._known[genes] = self._meets(genes)
        return known

    def _meets(self, genes: Genes) -> bool:
        costs = self.costs(genes)
        late = [one for one in self.constraints if one.cost not in costs]
        if not all(one.met(costs) for one in self.constraints if one.cost in costs):
            return False
        measured = {**costs, **self._measured(genes)} if late else costs
        return all(one.met(measured) for one in late)

    def sample(self, space: SearchSpace, rng: random.Random) -> Genes:
        """A random candidate that meets the constraints (`draws`). `UserError` where there is none."""
        for genes in self.draws(space, rng):
            return genes
        raise refusal(self.constraints, none_drawn(space))

    def draws(self, space: SearchSpace, rng: random.Random, tries: int = TRIES) -> Iterator[Genes]:
        """Random candidates that meet the constraints; the same one may come twice.

        Uniform draws of the space, those that meet them, from `tries` draws. Where static costs add up and
        candidates that meet the constraints are too rare for that, draws are repaired instead (`repaired`),
        200 of them; these are not uniform: most lie close to the bound. Too rare is a property of space and
        constraints, never of the generator: none of 10,000 draws from a fixed seed.
        """
        if not self.rare(space):
            for _ in range(tries):
                genes = space.sample(rng)
                if self(genes):
                    yield genes
        if isinstance(space, ChoiceSpace) and space.size > SMALL and self._static:
            for _ in range(REPAIRS):
                mended = repaired(space, self._static, space.sample(rng), rng)
                if mended is not None and self(mended):
                    yield mended

    def rare(self, space: SearchSpace) -> bool:
        """Whether what meets the static constraints is too rare for uniform draws."""
        if not isinstance(space, ChoiceSpace) or space.size <= SMALL or not self._static:
            return False
        if space.digest not in self._rare:
            drawn = _drawn(space, TRIES, 0)
            self._rare[space.digest] = not any(_all_met(self._static, space, genes) for genes in drawn)
        return self._rare[space.digest]

    @property
    def _static(self) -> list[Constraint]:
        return [one for one in self.constraints if one.cost in STATIC]


ANYTHING = Feasible(())


def repaired(
    space: ChoiceSpace, constraints: Sequence[Constraint], genes: Genes, rng: random.Random
) -> Genes | None:
    """The genes, changed until they meet these static constraints: gene after gene, in random order, is given
    a random one of the options that bring the costs nearer to the bounds. None where no single gene does
    any more: then the bounds are tighter than the options' steps, or contradict each other.

    With bounds on one side of one cost it always ends well if anything meets them, for costs add up.
    """
    bounds = [(STATIC.index(one.cost), *one.bounds) for one in constraints]
    costs = list(space.cost(genes))
    scale = [max(1, high - low) for low, high in map(space.extremes, STATIC)]

    def excess(costs: Sequence[int]) -> float:
        """How far from the bounds, as shares of the costs' ranges."""
        return math.fsum(max(0.0, low - costs[i], costs[i] - high) / scale[i] for i, low, high in bounds)

    mended, left = list(genes), excess(costs)
    while left > 0:
        before = left
        for gene in rng.sample(range(len(mended)), len(mended)):
            table = space.cost_table[gene]
            better = []
            others = mended[:gene], mended[gene + 1 :]
            for option in space.kept[gene]:
                if not (space.independent or space.legal((*others[0], option, *others[1]))):
                    continue
                now, then = table[mended[gene]], table[option]
                changed = [cost - old + new for cost, old, new in zip(costs, now, then, strict=True)]
                if (rest := excess(changed)) < left:
                    better.append((option, changed, rest))
            if better:
                mended[gene], costs, left = better[rng.randrange(len(better))]
                if left <= 0:
                    break
        if left >= before:
            return None
    return tuple(mended)


def _all_met(constraints: Sequence[Constraint], space: SearchSpace, genes: Genes) -> bool:
    costs = space.cost(genes)._asdict()
    return all(one.met(costs) for one in constraints)


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
        candidates[:2] = (space.extreme(space.kept, "macs", end) for end in (min, max))
    values = [value for value in (costs(genes)[cost] for genes in candidates) if not math.isnan(value)]
    if not values:
        raise UserError("cost", cost, "a cost that can be measured", f"All {len(candidates)} tries failed.")
    return Range(min(values), max(values), None if whole else len(values))


def check_satisfiable(
    space: SearchSpace, constraints: Sequence[Constraint], costs: Costs, seed: int, *, measure: bool = True
) -> None:
    """Raise `UserError` when nothing in the space meets the constraints, each alone or all together, or when
    what does is too rare to be found.

    To be called before a search. Alone: by `cost_range`. Together: all candidates of a small space whose
    costs add up, else those that `Feasible.draws` gives, so that what passes can also be drawn; the message
    says which. Without `measure` constraints on costs that are not static are passed over.
    """
    ranges = []
    for position, constraint in enumerate(constraints):
        if constraint.cost not in STATIC and not measure:
            continue
        try:
            if constraint.cost not in STATIC:
                constraint.met(costs(next(_drawn(space, 1, seed))))
            found = cost_range(space, constraint.cost, costs, seed)
        except UserError as error:
            raise error.under(f"constraints.{position}") from None
        ranges.append(f"{constraint.cost}: {found}")
        _check_alone(constraint, found, f"constraints.{position}")
    measured = [one for one in constraints if one.cost not in STATIC and measure]
    known = Feasible([one for one in constraints if one.cost in STATIC], static_costs(space))
    additive = isinstance(space, ChoiceSpace)
    tries = TRIES if additive else DECODED
    small = space.size <= (SMALL if additive else DECODED)
    drawn = known.draws(space, counter_random(seed, "search", "constraints"), tries)
    listed = filter(known, space.enumerate()) if small else iter(())
    candidates = itertools.chain(drawn, listed) if measured else (listed if small else drawn)
    # What meets the known costs is measured, a few of them.
    some = itertools.islice(candidates, MEASURED if measured else 1)
    if any(all(one.met(costs(genes)) for one in measured) for genes in some):
        return
    if measured:
        why = f"None of up to {MEASURED} that were measured meets all of them."
    elif small:
        why = f"None of the {space.size:,} candidates meets all of them."
    else:
        why = f"{none_drawn(space, tries)} If any does, it is too rare to be drawn."
    raise refusal(constraints, f"{why} In this space, {'; '.join(ranges)}.")


def none_drawn(space: SearchSpace, tries: int = TRIES) -> str:
    """What was tried in vain by `Feasible.draws`, in words."""
    if isinstance(space, ChoiceSpace) and space.size > SMALL:
        return f"None of {tries:,} random candidates meets them, nor of {REPAIRS} that were changed to."
    return f"None of {tries:,} random candidates meets them."


def _check_alone(constraint: Constraint, found: Range, field: str) -> None:
    words = f"In this space, {constraint.cost}: {found}."
    if constraint.at_most is not None and constraint.at_most < found.low:
        raise UserError(f"{field}.at_most", constraint.at_most, f"{_number(found.low)} or more", words)
    if constraint.at_least is not None and constraint.at_least > found.high:
        raise UserError(f"{field}.at_least", constraint.at_least, f"{_number(found.high)} or less", words)


def _drawn(space: SearchSpace, count: int, seed: int) -> Iterator[Genes]:
    rng = counter_random(seed, "search", "constraints")
    return (space.sample(rng) for _ in range(count))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
