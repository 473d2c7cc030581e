"""Which operators a rung drops: spec A9, under any space and any scores."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from networks.architecture import Shape
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace
from networks.spaces.narrowed import NarrowedSpace, Operator, narrowed, operators
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from searchers.constraints import Constraint, Feasible, static_costs
from searchers.shrinking import (
    ShrinkRule,
    children_of,
    choosable,
    decide,
    holding,
    mean_ranks,
    operator_scores,
)

CELLS = NasBench201Space(NasBench201Settings(channels=2, cells=1), Shape(3, 8, 8), 4)


@st.composite
def spaces(draw: st.DrawFn) -> ChoiceSpace:
    """Any part of NAS-Bench-201."""
    kept = tuple(tuple(sorted(draw(st.sets(st.sampled_from(values), min_size=1)))) for values in CELLS.kept)
    return NarrowedSpace(CELLS, kept)


@st.composite
def votes(draw: st.DrawFn, space: ChoiceSpace) -> list[dict[Operator, float]]:
    scores = st.one_of(st.integers(0, 3).map(float), st.just(-math.inf))
    return [{one: draw(scores) for one in choosable(space)} for _ in range(draw(st.integers(1, 3)))]


@given(st.data())
def test_a_rung_drops_exactly_as_many_as_it_may(data: st.DataObject) -> None:
    space = data.draw(spaces())
    drop = data.draw(st.one_of(st.just("each"), st.integers(1, 30)))
    rule = ShrinkRule(drop=drop, until=data.draw(st.integers(1, 200)))
    cast = data.draw(votes(space))
    gone = decide(cast, space, rule)
    if space.size <= rule.until:
        assert gone == [] and rule.over(space)
        return
    spare = sum(len(values) - 1 for values in space.kept)
    open_choices = sum(len(values) > 1 for values in space.kept)
    assert len(gone) == (open_choices if drop == "each" else min(drop, spare))
    assert len(set(gone)) == len(gone)
    smaller = narrowed(space, gone)
    assert all(smaller.kept) and smaller.size < space.size
    ranks = mean_ranks(cast)
    assert [ranks[one] for one in gone] == sorted(ranks[one] for one in gone)
    for kept in set(choosable(space)) - set(gone):  # what stays is no worse, unless it was the last
        lower = [one for one in gone if (ranks[kept], kept) < (ranks[one], one)]
        if drop == "each":
            lower = [one for one in lower if one.gene == kept.gene]
        assert not lower or len(smaller.kept[kept.gene]) == 1


@given(st.data())
def test_shrinking_ends_at_the_threshold_with_the_planted_best(data: st.DataObject) -> None:
    """With scores by an oracle, in which each operator adds its own worth."""
    drop = data.draw(st.one_of(st.just("each"), st.integers(1, 8)))
    rule = ShrinkRule(drop=drop, until=data.draw(st.integers(1, 1000)))
    best = tuple(data.draw(st.sampled_from(values)) for values in CELLS.kept)
    worth = {
        one: 1.0 if one.option == best[one.gene] else -data.draw(st.floats(0, 1)) for one in operators(CELLS)
    }
    space: ChoiceSpace = CELLS
    sizes = [space.size]
    while gone := decide([{one: worth[one] for one in choosable(space)}], space, rule):
        space = narrowed(space, gone)
        sizes.append(space.size)
        assert space.legal(best)
    assert all(after < before for before, after in pairwise(sizes))
    assert sizes[-1] <= rule.until and all(size > rule.until for size in sizes[:-1])


def test_mean_ranks_of_several_votes() -> None:
    a, b, c = (Operator(0, option) for option in range(3))
    assert mean_ranks([{a: 0.1, b: 0.2, c: 0.2}]) == {a: 1.0, b: 2.5, c: 2.5}
    assert mean_ranks([{a: 0.1, b: 0.2, c: 0.3}, {a: 9.0, b: 7.0, c: 8.0}]) == {a: 2.0, b: 1.5, c: 2.5}
    with pytest.raises(ValueError, match="same operators"):
        mean_ranks([{a: 1.0}, {b: 1.0}])


def test_of_equal_operators_the_earlier_goes() -> None:
    equal = dict.fromkeys(choosable(CELLS), 1.0)
    assert decide([equal], CELLS, ShrinkRule(drop=2, until=1)) == [(0, 0), (0, 1)]
    assert decide([equal], CELLS, ShrinkRule(drop="each", until=1)) == [(gene, 0) for gene in range(6)]


def test_scores_of_operators_are_means_over_the_candidates_that_hold_them() -> None:
    space = NarrowedSpace(CELLS, ((0, 1), (2,), (3,), (0, 4), (1,), (1,)))
    children = children_of(space, ShrinkRule(), 0)
    assert children == list(space.enumerate()) and len(children) == 4
    assert operator_scores(space, children, [1.0, 2.0, 4.0, None]) == {
        (0, 0): 1.5, (0, 1): 4.0, (3, 0): 2.5, (3, 4): 2.0,
    }  # fmt: skip
    assert operator_scores(space, children, [math.nan, None, 1.0, math.inf])[Operator(0, 0)] == -math.inf


def means(children: Sequence[tuple[int, ...]]) -> dict[Operator, float]:
    return operator_scores(CELLS, children, [float(sum(genes)) for genes in children])


def test_pools_are_shared_distinct_and_drawn_anew_from_the_seed() -> None:
    rule = ShrinkRule(children=40, exact=100)
    children = children_of(CELLS, rule, 3, "rung", 0)
    assert children == children_of(CELLS, rule, 3, "rung", 0)
    assert children != children_of(CELLS, rule, 3, "rung", 1) != children_of(CELLS, rule, 4, "rung", 1)
    assert len(set(children)) == len(children) < 40 * 30 / 3
    held = {one: sum(genes[one.gene] == one.option for genes in children) for one in operators(CELLS)}
    assert min(held.values()) >= 40
    exact = means(list(CELLS.enumerate()))
    sampled = means(children_of(CELLS, ShrinkRule(children=400, exact=100), 3))
    assert max(abs(exact[one] - sampled[one]) for one in exact) < 0.6  # the deviation of one is 3.2


def test_children_meet_the_constraints() -> None:
    limit = 0.5 * CELLS.extremes("macs")[1]
    feasible = Feasible([Constraint(cost="macs", at_most=limit)], static_costs(CELLS))
    for rule in (ShrinkRule(children=30, exact=100), ShrinkRule()):
        children = children_of(CELLS, rule, 0, feasible=feasible)
        assert children and all(CELLS.cost(genes).macs <= limit for genes in children)
    least = Feasible([Constraint(cost="macs", at_most=CELLS.extremes("macs")[0])], static_costs(CELLS))
    scores = operator_scores(
        CELLS, (found := children_of(CELLS, ShrinkRule(), 0, feasible=least)), [1.0] * len(found)
    )
    assert scores[Operator(0, 3)] == -math.inf, "no convolution is that cheap"


def test_what_holds_an_operator() -> None:
    space = holding(CELLS, Operator(2, 3))
    assert space.kept[2] == (3,) and space.size == 5**5
    assert holding(space, Operator(2, 3)) is space
    assert all(genes[2] == 3 for genes in children_of(space, ShrinkRule(children=5, exact=0), 1))


def test_no_choice_can_be_emptied() -> None:
    with pytest.raises(UserError, match="0-1"):
        narrowed(CELLS, [Operator(0, option) for option in range(5)])
