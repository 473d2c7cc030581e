"""Constraints: what they refuse before a search, in which words, and that draws keep them."""

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from networks.architecture import Shape
from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace
from networks.spaces.space import Genes, SearchSpace
from searchers.constraints import (
    ANYTHING,
    Constraint,
    Feasible,
    check_satisfiable,
    cost_range,
    static_costs,
)
from searchers.problem import Problem
from searchers.random_search import RandomSettings
from tests.networks.refusals import refused
from tests.searchers.toys import CELLS, CHAIN, GRAPHS, SCORE, SHUFFLE


def refusal(space: SearchSpace, *constraints: Constraint, latency: Any = None) -> str:
    """The words with which they are refused; empty when they are not."""

    def costs(genes: Genes) -> dict[str, float]:
        known = dict(static_costs(space)(genes))
        return known if latency is None else {**known, "latency_ms": latency(genes)}

    try:
        check_satisfiable(space, constraints, costs, seed=0)
    except UserError as error:
        return str(error)
    return ""


def megamacs(genes: Genes) -> float:
    return SHUFFLE.cost(genes).macs / 1e6


# One constraint -----------------------------------------------------------------------------------


def test_bounds_of_a_space_of_cells() -> None:
    """Spec section 7 by C = 4, N = 1: cells of no parameters at the one end, of 3x3 at the other."""
    low, high = CELLS.cost((0,) * 6).params, CELLS.cost((3,) * 6).params
    found = cost_range(CELLS, "params", static_costs(CELLS), 0)
    assert found == (low, high, None)
    assert refusal(CELLS, Constraint(cost="params", at_most=low)) == ""
    assert refusal(CELLS, Constraint(cost="params", at_least=high)) == ""
    assert refusal(CELLS, Constraint(cost="params", at_most=low - 1)) == (
        f"constraints.0.at_most: {float(low - 1)!r} cannot be used; allowed: {low:,} or more. "
        f"In this space, params: smallest {low:,}, largest {high:,}."
    )
    assert refusal(CELLS, Constraint(cost="macs", at_most=1e9), Constraint(cost="params", at_least=1e9)) == (
        f"constraints.1.at_least: 1000000000.0 cannot be used; allowed: {high:,} or less. "
        f"In this space, params: smallest {low:,}, largest {high:,}."
    )


@pytest.mark.parametrize("cost", ["params", "macs", "activations"])
@pytest.mark.parametrize("space", [CELLS, CHAIN, GRAPHS], ids=["cells", "chain", "graphs"])
def test_ranges_are_those_of_the_whole_space(space: SearchSpace, cost: str) -> None:
    values = [getattr(space.cost(genes), cost) for genes in space.enumerate()]
    assert cost_range(space, cost, static_costs(space), 0) == (min(values), max(values), None)


def test_a_measured_cost_is_sampled_with_the_lightest_and_the_heaviest() -> None:
    low, high = (macs / 1e6 for macs in SHUFFLE.extremes("macs"))
    assert refusal(SHUFFLE, Constraint(cost="latency_ms", at_most=high), latency=megamacs) == ""
    assert refusal(SHUFFLE, Constraint(cost="latency_ms", at_most=0.5), latency=megamacs) == (
        f"constraints.0.at_most: 0.5 cannot be used; allowed: {low:.4g} or more. "
        f"In this space, latency_ms: smallest {low:.4g}, largest {high:.4g} (of 64 sampled)."
    )


def test_a_measured_cost_of_a_small_space_is_exact() -> None:

    def latency(genes: Genes) -> float:
        return 1.5 + genes[0] + genes[2] / 8

    assert refusal(GRAPHS, Constraint(cost="latency_ms", at_most=1), latency=latency) == (
        "constraints.0.at_most: 1.0 cannot be used; allowed: 1.5 or more. "
        "In this space, latency_ms: smallest 1.5, largest 4.375."
    )


def test_measurements_that_fail_meet_nothing() -> None:

    def sometimes(genes: Genes) -> float:
        return float("nan") if genes[0] else 3.0

    def never(genes: Genes) -> float:
        return float("nan")

    slow, quick = Constraint(cost="latency_ms", at_most=4), Constraint(cost="latency_ms", at_most=2)
    assert refusal(GRAPHS, slow, latency=sometimes) == ""
    assert "smallest 3, largest 3" in refusal(GRAPHS, quick, latency=sometimes)
    assert refusal(GRAPHS, slow, latency=never) == (
        "constraints.0.cost: 'latency_ms' cannot be used; allowed: a cost that can be measured. "
        "All 48 tries failed."
    )


def test_an_unknown_cost_is_named() -> None:
    assert refusal(CELLS, Constraint(cost="mac", at_most=1)) == (
        "constraints.0.cost: 'mac' cannot be used; allowed: a cost that is known here: "
        "params, macs, activations. Did you mean 'macs'?"
    )


def test_constraints_without_sense() -> None:
    with refused("at_most", "needs at_most, at_least or both"):
        Constraint(cost="params")
    with refused("at_least", "5.0", "at most 4"):
        Constraint(cost="params", at_most=4, at_least=5)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Constraint(cost="params", at_most=bad)


# Several together ---------------------------------------------------------------------------------


def test_each_alone_but_not_together() -> None:
    """More parameters go with more MACs: few of the ones and many of the others do not exist."""
    params, macs = CELLS.extremes("params"), CELLS.extremes("macs")
    few, many = Constraint(cost="params", at_most=params[0]), Constraint(cost="macs", at_least=macs[1])
    assert refusal(CELLS, few) == refusal(CELLS, many) == ""
    assert refusal(CELLS, few, many) == (
        f"constraints: 'params at most {params[0]}; macs at least {macs[1]}' cannot be used; allowed: "
        "constraints that some candidate meets. None of the 15,625 candidates meets all of them. In this "
        f"space, params: smallest {params[0]:,}, largest {params[1]:,}; "
        f"macs: smallest {macs[0]:,}, largest {macs[1]:,}."
    )


def test_a_gap_inside_the_range_of_one_cost() -> None:
    values = sorted({CELLS.cost(genes).params for genes in CELLS.enumerate()})
    gap = Constraint(cost="params", at_least=values[3] + 1, at_most=values[4] - 1)
    assert "None of the 15,625 candidates meets all" in refusal(CELLS, gap)
    assert refusal(CELLS, Constraint(cost="params", at_least=values[3], at_most=values[4] - 1)) == ""


def test_large_spaces_are_sampled_and_the_words_say_so() -> None:
    low, high = SHUFFLE.extremes("macs")
    gap = Constraint(cost="macs", at_least=low + 1, at_most=low + 2)
    assert refusal(SHUFFLE, gap) == (
        f"constraints: 'macs at least {low + 1} and at most {low + 2}' cannot be used; allowed: constraints "
        "that some candidate meets. None of 10,000 random candidates meets them, nor of 200 that were "
        "changed to. If any does, it is too rare to be drawn. In this space, "
        f"macs: smallest {low:,}, largest {high:,}."
    )
    assert refusal(SHUFFLE, Constraint(cost="macs", at_most=(low + high) / 2)) == ""


def test_only_what_meets_the_known_costs_is_measured() -> None:
    low, high = SHUFFLE.extremes("macs")
    measured = []

    def latency(genes: Genes) -> float:
        measured.append(genes)
        return 1.0 if SHUFFLE.cost(genes).macs <= tight else 9.0

    tight = low + 0.4 * (high - low)
    light, quick = Constraint(cost="macs", at_most=tight), Constraint(cost="latency_ms", at_most=2)
    assert refusal(SHUFFLE, light, quick, latency=latency) == ""
    assert len(measured) < 140


# Draws --------------------------------------------------------------------------------------------


def test_draws_meet_the_constraints_and_costs_are_asked_once() -> None:
    asked: list[Genes] = []

    def costs(genes: Genes) -> dict[str, float]:
        asked.append(genes)
        return {"sum": float(sum(genes))}

    feasible, rng = (
        Feasible((Constraint(cost="sum", at_most=4, at_least=3),), costs),
        counter_random(0, "draws"),
    )
    drawn = [feasible.sample(CHAIN, rng) for _ in range(300)]
    assert {sum(genes) for genes in drawn} == {3, 4}
    assert len(set(drawn)) > 150
    assert len(asked) == len(set(asked)) > len(set(drawn))


def test_draws_end() -> None:
    gap = feasible_of(Constraint(cost="macs", at_least=LOW + 1, at_most=LOW + 2))
    with pytest.raises(UserError, match=r"random candidates meets them, nor of 200 that were changed to\.$"):
        gap.sample(SHUFFLE, counter_random(0, "draws"))
    nothing = Feasible((Constraint(cost="sum", at_most=-1),), lambda genes: {"sum": float(sum(genes))})
    with pytest.raises(UserError, match=r"None of 10,000 random candidates meets them\.$"):
        nothing.sample(CHAIN, counter_random(0, "draws"))


# Rare ---------------------------------------------------------------------------------------------

LOW, HIGH = SHUFFLE.extremes("macs")


def feasible_of(*constraints: Constraint) -> Feasible:
    return Feasible(constraints, static_costs(SHUFFLE))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1])
def test_what_is_rare_can_be_drawn(share: float) -> None:
    """None of 10,000 uniform draws has so few multiply-adds. The smallest candidate alone has `share` 0."""
    tight = Constraint(cost="macs", at_most=LOW + share * (HIGH - LOW))
    assert refusal(SHUFFLE, tight) == ""
    feasible = feasible_of(tight)
    assert feasible.rare(SHUFFLE)
    rng = counter_random(3, "draws")
    drawn = [feasible.sample(SHUFFLE, rng) for _ in range(60)]
    assert all(SHUFFLE.cost(genes).macs <= tight.bounds[1] for genes in drawn)
    assert len(set(drawn)) == 1 if share == 0 else len(set(drawn)) > 40
    rng = counter_random(3, "draws")
    fresh = feasible_of(tight)
    assert [fresh.sample(SHUFFLE, rng) for _ in range(60)] == drawn


def test_the_bound_of_spos_that_was_refused() -> None:
    space = ShuffleNetSpace(ShuffleNetSettings(), Shape(3, 224, 224), 1000)
    assert space.extremes("macs")[0] == 270_359_360
    tight = Constraint(cost="macs", at_most=285e6)
    assert refusal(space, tight) == ""
    settings = RandomSettings(budget=50)
    searcher = settings.build(Problem(space, SCORE, 1, Feasible((tight,), static_costs(space))))
    asked = searcher.ask(50)
    assert len(set(asked)) == 50 and all(space.cost(genes).macs <= 285e6 for genes in asked)


def test_rare_on_two_costs_and_between_bounds() -> None:
    """Of the candidates with few multiply-adds those with many parameters, in a narrow band."""
    params = SHUFFLE.extremes("params")
    band = Constraint(cost="macs", at_least=LOW + 0.05 * (HIGH - LOW), at_most=LOW + 0.1 * (HIGH - LOW))
    light = Constraint(cost="params", at_most=params[0] + 0.15 * (params[1] - params[0]))
    assert refusal(SHUFFLE, band, light) == ""
    feasible = feasible_of(band, light)
    assert feasible.rare(SHUFFLE)
    rng = counter_random(0, "draws")
    for _ in range(30):
        cost = SHUFFLE.cost(feasible.sample(SHUFFLE, rng))
        assert band.bounds[0] <= cost.macs <= band.bounds[1] and cost.params <= light.bounds[1]


def test_where_uniform_draws_do_they_are_as_they_were() -> None:
    feasible = feasible_of(Constraint(cost="macs", at_most=LOW + 0.4 * (HIGH - LOW)))
    assert not feasible.rare(SHUFFLE)
    rng, plain = counter_random(0, "draws"), counter_random(0, "draws")
    kept = (genes for genes in iter(lambda: SHUFFLE.sample(plain), None) if feasible(genes))
    assert [feasible.sample(SHUFFLE, rng) for _ in range(20)] == list(itertools.islice(kept, 20))


def test_beyond_the_extremes_nothing_is_tried() -> None:
    words = refusal(SHUFFLE, Constraint(cost="macs", at_most=LOW - 1))
    assert words.endswith(f"In this space, macs: smallest {LOW:,}, largest {HIGH:,}.")
    assert words.startswith("constraints.0.at_most") and "drawn" not in words


def test_measured_costs_wait() -> None:
    def never(genes: Genes) -> dict[str, float]:
        raise AssertionError("it is measured")

    late, soon = Constraint(cost="latency_ms", at_most=1), Constraint(cost="macs", at_most=LOW)
    check_satisfiable(SHUFFLE, [late, soon], never, 0, measure=False)
    with pytest.raises(UserError, match=r"constraints\.1\.at_most: 1\.0 cannot be used; .* smallest"):
        check_satisfiable(SHUFFLE, [late, Constraint(cost="macs", at_most=1)], never, 0, measure=False)
    with pytest.raises(AssertionError):
        check_satisfiable(SHUFFLE, [late, soon], never, 0)


def test_without_constraints_all_is_feasible() -> None:
    rng, other = counter_random(0, "draws"), counter_random(0, "draws")
    assert [ANYTHING.sample(CHAIN, rng) for _ in range(5)] == [CHAIN.sample(other) for _ in range(5)]
    assert refusal(CHAIN) == ""
