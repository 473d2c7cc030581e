"""A search recipe made concrete: what is known to be wrong before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cluster.search_plan
from cluster.search_plan import LatencyBook, SearchPlan
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.constraints import Constraint
from tests.cluster.choices import TINY, chain_space, tiny_recipe, write_table
from trainers.data import DataSettings, open_data

SPACE = chain_space()
SOME = [genes for genes in SPACE.enumerate() if sum(genes) < 3]


@pytest.fixture
def known(tmp_path: Path) -> str:
    """A table of a few candidates, one of them without a truth."""
    columns = {"known": lambda genes: sum(genes), "truth": lambda genes: "" if genes == SOME[0] else 1.0}
    return str(write_table(tmp_path / "known.csv", columns, SOME))


def table(path: str, *names: str) -> dict[str, Any]:
    return {
        "score": {"kind": "table", "path": path, "names": list(names), "image": [1, 8, 8]},
        "data": None,
        "supernet": None,
    }


NET = TINY["supernet"]
SLIM: dict[str, Any] = {"supernet": None}
SHUFFLE = {"kind": "spos_shufflenet"}
LOW, HIGH = SPACE.extremes("macs")
WIDTH = HIGH - LOW


def computed(name: str, batch_size: int) -> dict[str, Any]:
    return {"kind": "computed", "names": [name], "batch_size": batch_size}


def plain(settings: DataSettings) -> SimpleNamespace:
    """A user's data whose labels cannot be replaced."""
    data = open_data(DataSettings(name="digits", limit=160))
    names = ("image", "classes", "sizes", "digest", "to", "steps_per_epoch", "train_batch", "batches")
    return SimpleNamespace(**{name: getattr(data, name) for name in names})


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (lambda known: table(known, "konwn"), "score.names", "Did you mean 'known'?"),
        (lambda known: table("no.csv", "known"), "score.path", "a file that exists"),
        (
            lambda known: {"ranking": {"table": known, "truth": "trut", "scores": ["params"]}},
            "ranking.truth",
            "Did you mean 'truth'?",
        ),
        (
            lambda known: {"ranking": {"table": "no.csv", "truth": "truth", "scores": ["params"]}},
            "ranking.table",
            "a file that exists",
        ),
        (
            lambda known: {"warm_start": {"path": known}},
            "warm_start.path",
            "a table with a column for each objective: accuracy. It has known, truth.",
        ),
        (lambda known: {"warm_start": {"path": "no.csv"}}, "warm_start.path", "a file that exists"),
        (
            lambda known: {"constraints": [{"cost": "params", "at_most": 10}]},
            "constraints.0.at_most",
            "In this space, params: smallest",
        ),
        (
            lambda known: {"constraints": [{"cost": "parms", "at_most": 10}]},
            "constraints.0.cost",
            "Did you mean 'params'?",
        ),
        (
            lambda known: {
                "constraints": [
                    {"cost": "params", "at_most": SPACE.extremes("params")[0]},
                    {"cost": "macs", "at_least": SPACE.extremes("macs")[1]},
                ]
            },
            "constraints",
            "None of the 6,561 candidates meets all of them",
        ),
        (lambda known: {"supernet": {"batch_size": 500}}, "supernet.batch_size", "1 to 128"),
        (lambda known: {"supernet": {**NET, "precision": "mixed"}}, "supernet.precision", "on a CPU"),
        (
            lambda known: {"supernet": {**NET, "labels": "random"}, "data": {"name": f"{__name__}:plain"}},
            "supernet.labels",
            "It cannot be given other labels",
        ),
        (
            lambda known: {"space": SHUFFLE, "searcher": {"kind": "grid"}},
            "searcher",
            "spaces of at most 1,000,000 candidates. This one has 1,099,511,627,776.",
        ),
        (
            lambda known: {"supernet": {**NET, "mac_bins": {"low": 1, "high": 1000, "bins": 2}}},
            "supernet.mac_bins",
            "In this space, macs: smallest {:,}, largest {:,}.".format(*SPACE.extremes("macs")),
        ),
        (
            lambda known: {"supernet": {**NET, "mac_bins": {"low": LOW, "high": LOW + 99 * WIDTH}}},
            "supernet.mac_bins",
            "bins with a path in each",
        ),
        (lambda known: SLIM | {"score": computed("zico", 65)}, "score.batch_size", "at most 64"),
        (lambda known: {"score": computed("accuracy", 129)}, "score.batch_size", "1 to 128"),
        (lambda known: {"score": computed("angle", 129)}, "score.batch_size", "1 to 128"),
        (
            lambda known: {
                "score": computed("accuracy", 65),
                "ranking": {"table": known, "truth": "truth", "scores": ["zico"]},
            },
            "score.batch_size",
            "zico compares 2 batches of different images",
        ),
        (
            lambda known: {"searcher": {"kind": "random", "budget": 2001}},
            "tracking.runs",
            "This search has up to 2001",
        ),
        (
            lambda known: {"searcher": {"kind": "local", "budget": 1001}},
            "tracking.runs",
            "This search has up to 2002",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_searched(
    tmp_path: Path, known: str, changes: Callable[[str], dict[str, Any]], field: str, words: str
) -> None:
    recipe = tiny_recipe(tmp_path / "runs", **changes(known))
    with pytest.raises(UserError) as caught:
        SearchPlan.of(recipe)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_scores_that_the_space_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trainers.scores.naswot.Naswot.supports", lambda self, space: space.kind != "small_chain"
    )
    score = {"kind": "computed", "names": ["accuracy", "naswot"]}
    with pytest.raises(UserError, match="in spaces of the kinds nasbench201, spos_shufflenet") as caught:
        SearchPlan.of(tiny_recipe(tmp_path, score=score))
    assert caught.value.field == "score.names.1"
    ranking = {"table": "none.csv", "truth": "c10", "scores": ["naswot"]}
    with pytest.raises(UserError) as caught:
        SearchPlan.of(tiny_recipe(tmp_path, ranking=ranking))
    assert caught.value.field == "ranking.scores.0"


@pytest.mark.parametrize(
    ("searcher", "planned"),
    [
        ({"kind": "random", "budget": 7}, 7),
        ({"kind": "local", "budget": 7}, 14),
        (TINY["searcher"], 24),
        ({"kind": "nsga", "population": 4, "generations": 3}, 24),
        ({"kind": "grid"}, 6561),
        ({"kind": "random", "budget": 10_000}, 6561),
    ],
)
def test_how_many_are_planned(tmp_path: Path, searcher: dict[str, Any], planned: int) -> None:
    recipe = tiny_recipe(tmp_path, searcher=searcher, tracking={"runs": "frontier"})
    plan = SearchPlan.of(recipe)
    assert plan.planned_asks == planned
    assert plan.size_text == f"up to {planned:,} candidates of 6,561"


def test_a_job_can_be_built_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    np.savez("set.npz", x_train=draws.integers(0, 255, (80, 8, 8, 1), np.uint8), y_train=np.arange(80) % 10)
    data = {"name": "npz", "path": "set.npz"}
    job = SearchPlan.of(tiny_recipe(tmp_path, data=data)).job(("params",))
    assert job.data.path == (tmp_path / "set.npz",)
    assert (job.device, job.seed, job.scoring.names, job.scoring.batch_size) == ("cpu", 0, ("params",), 64)


def test_only_candidates_of_known_truth_are_ranked(tmp_path: Path, known: str) -> None:
    def genes_of(cells: int) -> list[Genes]:
        ranking = {"table": known, "truth": "truth", "scores": ["params"], "cells": cells}
        searcher = SearchPlan.of(tiny_recipe(tmp_path, ranking=ranking)).ranked().searcher
        return searcher.ask(100)

    assert sorted(genes_of(1000)) == sorted(SOME)[1:]
    assert len(set(genes_of(10))) == 10
    assert genes_of(10) == genes_of(10)


def test_the_baseline_draws_otherwise_than_the_search(tmp_path: Path) -> None:
    search, random = SearchPlan.of(tiny_recipe(tmp_path)).phases()
    assert (search.name, random.name) == ("search", "random")
    first, second = search.searcher.ask(6), random.searcher.ask(6)
    assert first != second
    assert len(random.searcher.ask(100)) == 6
    assert random.searcher.finished


def test_a_warm_start_tells_metrics_and_costs(tmp_path: Path, known: str) -> None:
    recipe = tiny_recipe(tmp_path, **table(known, "known"), warm_start={"path": known})
    found = SearchPlan.of(recipe).known
    assert [one.candidate.genes for one in found] == sorted(SOME)
    for one in found:
        genes = one.candidate.genes
        assert one.metrics == {"known": sum(genes), **SPACE.cost(genes)._asdict()}
        assert one.candidate.phase == "warm_start"


# Latency ---------------------------------------------------------------------------------------------------


def test_a_latency_is_measured_once(tmp_path: Path) -> None:
    asked: list[Genes] = []

    def measure(genes: Genes) -> float:
        asked.append(genes)
        return 1.5 * len(asked)

    book = LatencyBook(tmp_path / "latencies.json")
    assert [book.look_up(genes, measure) for genes in ((0, 1), (1, 1), (0, 1))] == [1.5, 3.0, 1.5]
    assert not (tmp_path / "latencies.json").exists()
    book.flush()
    written = (tmp_path / "latencies.json").stat().st_mtime_ns
    book.look_up((0, 1), measure)
    book.flush()
    assert (tmp_path / "latencies.json").stat().st_mtime_ns == written, "there was nothing new"
    again = LatencyBook(tmp_path / "latencies.json")
    assert [again.look_up(genes, measure) for genes in ((1, 1), (0, 1), (2, 1))] == [3.0, 1.5, 4.5]
    again.flush()
    assert asked == [(0, 1), (1, 1), (2, 1)]
    assert json.loads((tmp_path / "latencies.json").read_text()) == [
        [[0, 1], 1.5],
        [[1, 1], 3.0],
        [[2, 1], 4.5],
    ]
    assert LatencyBook(None).look_up((0, 1), measure) == 6.0


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"constraints": [{"cost": "params", "at_most": 9000}]}, False),
        ({"constraints": [{"cost": "latency_ms", "at_most": 1e6}]}, True),
        ({"objectives": [{"metric": "accuracy"}, {"metric": "latency_ms", "maximise": False}]}, True),
    ],
)
def test_latency_is_measured_only_where_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], needed: bool
) -> None:
    monkeypatch.setattr(cluster.search_plan, "latency_ms", lambda network, image, device: 2.0)
    plan = SearchPlan.of(tiny_recipe(tmp_path, **changes))
    assert plan.recipe.needs_latency == plan.measures == needed
    genes = SOME[1]
    assert plan.measured(genes) == ({"latency_ms": 2.0} if needed else {})
    assert plan.costs(genes) == {**SPACE.cost(genes)._asdict(), **plan.measured(genes)}


def test_a_real_latency_is_a_time(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, objectives=[{"metric": "accuracy"}, {"metric": "latency_ms"}])
    plan = SearchPlan.of(recipe)
    assert 0 < plan.measured((2,) * 8)["latency_ms"] < 10_000


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> float:
        raise AssertionError("nothing is measured here")

    monkeypatch.setattr(cluster.search_plan, "latency_ms", never)
    monkeypatch.setattr(cluster.search_plan, "trial_device", never)


def warm(folder: Path) -> dict[str, Any]:
    return {"warm_start": {"path": str(write_table(folder / "warm.csv", {"accuracy": sum}, SOME))}}


def test_a_plan_is_made_without_measuring(tmp_path: Path, no_measuring: None) -> None:
    """It is made where the search is driven, which may have another device, or none."""
    objectives = [{"metric": "accuracy"}, {"metric": "latency_ms", "maximise": False}]
    constraints = [{"cost": "latency_ms", "at_most": 1e-9}, {"cost": "macs", "at_most": LOW + WIDTH / 2}]
    recipe = tiny_recipe(tmp_path, objectives=objectives, constraints=constraints, **warm(tmp_path))
    plan = SearchPlan.of(recipe)
    with pytest.raises(AssertionError, match="nothing is measured here"):
        plan.check_measured()
    tight = recipe.model_copy(update={"constraints": (Constraint(cost="macs", at_most=LOW - 1),)})
    with pytest.raises(UserError, match="In this space, macs: smallest"):
        SearchPlan.of(tight)
    SearchPlan.of(tiny_recipe(tmp_path, constraints=constraints[1:], **warm(tmp_path))).check_measured()


def test_a_measured_constraint_that_nothing_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.search_plan, "latency_ms", lambda network, image, device: 2.0)
    plan = SearchPlan.of(tiny_recipe(tmp_path, constraints=[{"cost": "latency_ms", "at_most": 1.0}]))
    with pytest.raises(UserError, match="In this space, latency_ms: smallest 2, largest 2") as caught:
        plan.check_measured()
    assert caught.value.field == "constraints.0.at_most"


def test_a_warm_start_is_measured_only_where_latency_counts(tmp_path: Path, no_measuring: None) -> None:
    plan = SearchPlan.of(tiny_recipe(tmp_path, **warm(tmp_path)))
    assert len(plan.phases()) == 2 and len(plan.known) == len(SOME)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The latencies measured so far: 2 ms each."""
    found: list[float] = []

    def measure(network: object, image: object, device: str) -> float:
        found.append(2.0)
        return found[-1]

    monkeypatch.setattr(cluster.search_plan, "latency_ms", measure)
    return found


def test_of_a_warm_start_only_what_counts_is_measured(tmp_path: Path, measured: list[float]) -> None:
    limit = sorted(SPACE.cost(genes).macs for genes in SOME)[len(SOME) // 3]
    light = {genes for genes in SOME if SPACE.cost(genes).macs <= limit}
    bounds = [{"cost": "macs", "at_most": limit}, {"cost": "latency_ms", "at_most": 3.0}]
    SearchPlan.of(tiny_recipe(tmp_path, constraints=bounds[1:], **warm(tmp_path))).known  # noqa: B018
    assert not measured, "the searcher asks for what it needs"
    objectives = [{"metric": "accuracy"}, {"metric": "latency_ms", "maximise": False}]
    recipe = tiny_recipe(tmp_path, constraints=bounds[:1], objectives=objectives, **warm(tmp_path))
    for one in SearchPlan.of(recipe).known:
        assert ("latency_ms" in one.metrics) == (one.candidate.genes in light)
    assert 0 < len(measured) == len(light) < len(SOME)


def test_only_what_meets_the_static_constraints_is_measured(tmp_path: Path, measured: list[float]) -> None:
    limit = sorted(SPACE.cost(genes).macs for genes in SOME)[len(SOME) // 3]
    constraints = [{"cost": "latency_ms", "at_most": 3.0}, {"cost": "macs", "at_most": limit}]
    feasible = SearchPlan.of(tiny_recipe(tmp_path, constraints=constraints)).feasible
    allowed = [genes for genes in SOME if feasible(genes)]
    assert allowed == [genes for genes in SOME if SPACE.cost(genes).macs <= limit]
    assert 0 < len(measured) == len(allowed) < len(SOME)


def test_a_tables_latency_is_not_measured(tmp_path: Path, no_measuring: None) -> None:
    columns = {"known": sum, "latency_ms": lambda genes: "" if genes == SOME[0] else 1.0 + genes[-1]}
    path = str(write_table(tmp_path / "device.csv", columns))
    constraints = [{"cost": "latency_ms", "at_most": 2.5}]
    recipe = tiny_recipe(tmp_path, **table(path, "known", "latency_ms"), constraints=constraints)
    plan = SearchPlan.of(recipe)
    assert [plan.feasible(genes) for genes in SPACE.enumerate()] == [
        genes != SOME[0] and genes[-1] < 2 for genes in SPACE.enumerate()
    ]


@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), (LOW // 2, HIGH), (LOW + WIDTH // 3, HIGH)])
def test_bins_with_a_path_in_each_are_not_refused(tmp_path: Path, low: int, high: int) -> None:
    SearchPlan.of(tiny_recipe(tmp_path, supernet={**NET, "mac_bins": {"low": low, "high": high}}))


def test_mixed_precision_needs_no_gpu_where_it_is_planned(tmp_path: Path) -> None:
    """The search may be driven from a machine without one."""
    recipe = tiny_recipe(tmp_path, supernet={**NET, "precision": "mixed"}, resources={"gpus": 1})
    assert SearchPlan.of(recipe).job(("params",)).device == "cuda"
