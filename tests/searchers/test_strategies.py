"""What every searcher keeps: the protocol, the visited set, the constraints, the budget, the warm start."""

import json
from collections import Counter
from functools import partial
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.space import Genes, SearchSpace
from searchers.constraints import Constraint, Feasible, static_costs
from searchers.problem import Objective, Problem
from searchers.searcher import Candidate, Evaluation, Searcher
from searchers.settings import SearcherSettings
from searchers.testing import check_searcher, check_visits
from tests.searchers.toys import CELLS, CHAIN, GRAPHS, SCORE, SHUFFLE, drive, evaluation, separable

# Small populations, so that even short runs breed.
KINDS: dict[str, dict[str, Any]] = {
    "grid": {},
    "random": {"budget": 90},
    "local first": {"budget": 90, "starts": 4, "improvement": "first"},
    "local best": {"budget": 90, "starts": 1, "improvement": "best"},
    "regularised_evolution": {"budget": 90, "population": 9, "sample": 3},
    "evolution": {"population": 12, "generations": 7, "parents": 4, "mutants": 5, "crossovers": 5},
    "model_based": {"budget": 40},
    "nsga": {"population": 12, "generations": 7},
}
READER: TypeAdapter[Any] = TypeAdapter(SearcherSettings)
SMALL = pytest.mark.parametrize("space", [CHAIN, GRAPHS], ids=["chain", "graphs"])
EVERY = pytest.mark.parametrize("name", KINDS)


def build(name: str, problem: Problem, **changes: Any) -> Searcher:
    settings = READER.validate_python({"kind": name.split()[0], **KINDS[name], **changes})
    searcher = settings.build(problem)
    assert isinstance(searcher, Searcher)
    return searcher


OBJECTIVES = (*SCORE, Objective(metric="sum", maximise=False))


def score(genes: Genes) -> float:
    """Bumpy, so that there are local optima."""
    return sum(genes) / 10 + counter_random(7, "bumps", *genes).random()


def half() -> Feasible:
    """About half of any space, by a cost of each candidate that is drawn."""
    return Feasible(
        (Constraint(cost="drawn", at_most=0.5),),
        lambda genes: {"drawn": counter_random(3, "cost", *genes).random()},
    )


@EVERY
@SMALL
def test_every_searcher_keeps_the_protocol(name: str, space: SearchSpace) -> None:
    check_searcher(lambda: build(name, Problem(space, OBJECTIVES, 1)), space, score, limit=70)


@EVERY
@SMALL
def test_none_asks_twice_or_against_a_constraint(name: str, space: SearchSpace) -> None:
    feasible = half()
    check_visits(lambda: build(name, Problem(space, OBJECTIVES, 2)), space, score, limit=100)
    make = partial(build, name, Problem(space, OBJECTIVES, 2, feasible))
    check_visits(make, space, score, feasible, limit=100)


@EVERY
def test_a_space_is_searched_to_its_last_candidate(name: str) -> None:
    """With budgets that are far beyond the 48 candidates, half of which are feasible."""
    feasible = half()
    changes = {"budget": 10_000} if "budget" in KINDS[name] else {"generations": 1000} if KINDS[name] else {}
    asked = drive(build(name, Problem(GRAPHS, SCORE, 0, feasible), **changes), score)
    assert sorted(asked) == [genes for genes in GRAPHS.enumerate() if feasible(genes)]
    assert len(asked) < GRAPHS.size == 48


@EVERY
def test_budgets_are_kept(name: str) -> None:
    settings = KINDS[name]
    budget = settings.get("budget", settings.get("population", 1) * settings.get("generations", CHAIN.size))
    if name != "grid":
        searcher = build(name, Problem(CHAIN, SCORE, 3))
        assert len(drive(searcher, score)) == budget
        assert searcher.finished
        assert searcher.ask(5) == []


@EVERY
def test_asks_do_not_depend_on_how_they_are_cut(name: str) -> None:
    whole, cut = (build(name, Problem(CHAIN, OBJECTIVES, 6)) for _ in range(2))
    for ask in range(12):
        genes = whole.ask(7)
        assert [one for n in (1, 2, 1, 3) for one in cut.ask(n)] == genes
        for searcher in (whole, cut):
            searcher.tell([evaluation(one, ask, score=score(one), sum=0.0) for one in genes])


@EVERY
def test_a_seed_gives_its_own_search(name: str) -> None:
    """S9. The grid has no seed."""
    first, again, other = (
        drive(build(name, Problem(CHAIN, SCORE, seed)), score, limit=60) for seed in (4, 4, 5)
    )
    assert first == again
    assert (first == other) == (name == "grid")


@EVERY
def test_nothing_feasible_is_a_users_error(name: str) -> None:
    nothing = Feasible((Constraint(cost="params", at_most=1),), static_costs(GRAPHS))
    if name == "grid":
        assert build(name, Problem(GRAPHS, SCORE, 0, nothing)).finished
        return
    with pytest.raises(UserError) as caught:
        build(name, Problem(GRAPHS, SCORE, 0, nothing)).ask(1)
    assert str(caught.value) == (
        "constraints: 'params at most 1' cannot be used; allowed: constraints that some candidate meets. "
        "No candidate meets them."
    )


@EVERY
def test_a_warm_start_is_used(name: str) -> None:
    """The best of the space is known: a searcher that learns asks near it, and never for it."""
    best = max(CHAIN.enumerate(), key=separable(CHAIN, 0))
    known = [best, *(CHAIN.sample(counter_random(1, "known", i)) for i in range(12))]
    searcher = build(name, Problem(CHAIN, SCORE, 0))
    searcher.tell([evaluation(genes, i, score=separable(CHAIN, 0)(genes)) for i, genes in enumerate(known)])
    asked = drive(searcher, separable(CHAIN, 0), limit=70)
    assert not set(asked) & set(known)
    near = sum(sum(map(int.__ne__, genes, best)) == 1 for genes in asked)
    if name not in ("grid", "random"):
        assert near >= 3, "one of 410 candidates is as near as this"


@EVERY
def test_a_warm_start_of_another_space_is_refused(name: str) -> None:
    if name != "grid":
        with pytest.raises(UserError, match="8 genes"):
            build(name, Problem(CHAIN, SCORE, 0)).tell([evaluation((1, 2), score=1.0)])


@EVERY
def test_a_warm_start_that_breaks_a_constraint_is_no_parent(name: str) -> None:
    """Its score is far above all others, its neighbours are feasible, and scores lead away from them."""
    heavy = (2,) * 8
    feasible = Feasible((Constraint(cost="sum", at_most=15),), lambda genes: {"sum": float(sum(genes))})
    searcher = build(name, Problem(CHAIN, SCORE, 0, feasible))
    searcher.tell([evaluation(heavy, score=1e9)])
    asked = drive(searcher, lambda genes: -float(sum(genes)), limit=80)
    assert not [genes for genes in asked if sum(map(int.__ne__, genes, heavy)) <= 1]


@EVERY
def test_what_is_told_again_changes_nothing(name: str) -> None:
    searcher = build(name, Problem(CHAIN, SCORE, 0))
    asked = drive(searcher, score, limit=30)
    state = json.dumps(searcher.state_dict())
    searcher.tell([evaluation(genes, ask, score=1e9) for ask, genes in enumerate(asked)])
    assert json.dumps(searcher.state_dict()) == state


@EVERY
def test_a_state_of_another_space_is_refused(name: str) -> None:
    searcher = build(name, Problem(CHAIN, SCORE, 0))
    drive(searcher, score, limit=60)
    with pytest.raises(UserError, match="another space"):
        build(name, Problem(GRAPHS, SCORE, 0)).load_state_dict(searcher.state_dict())


@EVERY
def test_states_are_strict_json_also_with_failures(name: str) -> None:
    searcher = build(name, Problem(CHAIN, OBJECTIVES, 0))
    for ask in range(30):
        for genes in searcher.ask(1):
            one = evaluation(genes, ask, score=float("nan") if ask % 3 else 1.0, sum=0.0)
            searcher.tell([one.model_copy(update={"status": "failed"}) if ask % 2 else one])
    state = json.loads(json.dumps(searcher.state_dict(), allow_nan=False))
    loaded = build(name, Problem(CHAIN, OBJECTIVES, 0))
    loaded.load_state_dict(state)
    assert loaded.state_dict() == searcher.state_dict()


@pytest.mark.parametrize("name", ["random", "local first", "evolution", "nsga", "regularised_evolution"])
def test_waiting_ends_with_the_tells(name: str) -> None:
    """All that can be asked without a score is asked at once, and then nothing, until scores come."""
    searcher = build(name, Problem(CHAIN, SCORE, 0))
    first = searcher.ask(1000)
    expected = {"random": 90, "local first": 4, "evolution": 12, "nsga": 12, "regularised_evolution": 9}
    assert len(first) == expected[name]
    assert searcher.ask(1000) == []
    assert searcher.finished == (name == "random")
    searcher.tell([evaluation(genes, ask, score=score(genes)) for ask, genes in enumerate(first)])
    assert bool(searcher.ask(1)) == (name != "random")


def test_large_spaces_need_no_list() -> None:
    """4^20 candidates."""
    for name in KINDS:
        if name == "grid":
            with pytest.raises(UserError, match=r"This one has 1,099,511,627,776\.$"):
                build(name, Problem(SHUFFLE, SCORE, 0))
        else:
            assert len(drive(build(name, Problem(SHUFFLE, SCORE, 0)), separable(SHUFFLE, 0), limit=20)) == 20


def test_random_search_is_uniform() -> None:
    """Chi-square of the values of each gene over 60 seeds x 50 asks: 16 degrees of freedom, p > 1e-4."""
    counts = Counter(
        pair
        for seed in range(60)
        for genes in build("random", Problem(CHAIN, SCORE, seed)).ask(50)
        for pair in enumerate(genes)
    )
    assert len(counts) == 24
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 46.6


# Settings and objectives --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "randm", "budget": 3}, "'randm'"),
        ({"kind": "random"}, "budget"),
        ({"kind": "random", "budget": 0}, "greater than or equal to 1"),
        ({"kind": "local", "budget": 3, "improvement": "some"}, "'first' or 'best'"),
        ({"kind": "evolution", "mutants": 26}, "mutants: 26 cannot be used; allowed: at most 25"),
        ({"kind": "nsga", "mutants": 3}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        READER.validate_python(settings)


def test_defaults_are_the_published_ones() -> None:
    evolution = READER.validate_python({"kind": "evolution"})
    assert evolution.model_dump() == {
        "kind": "evolution", "population": 50, "generations": 20, "parents": 10, "mutants": 25,
        "crossovers": 25, "probability": 0.1,
    }  # fmt: skip
    regularised = READER.validate_python({"kind": "regularised_evolution", "budget": 7})
    assert (regularised.population, regularised.sample) == (50, 10)


@pytest.mark.parametrize(
    ("status", "metrics", "up", "down"),
    [
        ("ok", {"loss": 0.25}, 0.25, -0.25),
        ("stopped", {"loss": 0.25}, 0.25, -0.25),
        ("failed", {"loss": 0.25}, -float("inf"), -float("inf")),
        ("ok", {"loss": float("nan")}, -float("inf"), -float("inf")),
        ("ok", {"loss": float("inf")}, -float("inf"), -float("inf")),
        ("ok", {"loss": -float("inf")}, -float("inf"), -float("inf")),
        ("ok", {"other": 1.0}, -float("inf"), -float("inf")),
    ],
)
def test_objectives(status: Any, metrics: dict[str, float], up: float, down: float) -> None:
    candidate = Candidate.of("test", "space", (0,), 0)
    one = Evaluation(candidate=candidate, status=status, metrics=metrics)
    assert Objective(metric="loss").value(one) == up
    assert Objective(metric="loss", maximise=False).value(one) == down


def test_the_cells_are_a_space_as_others_are() -> None:
    assert len(drive(build("evolution", Problem(CELLS, SCORE, 0)), separable(CELLS, 0))) == 84
