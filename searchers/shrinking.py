"""Progressive shrinking: which operators a space loses at a rung (ABS, 2004.13431; angle spec section 2).

An operator is an option of a gene; its score is the mean score of the candidates that hold it. These are pure
rules over scores, so that what is dropped depends on nothing else: several supernets vote by mean rank.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import scipy  # its parts are loaded when they are used: that of statistics takes most of a second
from pydantic import BaseModel, ConfigDict, Field

from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace
from networks.spaces.narrowed import Operator, narrowed, operators
from networks.spaces.space import Genes
from searchers.constraints import ANYTHING, Feasible

TRIES = 100  # draws for each candidate that is wanted of an operator, as released

Drop = Annotated[int, Field(ge=1)] | Literal["each"]


class ShrinkRule(BaseModel):
    """What a rung drops. `drop`: so many operators, the lowest of the whole space; ``each``: the lowest of
    every choice. `until`: shrinking ends when so few candidates, or fewer, are left. `children`: candidates
    that an operator's score is the mean of; all there are where the space has no more than `exact`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: Drop = 7
    until: int = Field(1_000_000, ge=1)
    children: int = Field(1000, ge=1)
    exact: int = Field(20_000, ge=0)

    def over(self, space: ChoiceSpace) -> bool:
        """Whether nothing more is to be dropped: few enough are left, or no choice is."""
        return space.size <= self.until or not choosable(space)


def likely_rungs(space: ChoiceSpace, rule: ShrinkRule) -> int:
    """How many rungs there are if operators are dropped at random: with other scores a few more or fewer."""
    rungs, rng = 0, counter_random(0, "likely rungs")
    while not rule.over(space):
        dropped = decide([{operator: rng.random() for operator in choosable(space)}], space, rule)
        if not dropped:
            break
        space, rungs = narrowed(space, dropped), rungs + 1
    return rungs


def choosable(space: ChoiceSpace) -> list[Operator]:
    """The operators of choices that have more than one left: those that can be dropped."""
    return [operator for operator in operators(space) if len(space.kept[operator.gene]) > 1]


def children_of(
    space: ChoiceSpace, rule: ShrinkRule, seed: int, *path: int | str, feasible: Feasible = ANYTHING
) -> list[Genes]:
    """The candidates by which operators are judged, distinct, a function of (space, rule, seed, path).

    All that meet the constraints where the space is small. Else random ones, drawn for one operator after the
    other until each has `rule.children`; a candidate counts for every operator that it holds. An operator of
    which 100 draws for each that is wanted do not give enough has fewer.
    """
    if space.size <= rule.exact:
        return [genes for genes in space.enumerate() if feasible(genes)]
    found: dict[Genes, None] = {}
    held = dict.fromkeys(operators(space), 0)
    for operator in choosable(space):
        missing = rule.children - held[operator]
        if missing <= 0:
            continue
        rng, its_own = counter_random(seed, *path, operator.gene, operator.option), holding(space, operator)
        for _ in range(TRIES * missing):
            genes = its_own.sample(rng)
            if genes in found or not feasible(genes):
                continue
            found[genes] = None
            for held_too in map(Operator._make, enumerate(genes)):
                held[held_too] += 1
            if held[operator] >= rule.children:
                break
    return list(found)


def holding(space: ChoiceSpace, operator: Operator) -> ChoiceSpace:
    """The candidates that hold this operator."""
    others = [Operator(operator.gene, option) for option in space.kept[operator.gene]]
    return narrowed(space, (other for other in others if other != operator))


def operator_scores(
    space: ChoiceSpace, children: Sequence[Genes], scores: Sequence[float | None]
) -> dict[Operator, float]:
    """The mean score of the children that hold each choosable operator; those without a score (None, or no
    finite number) do not count. -inf for an operator that no scored child holds: it goes first."""
    chosen = np.array(children, np.intp).reshape(len(children), len(space.kept))
    values = np.array([math.nan if score is None else score for score in scores], np.float64)
    usable = np.isfinite(values)
    chosen, values = chosen[usable], values[usable]
    means = {}
    for operator in choosable(space):
        own = values[chosen[:, operator.gene] == operator.option]
        means[operator] = math.fsum(own) / len(own) if len(own) else -math.inf
    return means


def mean_ranks(votes: Sequence[Mapping[Operator, float]]) -> dict[Operator, float]:
    """The mean over all votes of an operator's rank, 1 for the lowest score; equal scores share a rank.
    Raises ValueError where not all vote on the same operators."""
    names = sorted(votes[0])
    if any(sorted(vote) != names for vote in votes):
        raise ValueError("not all vote on the same operators")
    ranks = np.mean([scipy.stats.rankdata([vote[name] for name in names]) for vote in votes], axis=0)
    return dict(zip(names, ranks.tolist(), strict=True))


def decide(
    votes: Sequence[Mapping[Operator, float]],
    space: ChoiceSpace,
    rule: ShrinkRule,
    possible: Callable[[ChoiceSpace], bool] = lambda space: True,
) -> list[Operator]:
    """The operators that the space loses now, lowest first; none when shrinking is over.

    The lowest by mean rank (equal ones: the earlier gene and option), never the last of a choice, nor one
    without which the space is empty or not `possible` (constraints); exactly `rule.drop` of them while there
    are as many. What no candidate has any more when they are gone goes with them (`narrowed`), uncounted.
    """
    if rule.over(space):
        return []
    ranks = mean_ranks(votes)
    dropped: list[Operator] = []
    most = len(ranks) if rule.drop == "each" else rule.drop
    for operator in sorted(ranks, key=lambda one: (ranks[one], one)):
        if len(dropped) == most:
            break
        taken = rule.drop == "each" and operator.gene in {one.gene for one in dropped}
        left = space.kept[operator.gene]
        if taken or len(left) == 1 or operator.option not in left:  # it went with another
            continue
        try:
            smaller = narrowed(space, [operator])
        except UserError:  # every candidate that is left has it
            continue
        if possible(smaller):
            space = smaller
            dropped.append(operator)
    return dropped
