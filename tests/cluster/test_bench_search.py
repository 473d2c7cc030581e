"""Searchers on tables beside random search: the ask / tell order, regrets, bands, report and picture."""

import io
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cluster.bench_search import (
    PICTURE,
    REPORT,
    Contest,
    TableEvaluator,
    bench_search,
    bootstrap,
    queries,
    regret_curve,
    summary,
)
from cluster.ledger import Row
from cluster.search_loop import Phase, SearchLoop
from cluster.table_pool import TablePool
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.constraints import Constraint, Feasible
from searchers.evolution import EvolutionSettings
from searchers.grid import GridSettings
from searchers.local_search import LocalSettings
from searchers.nsga import NsgaSettings
from searchers.problem import Objective, Problem
from searchers.random_search import RandomSettings
from searchers.regularised_evolution import RegularisedEvolutionSettings
from searchers.searcher import Evaluation
from tests.searchers.toys import CHAIN, SCORE, separable
from trainers.table import Table

GENES = list(CHAIN.enumerate())
TARGET = separable(CHAIN, 1)
# Told early, and what it is judged by in the end: alike, not the same.
EARLY = {genes: TARGET(genes) + 0.5 * math.sin(31 * i) for i, genes in enumerate(GENES)}
TABLE = Table(CHAIN, GENES, {"score": [TARGET(g) for g in GENES], "early": [EARLY[g] for g in GENES]})
TOP = max(map(TARGET, GENES))


def contest(table: Table = TABLE, chosen: str = "score", **changes: Any) -> Contest:
    return Contest(table, Objective(metric=chosen), *SCORE, **changes)


def run(folder: Path, contest: Contest, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"seeds": 6, "budget": 60, "console": Console(file=io.StringIO())}
    settings = LocalSettings(budget=60, starts=5)
    return bench_search(contest, settings, folder=folder, **{**options, **changes})


class Noted:
    """Notes asks and tells."""

    def __init__(self, total: int) -> None:
        self.left, self.notes = GENES[:total], list[str]()

    @property
    def finished(self) -> bool:
        return not self.left

    def ask(self, n: int) -> list[Genes]:
        given, self.left = self.left[:n], self.left[n:]
        self.notes += [f"ask {GENES.index(genes)}" for genes in given]
        return given

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.notes += [f"tell {GENES.index(one.candidate.genes)}" for one in evaluations]

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        pass


def test_ask_i_comes_after_the_tells_up_to_i_less_in_flight() -> None:
    noted = Noted(5)
    assert list(queries(noted, TableEvaluator(TABLE, ["score"]), in_flight=3)) == GENES[:5]
    assert noted.notes == [
        "ask 0", "ask 1", "ask 2", "tell 0", "ask 3", "tell 1", "ask 4", "tell 2", "tell 3", "tell 4",
    ]  # fmt: skip


def test_a_round_is_asked_for_after_whole_rounds_were_told() -> None:
    noted = Noted(7)
    asked = list(queries(noted, TableEvaluator(TABLE, ["score"]), in_flight=4, round_size=2))
    assert asked == GENES[:7]
    assert noted.notes == [
        "ask 0", "ask 1", "ask 2", "ask 3", "tell 0", "tell 1", "ask 4", "ask 5", "tell 2", "tell 3", "ask 6",
        "tell 4", "tell 5", "tell 6",
    ]  # fmt: skip


SEARCHERS: dict[str, Any] = {
    "random": RandomSettings(budget=90),
    "local": LocalSettings(budget=90, starts=4),
    "regularised_evolution": RegularisedEvolutionSettings(budget=90, population=20, sample=5),
    "evolution": EvolutionSettings(
        population=20, generations=4, parents=5, mutants=8, crossovers=8, probability=0.2
    ),
    "nsga": NsgaSettings(population=16, generations=5),
}


@pytest.mark.parametrize(("round_size", "in_flight"), [(1, 1), (1, 8), (7, 7), (5, 15), (25, 25), (25, 50)])
@pytest.mark.parametrize("name", SEARCHERS)
def test_a_bench_asks_for_what_the_search_asks_for(name: str, round_size: int, in_flight: int) -> None:
    """The same searcher and problem on the same table: driven by the bench, and by a search's loop."""
    settings, here = SEARCHERS[name], contest(others=(Objective(metric="macs", maximise=False),))
    benched = list(queries(settings.build(here.problem(5)), here.evaluator(), in_flight, round_size))
    rows: list[Row] = []
    loop = SearchLoop(
        "bench", CHAIN, [Phase("search", settings.build(here.problem(5)))], rows.extend,
        round_size=round_size, rounds_in_flight=in_flight // round_size, needed=("score",),
    )  # fmt: skip
    pool = TablePool(TABLE, ("score",))
    while not loop.finished:
        loop.advance(pool)
    assert len(benched) > 50
    assert benched == [row.candidate.genes for row in rows]


def test_a_bench_tells_what_is_known_to_the_searcher_alone(tmp_path: Path) -> None:
    best = max(GENES, key=TARGET)
    known = [TableEvaluator(TABLE, ["score"])(genes) for genes in [best, *GENES[:5]]]
    plain, warm = (run(tmp_path, contest(known=some), seeds=2, budget=20)["methods"] for some in ((), known))
    assert warm["random"]["mean"] == plain["random"]["mean"]
    assert warm["local"]["mean"] != plain["local"]["mean"]


def test_what_a_table_lacks_is_a_failed_evaluation() -> None:
    table = Table(CHAIN, GENES[:2], {"a": [1.0, math.nan], "b": [2.0, 3.0]})
    both = TableEvaluator(table, ["a", "b"])
    assert both(GENES[0]).metrics == {"a": 1.0, "b": 2.0, **CHAIN.cost(GENES[0])._asdict()}
    assert both(GENES[0]).status == "ok"
    assert both(GENES[1]).status == "failed" and "no a" in both(GENES[1]).reason
    assert both(GENES[2]).status == "failed" and "does not hold" in both(GENES[2]).reason
    assert TableEvaluator(table, ["b"])(GENES[1]).status == "ok"
    with pytest.raises(UserError, match="allowed: a, b"):
        TableEvaluator(table, ["c"])


def test_a_regret_curve_tells_the_reported_value_of_the_chosen() -> None:
    """The grid's order is known, so the curve can be worked out by hand."""
    here = contest(chosen="early")
    grid = GridSettings().build(Problem(CHAIN, (here.objective,), 0))
    curve = regret_curve(grid, here, here.evaluator(), budget=40, in_flight=4)
    chosen = [max(GENES[: i + 1], key=EARLY.__getitem__) for i in range(40)]
    assert curve.tolist() == [TARGET(genes) for genes in chosen]
    assert (np.diff(curve) < 0).any(), "a better early score may be worse in the end"


def test_a_searcher_that_ends_early_keeps_what_it_has() -> None:
    table = Table(CHAIN, GENES[2:4], {"score": [1.0, 2.0]})
    here = Contest(table, *SCORE, *SCORE)
    feasible = Feasible((Constraint(cost="place", at_most=4),), lambda genes: {"place": GENES.index(genes)})
    grid = GridSettings().build(Problem(CHAIN, SCORE, 0, feasible))
    curve = regret_curve(grid, here, here.evaluator(), budget=8, in_flight=1)
    assert np.isnan(curve[:2]).all() and curve[2:].tolist() == [1, 2, 2, 2, 2, 2]


def test_the_report(tmp_path: Path) -> None:
    found = run(tmp_path, contest())
    assert json.loads((tmp_path / REPORT).read_text()) == found
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert list(found["methods"]) == ["local", "random"]
    assert found["optimum"] == TOP and found["candidates"] == 6561
    local, drawn = (found["methods"][name] for name in ("local", "random"))
    for one in (local, drawn):
        assert len(one["mean"]) == 60 and np.diff(one["mean"]).max() <= 0
        assert all(
            low <= mean <= high for low, mean, high in zip(one["low"], one["mean"], one["high"], strict=True)
        )
        assert one["at"]["25"] == one["mean"][24] and list(one["at"]) == ["10", "25", "50", "60"]
    assert local["high"][-1] < drawn["low"][-1], "local search is better on a separable score"
    again = run(tmp_path / "again", contest())
    same = ["mean", "low", "high", "at", "found", "evaluations_to_optimum"]
    assert [again["methods"]["local"][key] for key in same] == [local[key] for key in same]
    assert (tmp_path / "again" / PICTURE).read_bytes() == (tmp_path / PICTURE).read_bytes()


def test_regret_is_against_what_the_constraints_allow(tmp_path: Path) -> None:
    feasible = Feasible((Constraint(cost="first", at_most=0),), lambda genes: {"first": genes[0]})
    found = run(tmp_path, contest(feasible=feasible), seeds=2)
    assert found["optimum"] == max(TARGET(genes) for genes in GENES if genes[0] == 0) < TOP
    assert min(found["methods"]["local"]["mean"]) >= 0
    nothing = Feasible((Constraint(cost="first", at_most=-1),), lambda genes: {"first": genes[0]})
    with pytest.raises(UserError, match="feasible"):
        run(tmp_path, contest(feasible=nothing))


def test_a_metric_that_should_be_small(tmp_path: Path) -> None:
    table = Table(CHAIN, GENES, {"loss": [-TARGET(genes) for genes in GENES]})
    loss = Objective(metric="loss", maximise=False)
    small, large = (run(tmp_path, one) for one in (Contest(table, loss, loss), contest()))
    assert small["optimum"] == -TOP
    assert small["methods"]["local"]["mean"] == large["methods"]["local"]["mean"]


def test_nothing_found_yet_counts_as_the_worst(tmp_path: Path) -> None:
    """Half of the candidates are not in the table."""
    table = Table(CHAIN, GENES[::2], {"score": [TARGET(genes) for genes in GENES[::2]]})
    values = [TARGET(genes) for genes in GENES[::2]]
    seeds = 20
    found = run(tmp_path, contest(table), seeds=seeds, budget=10)
    firsts = [RandomSettings(budget=10).build(Problem(CHAIN, SCORE, seed)).ask(1)[0] for seed in range(seeds)]
    assert any(genes not in table for genes in firsts)
    expected = [max(values) - (TARGET(g) if g in table else min(values)) for g in firsts]
    assert found["methods"]["random"]["mean"][0] == pytest.approx(np.mean(expected))


def test_summary_in_figures() -> None:
    regrets = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    assert summary(regrets)["found"] == 1 and summary(regrets)["evaluations_to_optimum"] == 2.5
    assert (
        summary(regrets[:, :2])["found"] == 0.5 and summary(regrets[:, :2])["evaluations_to_optimum"] is None
    )


def test_the_band_covers_the_mean_as_often_as_it_says() -> None:
    """Of many samples of 60 exponential draws, some 95 % have the true mean in their band."""
    draws = np.random.default_rng(5).exponential(1.0, (60, 2000))
    low, high = bootstrap(draws)
    assert 0.91 < ((low < 1) & (high > 1)).mean() < 0.97


def test_progress_is_told_in_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.bench_search.PLAIN_EVERY", 0.0)
    seen = io.StringIO()
    run(tmp_path, contest(), seeds=2, budget=10, console=Console(file=seen, width=200))
    lines = seen.getvalue().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4", "4/4"]
    assert "local: mean regret" in lines[0] and lines[0].endswith("left")
    assert "random: mean regret" in lines[-1] and lines[-1].endswith("taken")


def test_a_terminal_gets_a_live_line(tmp_path: Path) -> None:
    seen = io.StringIO()
    run(tmp_path, contest(), seeds=1, budget=5, console=Console(file=seen, width=100, force_terminal=True))
    assert "2/2 runs" in seen.getvalue() and "taken" in seen.getvalue()


def test_the_order_of_seeds_is_that_of_the_first(tmp_path: Path) -> None:
    """Seeds 3 and 4 in one call are what they are in two."""
    both, *ones = (
        run(tmp_path, contest(), seeds=count, first_seed=first, budget=20)["methods"]["local"]["mean"]
        for count, first in ((2, 3), (1, 3), (1, 4))
    )
    assert both == pytest.approx([(a + b) / 2 for a, b in itertools.zip_longest(*ones)])
