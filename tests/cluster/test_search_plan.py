"""A search recipe made concrete: what is known to be wrong before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cluster.search_plan
from cluster.search_plan import LatencyBook, SearchPlan
from networks.errors import UserError
from networks.spaces.space import Genes
from tests.cluster.choices import TINY, chain_space, tiny_recipe, write_table

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


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (lambda known: table(known, "konwn"), "score.columns", "Did you mean 'known'?"),
        (lambda known: table("no.csv", "known"), "score.table", "a file that exists"),
        (
            lambda known: {"ranking": {"table": known, "truth": "trut", "scores": ["params"]}},
            "ranking.columns",
            "Did you mean 'truth'?",
        ),
        (lambda known: {"warm_start": {"path": known}}, "warm_start.columns", "known, truth"),
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
    assert caught.value.field.startswith(field)
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
    again = LatencyBook(tmp_path / "latencies.json")
    assert [again.look_up(genes, measure) for genes in ((1, 1), (0, 1), (2, 1))] == [3.0, 1.5, 4.5]
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
    assert plan.needs_latency == needed
    genes = SOME[1]
    assert plan.measured(genes) == ({"latency_ms": 2.0} if needed else {})
    assert plan.costs(genes) == {**SPACE.cost(genes)._asdict(), **plan.measured(genes)}


def test_a_real_latency_is_a_time(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, objectives=[{"metric": "accuracy"}, {"metric": "latency_ms"}])
    plan = SearchPlan.of(recipe)
    assert 0 < plan.measured((2,) * 8)["latency_ms"] < 10_000
