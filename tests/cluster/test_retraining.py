"""The networks that a search ends with, trained on their own: which, how they are told of, and resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError
from rich.console import Console

from cluster import experiment
from cluster.experiment import Outcome, Place, search
from cluster.network_file import load_network
from cluster.recipe import Recipe
from cluster.run import Run, runs_of
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from cluster.search_report import search_markdown
from cluster.tables import search_tables, spread_text
from networks.errors import UserError
from tests.cluster.choices import tiny_recipe
from tests.cluster.test_nat_search import supernet_recipe

LOCAL = Place(local=True)
RETRAINING = {"seeds": 2, "training": {"epochs": 1, "batch_size": 16}}


def run_of(recipe: SearchRecipe, **options: Any) -> Outcome:
    return search(recipe, LOCAL, Console(quiet=True), **options)


def nat(storage: Path, **retraining: Any) -> SearchRecipe:
    raw = supernet_recipe(storage).model_dump()
    raw["searcher"]["transform"] = [raw["searcher"]["transform"][0], [0] * 8]
    return SearchRecipe.model_validate({**raw, "retraining": {**RETRAINING, **retraining}})


def grid_of(run: Run) -> Run:
    (found,) = runs_of("cells-retrained", run.folder / "retrained")
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A search that rewrites two cells, with wider networks at its end."""
    return run_of(nat(tmp_path_factory.mktemp("ended"), space={"channels": 6, "cells": 4}))


def test_what_was_given_and_what_it_became_are_trained(ended: Outcome) -> None:
    found, grid = ended.report["retrained"], grid_of(ended.run)
    assert [one["label"] for one in found] == ["given 1", "given 1 rewritten", "given 2", "given 2 rewritten"]
    made = [one[side]["genes"] for one in ended.report["transformed"] for side in ("before", "after")]
    assert [one["genes"] for one in found] == made
    distinct = {tuple(one) for one in made}
    assert len(list(grid.ledger.rows())) == 2 * len(distinct)
    recipe = grid.recipe
    assert isinstance(recipe, Recipe) and recipe.metric == "validation_accuracy"
    wide = recipe.space.build(SearchPlan.of(ended.run.recipe).space.image, 10)  # type: ignore[arg-type, union-attr]
    for one in found:
        place = recipe.space.genes.index(tuple(one["genes"]))  # type: ignore[union-attr]
        cost = wide.cost((place, 0))
        assert (one["params"], one["macs"]) == (cost.params, cost.macs), "the wider network's costs"
        assert one["trainings"] == len(one["metrics"]["validation_accuracy"]["values"]) == 2


def test_the_best_network_is_a_trained_one(ended: Outcome) -> None:
    """Selected by the mean over seeds on validation images; the test images select nothing."""
    found = ended.report["retrained"]
    best = max(found, key=lambda one: one["metrics"]["validation_accuracy"]["mean"])
    network, about = load_network(ended.run.folder / "best")
    assert about["run"] == "cells-retrained-001" and about["trained"] == 1
    assert sum(one.numel() for one in network.parameters()) == best["params"]
    assert about["metrics"]["validation_accuracy"] == max(best["metrics"]["validation_accuracy"]["values"])


def test_how_it_is_told(ended: Outcome) -> None:
    page = (ended.run.folder / "report.md").read_text()
    assert page == search_markdown(ended.report)
    assert "## Retrained" in page and "| given 1 rewritten |" in page and "± " in page
    for number in (1, 2):
        assert (ended.run.pictures / f"transformed-{number}.png").stat().st_size > 5_000
        assert f"![{number}](pictures/transformed-{number}.png)" in page
    titles = [str(table.columns[0].header) for table in search_tables(ended.report, 5)]
    assert titles[0] == "retrained"
    assert spread_text({"mean": 0.5, "deviation": 0.01}) == "50.00 ± 1.00 %"
    assert spread_text({"mean": 0.5, "deviation": None}) == "50.00 %" and spread_text(None) == ""


def test_leaders_of_another_search_are_trained(tmp_path: Path, no_mlflow: None) -> None:
    found = run_of(tiny_recipe(tmp_path, retraining={**RETRAINING, "best": 2, "seeds": 1})).report
    lines = found["retrained"]
    assert [one["label"] for one in lines] == ["place 1", "place 2"]
    distinct = list(dict.fromkeys(tuple(one["genes"]) for one in found["ranking"]))
    assert [tuple(one["genes"]) for one in lines] == distinct[:2]
    assert all(one["metrics"]["validation_accuracy"]["deviation"] is None for one in lines)


def test_a_search_that_ends_in_the_middle_of_it_goes_on(
    tmp_path: Path, ended: Outcome, monkeypatch: pytest.MonkeyPatch, no_mlflow: None
) -> None:
    """The search is over, and is not done again; of the trainings only those are done that were not."""
    drive, trained = experiment.drive_local, 0

    def cut(grid: Any) -> None:
        nonlocal trained

        def stop(report: object) -> None:
            nonlocal trained
            trained += 1
            if trained == 3:
                raise KeyboardInterrupt

        grid.reports.append(stop)
        drive(grid)

    recipe = nat(tmp_path, space={"channels": 6, "cells": 4})
    monkeypatch.setattr(experiment, "drive_local", cut)
    with pytest.raises(experiment.Interrupted) as stopped:
        run_of(recipe)
    run = stopped.value.run
    assert run.name == "cells-001" and run.ending == "KILLED"
    before = run.ledger.digest()
    assert len(list(grid_of(run).ledger.rows())) < len(list(grid_of(ended.run).ledger.rows()))
    monkeypatch.setattr(experiment, "drive_local", drive)
    again = run_of(recipe, resume=True)
    assert again.run.folder == run.folder and again.run.ending == "FINISHED"
    assert again.run.ledger.digest() == before == ended.run.ledger.digest()
    assert grid_of(again.run).ledger.digest() == grid_of(ended.run).ledger.digest()
    figures = [[one["metrics"] for one in outcome.report["retrained"]] for outcome in (again, ended)]
    assert figures[0] == figures[1]


def recipe_with(storage: Path, retraining: dict[str, Any]) -> SearchRecipe:
    raw = supernet_recipe(storage).model_dump()
    return SearchRecipe.model_validate({**raw, "retraining": {**RETRAINING, **retraining}})


@pytest.mark.parametrize(
    ("retraining", "words"),
    [
        ({"space": {"nodes": 3}}, "retraining.space.*leave the choices"),
        ({"training": {"epochs": 1, "batch_size": 5000}}, "retraining.*batch_size"),
        ({"training": {"auxiliary": 0.4, "batch_size": 16}}, "retraining.training.auxiliary.*6 to 10 pixels"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_search(
    tmp_path: Path, retraining: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        SearchPlan.of(recipe_with(tmp_path, retraining))


@pytest.mark.parametrize(
    ("retraining", "words"),
    [
        ({"space": {"colour": 1}}, r"retraining\.space\.colour"),
        ({"space": {"cells": 0}}, r"retraining\.space\.cells"),
    ],
)
def test_changes_of_the_space_are_checked_with_the_recipe(
    tmp_path: Path, retraining: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        recipe_with(tmp_path, retraining)


def test_drop_path_needs_cells(tmp_path: Path) -> None:
    training = {"epochs": 1, "batch_size": 16, "drop_path": 0.2}
    asked = tiny_recipe(tmp_path, retraining={"training": training})
    with pytest.raises(UserError, match=r"drop_path.*without cells"):
        SearchPlan.of(asked)


def test_a_search_without_it_has_the_digest_that_it_had(tmp_path: Path) -> None:
    assert "retraining" not in json.loads(tiny_recipe(tmp_path).model_dump_json())


def test_it_is_tracked_where_the_search_is(ended: Outcome) -> None:
    assert grid_of(ended.run).tracking_uri == ended.run.tracking_uri


def test_mlflow_says_what_became_of_it(ended: Outcome) -> None:
    """On the search's own run; the trainings are runs beside it, in the same place."""
    client = MlflowClient(tracking_uri=ended.run.tracking_uri)
    names = {one.name for one in client.search_experiments()}
    assert {"cells", "cells-retrained"} <= names
    (experiment,) = [one for one in client.search_experiments() if one.name == "cells"]
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    metrics = parent.data.metrics
    for one in ended.report["retrained"]:
        found = metrics[f"retrained {one['label']} validation_accuracy"]
        assert found == pytest.approx(one["metrics"]["validation_accuracy"]["mean"])
        assert metrics[f"retrained {one['label']} params"] == one["params"]
