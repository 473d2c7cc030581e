"""`weft compare`: what two runs have in common, and in what they differ."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import cluster.experiment
from cluster.compare import BEST, compare
from cluster.experiment import prepare
from cluster.ledger import Row
from cluster.run import Run
from networks.complexity import Complexity
from networks.errors import UserError
from networks.spaces.space import Genes
from searchers.searcher import Candidate
from tests.cluster.choices import NoWriter, chain_space, tiny_recipe, write_table, write_tiny
from tests.cluster.commands import tree, weft, write_recipe
from tests.cluster.rows import METRIC, commit
from tests.cluster.rows import row as grid_row
from tests.cluster.searches import small_recipe

SPACE = chain_space()
GENES = list(SPACE.enumerate())


def score_row(ask: int, genes: Genes, accuracy: float | None, phase: str = "search") -> Row:
    return Row(
        candidate=Candidate.of("tiny/0", SPACE.digest, genes, ask, phase), names={}, architecture="",
        cost=Complexity(), rung=0, epoch=0, status="failed" if accuracy is None else "ok", seconds=2.0,
        metrics={} if accuracy is None else {"accuracy": accuracy},
    )  # fmt: skip


def search_of(storage: Path, accuracies: Sequence[float | None], first: int = 0, **changes: object) -> Run:
    """A run of the tiny recipe with one row for each accuracy, of candidates from the `first` one on; and a
    baseline that is better than all of them."""
    run = Run.create(prepare(tiny_recipe(storage, **changes)))
    rows = [score_row(ask, GENES[first + ask], accuracy) for ask, accuracy in enumerate(accuracies)]
    commit(run.ledger, rows)
    commit(run.ledger, [score_row(len(rows), GENES[-1], 0.99, "random")])
    return run


def grid_of(storage: Path, rows: Sequence[Row], **changes: object) -> Run:
    run = Run.create(prepare(small_recipe(storage, **changes)))
    commit(run.ledger, rows)
    return run


# What is told ----------------------------------------------------------------------------------------------


def test_best_so_far_at_the_same_counts_and_in_the_end(tmp_path: Path) -> None:
    first = search_of(tmp_path, [None, 0.2, 0.1, 0.3, 0.25, 0.5, 0.4])
    second = search_of(tmp_path, [0.1, 0.1, 0.4, 0.2, 0.45, 0.3, 0.2, 0.2, 0.6, 0.1, 0.2, 0.3])
    found = compare(first, second)
    assert found["best_so_far"] == [
        {"evaluations": [2, 2], "best": [0.2, 0.1]},
        {"evaluations": [3, 3], "best": [0.2, 0.4]},
        {"evaluations": [5, 5], "best": [0.3, 0.45]},
        {"evaluations": [6, 6], "best": [0.5, 0.45]},
        {"evaluations": [7, 7], "best": [0.5, 0.45]},
        {"evaluations": [7, 12], "best": [0.5, 0.6]},
    ]
    costs = {"epochs": 0, "training_seconds": None}
    assert found["cost"] == [
        {"evaluations": 7, "candidates": 7, "failed": 1, "seconds": 14.0, **costs},
        {"evaluations": 12, "candidates": 12, "failed": 0, "seconds": 24.0, **costs},
    ]
    assert (found["runs"], found["metric"]) == (["tiny-001", "tiny-002"], "accuracy")


def test_runs_with_little_or_nothing(tmp_path: Path) -> None:
    nothing = Run.create(prepare(tiny_recipe(tmp_path)))
    failed, few = search_of(tmp_path, [None]), search_of(tmp_path, [0.3, 0.5])
    assert compare(nothing, few)["best_so_far"] == [{"evaluations": [0, 2], "best": [None, 0.5]}]
    assert compare(failed, few)["best_so_far"] == [
        {"evaluations": [1, 1], "best": [None, 0.3]},
        {"evaluations": [1, 2], "best": [None, 0.5]},
    ]
    assert compare(failed, few)["overlap"] == {"best": [0, 2], "shared": 0, "candidates": []}
    assert weft("compare", "tiny-001", "tiny-003", "--storage", str(tmp_path), cwd=tmp_path).code == 0


def test_how_many_of_the_best_are_in_both(tmp_path: Path) -> None:
    """The same genes in one space; the second has them from the fifth on, best first."""
    first = search_of(tmp_path, [place / 100 for place in range(30)])
    second = search_of(tmp_path, [0.9 - place / 100 for place in range(30)], first=20)
    found = compare(first, second)["overlap"]
    assert found["best"] == [BEST, BEST] and found["shared"] == 10
    assert found["candidates"][0] == {"places": [1, 10], "candidates": [29, 9], "genes": list(GENES[29])}
    assert [one["places"] for one in found["candidates"]] == [[place, 11 - place] for place in range(1, 11)]
    third = search_of(tmp_path, [0.9 - place / 100 for place in range(30)], first=26)
    assert compare(first, third)["overlap"]["shared"] == 4
    assert compare(first, search_of(tmp_path, [0.1] * 5, first=1000))["overlap"]["shared"] == 0


def test_grids_of_two_spaces_share_architectures(tmp_path: Path) -> None:
    """Another list of seeds makes another space; the graphs of both have the same digests."""
    rows = [grid_row(ask, accuracy=ask / 10, rung=0, status="promoted", epoch=1) for ask in range(4)]
    rows += [grid_row(ask, accuracy=ask / 8, rung=1, epoch=2, seconds=5.0) for ask in (2, 3)]
    first = grid_of(tmp_path, rows)
    second = grid_of(
        tmp_path, [grid_row(7, architecture=f"{3:064d}"), grid_row(8, accuracy=0.4)],
        space={**small_recipe(tmp_path).space.model_dump(), "seeds": 3},
    )  # fmt: skip
    found = compare(first, second)
    assert found["differs"]["space"] and not found["differs"]["data"]
    assert {"field": "space.seeds", "values": [2, 3]} in found["differs"]["recipe"]
    assert found["overlap"]["shared"] == 1
    assert found["overlap"]["candidates"][0]["places"] == [1, 1]
    assert found["overlap"]["candidates"][0]["candidates"] == [3, 7]
    assert found["cost"][0] == {
        "evaluations": 6, "candidates": 4, "failed": 0, "epochs": 6, "seconds": 10.0,
        "training_seconds": None,
    }  # fmt: skip


def test_candidates_of_two_spaces_of_choices_are_not_told_to_be_the_same(tmp_path: Path) -> None:
    first = search_of(tmp_path, [0.1])
    second = search_of(tmp_path, [0.1], space={"kind": "small_chain", "channels": 3, "head_channels": 4})
    found = compare(first, second)
    assert found["overlap"] == {"best": [1, 1], "shared": None, "candidates": []}
    assert found["differs"]["recipe"] == [{"field": "space.channels", "values": [2, 3]}]
    said = weft("compare", "tiny-001", "tiny-002", "--storage", str(tmp_path), cwd=tmp_path).out
    assert "cannot be told to be the same: the spaces differ" in said
    assert "they differ in space" in said and "space.channels" in said


def test_what_decides_nothing_is_no_difference(tmp_path: Path) -> None:
    first = search_of(tmp_path / "here", [0.1])
    second = search_of(
        tmp_path / "there", [0.1], name="other", resources={"workers": 2}, retries=1, tracking={"runs": "all"}
    )
    assert compare(first, second)["differs"] == {"space": False, "data": False, "recipe": []}
    third = search_of(
        tmp_path, [0.1], data={"name": "digits", "limit": 170}, supernet=None,
        score={"kind": "computed", "names": ["naswot"], "batch_size": 64},
        objectives=[{"metric": "naswot"}],
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"B: 'tiny-001'.* a run ranked by accuracy, as tiny-001 is\. It is by naswot"
    ):
        compare(first, third)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = search_of(tmp_path / "a", [0.1]), search_of(tmp_path / "b", [0.1])
    assert compare(first, second)["runs"] == [str(first.folder), str(second.folder)]


# Whole runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two searches that rank scores, the second with another seed, and one that does not."""
    monkeypatch.setattr(cluster.experiment, "WriterProcess", NoWriter)
    table = write_table(tmp_path / "truth.csv", {"size": lambda genes: SPACE.cost(genes).params})
    for seed, scores in ((0, ["params", "accuracy"]), (1, ["params"]), (2, None)):
        ranking = scores and {"table": table.name, "truth": "size", "scores": scores, "cells": 6}
        write_tiny(tmp_path, ranking=ranking)
        ended = weft("search", "tiny.yaml", "--local", "--set", f"seed={seed}", cwd=tmp_path)
        assert ended.code == 0, ended.err
    return tmp_path


def found_by(folder: Path, *arguments: str) -> dict[str, Any]:
    ended = weft("compare", *arguments, "--json", cwd=folder)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_searches_on_the_command_line(searched: Path) -> None:
    before = tree(searched)
    found = found_by(searched, "tiny-001", "runs/tiny-002")
    run = Run(searched / "runs" / "tiny-001")
    report = json.loads((run.folder / "report.json").read_text())
    assert found["differs"] == {
        "space": False, "data": False,
        "recipe": [
            {"field": "seed", "values": [0, 1]},
            {"field": "ranking.scores", "values": [["params", "accuracy"], ["params"]]},
        ],
    }  # fmt: skip
    params, accuracy = found["scores"]
    assert [params["score"], accuracy["score"]] == ["params", "accuracy"]
    assert [one["tau"] for one in params["ranked"]] == pytest.approx([1, 1])
    wanted = {key: report["scores"][1][key] for key in ("tau", "low", "high", "candidates")}
    assert accuracy["ranked"] == [{**wanted, "truth": "size"}, None]
    assert found["cost"][0]["training_seconds"] == report["times"]["training"] > 0
    assert found["cost"][0]["evaluations"] == 12
    assert found["best_so_far"][-1]["best"][0] == max(
        row.metrics["accuracy"] for row in run.ledger.rows() if row.candidate.phase == "search"
    )
    said = weft("compare", "tiny-001", "tiny-002", cwd=searched).out
    for words in ("best accuracy after", "3 evaluations", "cost", "tau-b of", "are in both", "seed"):
        assert words in said
    assert all(len(line) <= 80 for line in said.splitlines() if "tau-b" not in line)
    assert tree(searched) == before
    assert found_by(searched, "tiny-001", "tiny-003")["scores"] == []


def test_a_run_with_itself(searched: Path) -> None:
    found = found_by(searched, "tiny-001", "tiny-001")
    assert found["overlap"]["shared"] == found["overlap"]["best"][0] == 10
    assert found["differs"]["recipe"] == []
    said = weft("compare", "tiny-001", "tiny-001", cwd=searched).out
    assert "the recipes say the same" in said and "space and data are the same" in said


def test_a_grid_is_not_ranked_as_a_search_is(searched: Path) -> None:
    write_recipe(searched)
    assert weft("search", "small.yaml", "--local", cwd=searched).code == 0
    ended = weft("compare", "tiny-001", "small", cwd=searched)
    assert (ended.code, ended.out) == (2, "")
    assert "B: 'small-001' cannot be used; allowed: a run ranked by accuracy" in ended.err
    assert f"It is by {METRIC}." in ended.err
    assert "Did you mean 'tiny-001'?" in weft("compare", "tinny-001", "small", cwd=searched).err
    assert found_by(searched, "small", "small-001")["overlap"]["shared"] == 6
