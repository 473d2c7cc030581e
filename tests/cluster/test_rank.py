"""How well scores rank, with a finished search's supernet: against a table, and against trainings."""

import csv
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cluster.experiment
from cluster.experiment import Place
from cluster.ledger import Ledger
from cluster.local_search import drive_local_search
from cluster.rank import Standalone, drawn, rank_scores
from cluster.replica import Replica
from cluster.run import Run
from cluster.search_plan import SearchPlan
from cluster.search_recipe import Ranking
from networks.errors import UserError
from tests.cluster.choices import chain_space, new_search, tiny_recipe, write_table

SPACE = chain_space()
HERE = Place(local=True)


pytestmark = pytest.mark.usefixtures("no_mlflow")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished search."""
    searcher = {"kind": "random", "budget": 3}
    config = new_search(tiny_recipe(tmp_path_factory.mktemp("ranked") / "runs", searcher=searcher))
    drive_local_search(config, lambda report: None)
    run = Run(config.folder)
    run.finish("FINISHED")
    return run


@pytest.fixture
def finished(tmp_path: Path, whole: Run) -> Run:
    """A copy of it."""
    shutil.copytree(whole.folder, tmp_path / whole.name)
    return Run(tmp_path / whole.name)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    some = itertools.islice(SPACE.enumerate(), 0, None, 50)
    return write_table(tmp_path / "truth.csv", {"size": lambda genes: SPACE.cost(genes).params}, some)


def quiet() -> Console:
    return Console(file=io.StringIO())


def against(table: Path, *scores: str, cells: int = 8) -> Ranking:
    return Ranking(table=table, truth="size", scores=scores, cells=cells)


def refused(run: Run, truth: Ranking | Standalone, *scores: str) -> UserError:
    with pytest.raises(UserError) as caught:
        rank_scores(run, scores, truth, HERE, quiet())
    return caught.value


def test_against_a_table(finished: Run, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, weights = finished.ledger.digest(), sorted((finished.folder / "supernet").iterdir())
    found = rank_scores(finished, ["params", "accuracy"], against(table, "params", "accuracy"), HERE, quiet())
    assert (found["run"], found["truth"]) == (finished.name, "size")
    params, accuracy = found["scores"]
    assert (params["score"], params["candidates"], params["tau"]) == ("params", 8, pytest.approx(1))
    assert (accuracy["score"], accuracy["candidates"]) == ("accuracy", 8)
    # The search itself is as it was.
    assert finished.ending == "FINISHED"
    assert finished.ledger.digest() == ledger
    assert sorted((finished.folder / "supernet").iterdir()) == weights
    (kept,) = (finished.folder / "rankings").iterdir()
    assert json.loads((kept / "report.json").read_text()) == found
    assert len(list(Ledger(kept).rows())) == 8

    def never(replica: Replica, *of: Any) -> object:
        raise AssertionError("it was scored before")

    monkeypatch.setattr(Replica, "_score", never)
    again = rank_scores(finished, ["params", "accuracy"], against(table, "params", "accuracy"), HERE, quiet())
    assert again == found


def test_an_interrupted_ranking_goes_on(finished: Run, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, scored = Replica._score, 0

    def stop(replica: Replica, *of: Any) -> object:
        nonlocal scored
        scored += 1
        if scored == 5:
            raise KeyboardInterrupt
        return score(replica, *of)

    truth = against(table, "params", "accuracy_unrecalibrated")
    with monkeypatch.context() as patch:
        patch.setattr(Replica, "_score", stop)
        with pytest.raises(KeyboardInterrupt):
            rank_scores(finished, truth.scores, truth, HERE, quiet())
    assert finished.ending == "FINISHED"
    (kept,) = (finished.folder / "rankings").iterdir()
    assert len(list(Ledger(kept).rows())) == 3
    found = rank_scores(finished, truth.scores, truth, HERE, quiet())
    assert [one["candidates"] for one in found["scores"]] == [8, 8]


@pytest.mark.slow
def test_against_trainings(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Standalone(candidates=3, epochs=1, seeds=2)
    found = rank_scores(finished, ["params"], truth, HERE, quiet())
    (params,) = found["scores"]
    assert (found["truth"], params["candidates"]) == ("standalone_accuracy", 3)
    (grid,) = (finished.folder / "standalone").iterdir()
    assert grid.name == "tiny-standalone-001"
    rows = list(Run(grid).ledger.rows())
    assert [row.candidate.genes for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    with (grid / "accuracies.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines):
        both = [row.metrics["validation_accuracy"] for row in rows if row.candidate.genes[0] == number]
        assert float(line["standalone_accuracy"]) == sum(both) / 2
        assert len(json.loads(line["genes"])) == 8

    # Another score is held to the same trainings.
    def never(*_: object, **__: object) -> object:
        raise AssertionError("they are trained already")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local", never)
        patch.setattr("cluster.experiment.search", never)
        (macs,) = rank_scores(finished, ["macs"], truth, HERE, quiet())["scores"]
    assert (macs["score"], macs["candidates"]) == ("macs", 3)
    # Other trainings are other ones.
    more = rank_scores(finished, ["params"], Standalone(candidates=4, epochs=1), HERE, quiet())
    assert more["scores"][0]["candidates"] == 4
    assert {path.name for path in grid.parent.iterdir()} == {"tiny-standalone-001", "tiny-standalone-002"}


def test_interrupted_trainings_go_on(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Standalone(candidates=3, epochs=1)
    drive = cluster.experiment.drive_local

    def interrupt(rows: object) -> None:
        raise KeyboardInterrupt

    def stop(grid: cluster.experiment.Grid) -> None:
        grid.recorder.listeners.append(interrupt)
        drive(grid)

    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local", stop)
        with pytest.raises(KeyboardInterrupt):
            rank_scores(finished, ["params"], truth, HERE, quiet())
    (grid,) = (finished.folder / "standalone").iterdir()
    assert len(list(Run(grid).ledger.rows())) == 1
    assert rank_scores(finished, ["params"], truth, HERE, quiet())["scores"][0]["candidates"] == 3
    assert [path.name for path in grid.parent.iterdir()] == [grid.name]


def test_drawn_candidates_differ_and_meet_the_constraints(tmp_path: Path) -> None:
    limit = sorted(SPACE.cost(genes).params for genes in SPACE.enumerate())[40]
    plan = SearchPlan.of(tiny_recipe(tmp_path, constraints=[{"cost": "params", "at_most": limit}]))
    genes = drawn(plan, 20)
    assert len(set(genes)) == 20
    assert all(SPACE.cost(one).params <= limit for one in genes)
    assert genes == drawn(plan, 20)
    # Of 41 candidates or a few more no thousand can be drawn.
    allowed = sum(SPACE.cost(one).params <= limit for one in SPACE.enumerate())
    assert len(drawn(plan, 100)) == allowed


# Refusals --------------------------------------------------------------------------------------------------


def test_a_table_without_the_column(finished: Run, table: Path) -> None:
    error = refused(finished, Ranking(table=table, truth="sise", scores=("params",)), "params")
    assert error.field == "--truth"
    assert "Did you mean 'size'?" in str(error)
    assert finished.ending == "FINISHED"


def test_an_unfinished_search(finished: Run, table: Path) -> None:
    finished.finish("KILLED")
    error = refused(finished, against(table, "params"), "params")
    assert "weft search --resume goes on with it" in str(error)
    assert finished.ending == "KILLED"


def test_a_search_on_a_table(tmp_path: Path, table: Path) -> None:
    score = {"kind": "table", "path": str(table), "names": ["size"], "image": [1, 8, 8]}
    recipe = tiny_recipe(tmp_path, data=None, supernet=None, score=score)
    run = Run(new_search(recipe).folder)
    run.finish("FINISHED")
    assert "a search whose candidates replicas scored" in str(
        refused(run, against(table, "params"), "params")
    )


def test_scores_of_a_supernet_that_is_not_there(tmp_path: Path, table: Path) -> None:
    score = {"kind": "computed", "names": ["params"]}
    run = Run(new_search(tiny_recipe(tmp_path, supernet=None, score=score)).folder)
    run.finish("FINISHED")
    error = refused(run, against(table, "params", "accuracy"), "params", "accuracy")
    assert (error.field, error.value) == ("--score.1", "accuracy")
    assert "scores of untrained networks" in error.allowed
    assert run.ending == "FINISHED"


def test_a_run_that_another_process_drives(finished: Run, table: Path) -> None:
    with finished.lock():
        finished.finish("FINISHED")
        assert "no other process is driving" in str(refused(finished, against(table, "params"), "params"))
