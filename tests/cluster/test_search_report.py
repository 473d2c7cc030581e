"""What is said of a search: leaders, frontier, against random search, failures, how scores rank."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cluster.search_progress
from cluster.ledger import Row
from cluster.recipe import SearchRecipe
from cluster.run import Run
from cluster.search_messages import SearchReport
from cluster.search_progress import SearchProgress
from cluster.search_report import (
    against_random,
    number,
    score_rankings,
    search_markdown,
    search_report,
    shown_report,
)
from cluster.tables import search_tables
from networks.complexity import Complexity
from networks.liveness import WORST
from networks.spaces.space import Genes
from searchers.searcher import Candidate
from tests.cluster.choices import chain_space, new_search, tiny_recipe, write_table
from tests.cluster.rows import commit
from trainers.table import Table

METRIC = "accuracy"


def row(ask: int, accuracy: float | None, phase: str = "search", macs: int = 100, **metrics: float) -> Row:
    """A failed one without an accuracy."""
    genes = (0,) * 6 + (ask // 3 % 3, ask % 3)
    return Row(
        candidate=Candidate.of("test/0", "space", genes, ask, phase),
        names={},
        architecture="",
        cost=Complexity(1000 + ask, macs, 10),
        rung=0,
        epoch=0,
        status="failed" if accuracy is None else "ok",
        reason="out of memory" if accuracy is None else "",
        metrics={} if accuracy is None else {METRIC: accuracy, **metrics},
    )


@pytest.fixture
def found_of(tmp_path: Path) -> Any:
    """Makes the report of some rows."""

    def build(rows: Sequence[Row], **changes: object) -> dict[str, Any]:
        recipe = tiny_recipe(tmp_path, **changes)
        run = Run(new_search(recipe).folder)
        commit(run.ledger, rows)
        return search_report(run, recipe, rows)

    return build


OBJECTIVES = [{"metric": METRIC}, {"metric": "macs", "maximise": False}]


# Against random search -------------------------------------------------------------------------------------


def test_against_random_compares_equal_numbers() -> None:
    search = [row(ask, 0.5 + ask / 100) for ask in range(6)]
    random = [row(ask, 0.4 + ask / 100, "random") for ask in range(6, 10)]
    found = against_random([*search, *random], METRIC, seed=3)
    assert found is not None
    assert found["evaluations"] == 4
    assert found["best_search"] == 0.53  # of the first four
    assert found["best_random"] == 0.49
    # The best of four draws with replacement of {.46, .47, .48, .49}: .49 with 1 - (3/4)^4 = 68 %, so that
    # the middle 95 % reach from .47 ((2/4)^4 = 6 % are at most .47, (1/4)^4 = 0.4 % are .46) to .49.
    assert (found["random_low"], found["random_high"]) == (pytest.approx(0.47), 0.49)
    assert against_random([*search, *random], METRIC, seed=3) == found


def test_against_random_needs_both() -> None:
    assert against_random([row(0, 0.5)], METRIC, 0) is None
    assert against_random([row(0, 0.5, "random")], METRIC, 0) is None
    assert against_random([], METRIC, 0) is None


def test_failed_candidates_count_as_evaluations() -> None:
    rows = [row(0, None), row(1, None), row(2, None, "random"), row(3, 0.3, "random")]
    found = against_random(rows, METRIC, 0)
    assert found is not None
    assert (found["evaluations"], found["best_search"], found["best_random"]) == (2, None, 0.3)
    assert found["random_low"] is None  # both draws are the failed one: a quarter of the resamples
    assert found["random_high"] == 0.3
    json.dumps(found, allow_nan=False)


# The report ------------------------------------------------------------------------------------------------


def test_the_frontier_of_two_objectives(found_of: Any) -> None:
    rows = [
        row(0, 0.5, macs=100), row(1, 0.9, macs=900), row(2, 0.8, macs=1000), row(3, 0.7, macs=300),
        row(4, None, macs=1), row(5, 0.7, "random", macs=200), row(6, 0.4, "random", macs=100),
    ]  # fmt: skip
    found = found_of(rows, objectives=OBJECTIVES)
    assert {line["candidate"] for line in found["frontier"]} == {0, 1, 5}
    assert [line["place"] for line in found["frontier"]] == [1, 2, 3]
    assert [line["candidate"] for line in found["ranking"]] == [1, 2, 3, 5, 0, 6, 4]
    assert (found["candidates"], found["finished"], found["failed"]) == (7, 6, 1)
    assert found["failures"] == [("out of memory", 1)]
    assert [line["macs"] for line in found["frontier"]] == [
        rows[line["candidate"]].cost.macs for line in found["frontier"]
    ]


def test_a_score_of_a_costs_name_is_shown_where_it_differs(found_of: Any) -> None:
    same = [row(0, 0.5, params=1000.0), row(1, 0.9, params=1001.0)]
    own = [row(0, 0.5, params=7.5), row(1, 0.9, params=1001.0)]
    assert "params (score)" not in search_markdown(found_of(same)) + said(found_of(same), 5)
    page = search_markdown(found_of(own))
    assert "| genes | accuracy | params (score) | params | MACs |" in page
    assert "| 0 0 0 0 0 0 0 0 | 0.5 | 7.5 | 1,000 | 100 |" in page
    assert "params (score)" in said(found_of(own), 5)


def test_with_one_objective_the_frontier_is_the_best(found_of: Any) -> None:
    found = found_of([row(0, 0.5), row(1, 0.9), row(2, None)])
    assert [line["candidate"] for line in found["frontier"]] == [1]
    text = search_markdown(found)
    assert "With one objective the frontier is the best candidate." in text
    assert "## Frontier" not in text


def test_a_search_without_any_result(found_of: Any) -> None:
    for rows in ([], [row(0, None), row(1, None, "random")]):
        found = found_of(rows, objectives=OBJECTIVES)
        assert found["frontier"] == []
        json.dumps(found, allow_nan=False)
        assert f"{len(rows)} candidates, {len(rows)} of them failed." in search_markdown(found)
        assert len(list(search_tables(found, 5))) == (3 if rows else 2)


def test_the_page(found_of: Any) -> None:
    rows = [
        row(0, 0.5, macs=1_100, loss=-2.0), row(1, 0.91234567, macs=9_000_000, loss=-1.5),
        row(2, 0.1, macs=1_200_000, loss=WORST), row(3, None), row(4, None),
        row(5, 0.25, "random", macs=2_000),
    ]  # fmt: skip
    lines = search_markdown(found_of(rows, objectives=OBJECTIVES)).splitlines()
    assert lines[0] == "# tiny-001"
    assert lines[2] == "6 candidates, 2 of them failed."
    assert lines[4].startswith("Best accuracy of 1 evaluations: 0.5; of as many random candidates: 0.25 ")
    assert "| place | candidate | phase | genes | accuracy | loss | params | MACs |" in lines
    assert "| 1 | 1 | search | 0 0 0 0 0 0 0 1 | 0.9123 | -1.5 | 1,001 | 9,000,000 |" in lines
    assert "| 4 | 2 | search | 0 0 0 0 0 0 0 2 | 0.1 | worst | 1,002 | 1,200,000 |" in lines
    assert lines.index("## Leaders") < lines.index("## Frontier") < lines.index("Failed:")
    assert "- 2 times: out of memory" in lines
    assert lines[-1].startswith("Ledger digest: `")
    table = [line for line in lines if line.startswith("|")]
    widths = {line.count("|") for line in table}
    assert widths == {9}


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.123456, "0.1235"), (WORST, "worst"), (-3.0, "-3"), (8806.0, "8806")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


# How scores rank -------------------------------------------------------------------------------------------


@pytest.fixture
def ranked(tmp_path: Path) -> tuple[SearchRecipe, Table, list[Row]]:
    """Five candidates, ranked by two scores; the truth grows with the ask."""
    rows = [row(ask, 0.1 * ask, "ranking", params=float(-ask)) for ask in range(4)]
    rows.append(row(4, None, "ranking"))
    genes = [one.candidate.genes for one in rows]

    def truth(one: Genes) -> float:
        return float(genes.index(one))

    path = write_table(tmp_path / "truth.csv", {"c10": truth}, genes)
    ranking = {"table": str(path), "truth": "c10", "scores": [METRIC, "params"], "cells": 5}
    return tiny_recipe(tmp_path, ranking=ranking), Table.read(path, chain_space()), rows


def test_scores_against_the_truth(ranked: tuple[SearchRecipe, Table, list[Row]]) -> None:
    recipe, table, rows = ranked
    accuracy, params = score_rankings(rows, recipe, table)
    # 10 pairs. The failed one, in truth the best, is put last by every score: 4 pairs are wrong, 6 are right.
    assert (accuracy["score"], accuracy["candidates"]) == (METRIC, 5)
    assert accuracy["tau"] == pytest.approx(0.2)
    assert params["tau"] == pytest.approx(-1)
    assert accuracy["low"] <= accuracy["tau"] <= accuracy["high"]
    assert accuracy["failed"] == params["failed"] == [["out of memory", 1]]
    assert score_rankings([], recipe, table) == score_rankings(rows, recipe, None) == []


def test_the_page_tells_how_scores_rank(ranked: tuple[SearchRecipe, Table, list[Row]]) -> None:
    recipe, table, rows = ranked
    run = Run(new_search(recipe).folder)
    found = search_report(run, recipe, [], rows, table)
    page = search_markdown(found)
    assert "How well scores rank, against c10:" in page
    assert "| accuracy | 5 | 0.2 | " in page
    assert "accuracy failed 1 times: out of memory" in page.splitlines()
    constant = search_report(run, recipe, [], [one.model_copy(update={"metrics": {}}) for one in rows], table)
    assert "| accuracy | 5 |  |  |  | 10 |" in search_markdown(constant)
    run.write_json("report.json", found)
    assert shown_report(run, recipe)["scores"] == found["scores"]


# In a terminal ---------------------------------------------------------------------------------------------


def said(found: dict[str, Any], limit: int) -> str:
    console = Console(file=io.StringIO(), width=100)
    for table in search_tables(found, limit):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_of_a_search(found_of: Any) -> None:
    rows = [row(0, 0.5, macs=1_100_000), row(1, 0.91234567, macs=9_000_000), row(2, 0.25, "random", macs=10)]
    text = said(found_of(rows, objectives=OBJECTIVES), 2)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    heads = [line for line in lines if "cand." in line]
    assert [head.split()[0] for head in heads] == ["leaders", "frontier"]
    leaders = lines[lines.index(heads[0]) : lines.index(heads[1])]
    assert "1 1 0 0 0 0 0 0 0 1 0.9123 1,001 9.00" in leaders
    assert not any("0.25" in line for line in leaders)  # the limit
    assert lines.index("best accuracy of 1") < lines.index("random search 0.25 (0.25 to 0.25)")


def test_progress_counts_within_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(cluster.search_progress.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=200)
    with SearchProgress(console, METRIC) as progress:
        assert progress.line().plain == "starting"
        progress.heard(SearchReport(stage="training", step=2, steps=10, metrics={"train_loss": 2.30258}))
        assert progress.line().plain == "training the supernet, step 2 of 10 · loss 2.303"
        now += 20
        progress.heard(SearchReport(stage="training", step=4, steps=10, metrics={"train_loss": 2.0}))
        assert progress.line().plain == "training the supernet, step 4 of 10 · loss 2.000 · 1:00 left"
        now += 100
        progress.heard(SearchReport(stage="search", step=10, steps=10, asked=5, planned=60, best=0.51))
        assert progress.line().plain == "searching, 5 of 60 candidates · best accuracy 0.51"
        now += 10
        progress.heard(SearchReport(stage="search", step=10, steps=10, asked=10, planned=60, best=0.52))
        assert progress.line().plain == "searching, 10 of 60 candidates · best accuracy 0.52 · 1:40 left"
        progress.heard(SearchReport(stage="random", asked=35, planned=60))
        assert progress.line().plain == "scoring random candidates, 35 of 60 candidates"
        progress.heard(SearchReport(stage="ranking", asked=5, planned=9))
        assert progress.line().plain == "ranking scores, 5 of 9 candidates"
        progress.heard(SearchReport(stage="done", asked=60, planned=60, best=math.pi))
        assert progress.line().plain == "60 candidates · best accuracy 3.142 · 2:10 taken"
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "training the supernet, step 2 of 10 · loss 2.303"
    # Every new stage is said at once, and the end once more.
    said_first = list(dict.fromkeys(line.split(" · ")[0].split(",")[0] for line in lines))
    stages = ["training the supernet", "searching", "scoring random candidates", "ranking scores"]
    assert said_first == [*stages, "60 candidates"]
    assert lines[-1] == lines[-2]
