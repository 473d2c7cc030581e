"""`weft extend`: a finished search with more budget is the one that had it from the start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import cluster.experiment
from cluster.experiment import Place, search
from cluster.extend import check_extendable, extended_recipe
from cluster.ledger import Row
from cluster.local_search import drive_local_search
from cluster.recipe import load_recipe
from cluster.run import Run
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from networks.errors import UserError
from networks.spaces.space import Genes
from tests.cluster.choices import NoWriter, tiny_recipe, write_table, write_tiny
from tests.cluster.commands import json_of, private_environment, run_weft, weft, write_recipe

LOCAL = {"kind": "local", "budget": 10, "starts": 3}
EVOLUTION = {
    "kind": "evolution",
    "population": 6,
    "generations": 2,
    "parents": 2,
    "mutants": 2,
    "crossovers": 2,
}


def searched(recipe: SearchRecipe) -> Run:
    return search(recipe, Place(local=True), Console(quiet=True)).run


def extended(run: Run, budget: int) -> Run:
    return search(extended_recipe(run, budget), Place(local=True), Console(quiet=True), extend=run).run


def phase(run: Run, name: str) -> list[tuple[Genes, dict[str, float], str]]:
    rows = [row for row in run.ledger.rows() if row.candidate.phase == name]
    return [(row.candidate.genes, row.metrics, row.status) for row in rows]


def segments(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.ledger.segments()}


@pytest.mark.usefixtures("no_mlflow")
@pytest.mark.parametrize("in_flight", [4, 8])
def test_without_a_baseline_the_ledger_is_that_of_the_larger_budget(tmp_path: Path, in_flight: int) -> None:
    """10, 17 and 23 are no multiples of the round, and rounds are in flight where the search ended."""
    changes = {"searcher": LOCAL, "baseline": False, "round": 4, "in_flight": in_flight}
    run = searched(tiny_recipe(tmp_path / "less", **changes))
    weights = {path.name: path.read_bytes() for path in (run.folder / "supernet").iterdir()}
    for budget in (17, 23):
        kept = segments(run)
        assert extended(run, budget).folder == run.folder
        assert {name: body for name, body in segments(run).items() if name in kept} == kept
    whole = searched(tiny_recipe(tmp_path / "more", **{**changes, "searcher": {**LOCAL, "budget": 23}}))
    assert run.ledger.digest() == whole.ledger.digest()
    assert len(list(run.ledger.rows())) == 23
    for name in ("network.json", "network.safetensors"):
        assert (run.folder / "best" / name).read_bytes() == (whole.folder / "best" / name).read_bytes()
    assert {path.name: path.read_bytes() for path in (run.folder / "supernet").iterdir()} == weights
    assert run.ending == "FINISHED"
    assert json.loads((run.folder / "report.json").read_text())["candidates"] == 23


@pytest.mark.usefixtures("no_mlflow")
def test_the_baseline_grows_with_the_search(tmp_path: Path) -> None:
    run = searched(tiny_recipe(tmp_path / "less", searcher=EVOLUTION))
    extended(run, 18)
    whole = searched(tiny_recipe(tmp_path / "more", searcher={**EVOLUTION, "generations": 3}))
    for name in ("search", "random"):
        assert phase(run, name) == phase(whole, name)
        assert len(phase(run, name)) == 18
    names = [row.candidate.phase for row in run.ledger.rows()]
    assert names == ["search"] * 12 + ["random"] * 12 + ["search"] * 6 + ["random"] * 6
    reports = [json.loads((one.folder / "report.json").read_text()) for one in (run, whole)]
    assert reports[0]["against_random"] == reports[1]["against_random"]
    assert reports[0]["against_random"]["evaluations"] == 18


@pytest.mark.usefixtures("no_mlflow")
def test_a_warm_start_takes_places_of_the_first_generation_only(tmp_path: Path) -> None:
    path = write_table(tmp_path / "warm.csv", {"accuracy": sum}, [(0,) * 8, (1,) * 8])
    changes = {"searcher": EVOLUTION, "warm_start": {"path": str(path)}}
    run = searched(tiny_recipe(tmp_path / "less", **changes))
    assert len(phase(run, "search")) == 10
    extended(run, 18)
    whole = searched(
        tiny_recipe(tmp_path / "more", **{**changes, "searcher": {**EVOLUTION, "generations": 3}})
    )
    assert phase(run, "search") == phase(whole, "search")
    assert len(phase(run, "search")) == 16


def stopped_after(rounds: int) -> Callable[[SearchConfig, Callable[[SearchReport], None]], None]:
    """The local driver with Ctrl-C after so many rounds."""

    def drive(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
        def listen(report: SearchReport) -> None:
            nonlocal rounds
            heard(report)
            rounds -= 1
            if not rounds:
                raise KeyboardInterrupt

        drive_local_search(config, listen)

    return drive


# On the command line ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe and its finished run, tiny-001, in MLflow too."""
    folder = tmp_path_factory.mktemp("finished")
    write_tiny(folder)
    ended = weft("search", "tiny.yaml", "--local", cwd=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def copied(tmp_path: Path, finished: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def mlflow_runs(run: Run) -> tuple[list[tuple[str, str]], list[str]]:
    """Parents, each with its status, and the candidates' ids of its children."""
    from mlflow import MlflowClient

    client = MlflowClient(run.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    children = [one.data.tags["weft.candidate_id"] for one in runs if one not in parents]
    return [(one.info.run_id, one.info.status) for one in parents], sorted(children)


@pytest.mark.slow
def test_mlflows_run_is_reopened_and_has_the_new_candidates(copied: Path) -> None:
    run = Run(copied / "runs" / "tiny-001")
    before = mlflow_runs(run)
    ended = weft("extend", "tiny", "--budget", "18", "--local", cwd=copied)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("tiny-001: up to 36 candidates of 6,561, in ")
    parents, children = mlflow_runs(run)
    assert parents == before[0] and len(parents) == 1
    assert children == sorted(row.candidate.id for row in run.ledger.rows())
    assert set(before[1]) < set(children) and len(children) == 36
    from mlflow import MlflowClient

    params = MlflowClient(run.tracking_uri).get_run(parents[0][0]).data.params
    assert json.loads(params["extended"]) == [{"random": 12, "search": 12}]
    artifacts = Path(run.work / "mlartifacts" / "tiny" / parents[0][0] / "artifacts")
    assert json.loads((artifacts / "report.json").read_text())["candidates"] == 36


@pytest.mark.usefixtures("no_mlflow")
@pytest.mark.parametrize("rounds", [1, 3])
def test_an_interrupted_extension_is_gone_on_with(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    run = Run(copied / "runs" / "tiny-001")
    with monkeypatch.context() as patch:
        patch.setattr(cluster.experiment, "drive_local_search", stopped_after(rounds))
        ended = weft("extend", "tiny", "--budget", "18", "--local", cwd=copied)
    assert ended.code == 130
    assert "To go on: weft resume runs/tiny-001 --local" in ended.err
    assert run.ending == "KILLED"
    assert len(run.ledger.segments()) == 8 + rounds
    # It is a run of another recipe now: neither the one it began with nor the larger one may take it up.
    for changes in ((), ("--set", "searcher.generations=3")):
        refused = weft("search", "tiny.yaml", "--local", "--resume", *changes, cwd=copied)
        assert refused.code == 2 and "this one has changed since" in refused.err, refused.err
    again = weft("extend", "tiny", "--budget", "24", "--local", cwd=copied)
    assert again.code == 2 and "To finish this one: weft resume tiny-001" in again.err
    resumed = weft("resume", "tiny", "--local", "--json", cwd=copied)
    assert resumed.code == 0, resumed.err
    whole = searched(tiny_recipe(tmp_path / "more", searcher={**EVOLUTION, "generations": 3}))
    for name in ("search", "random"):
        assert phase(run, name) == phase(whole, name)
    assert (run.folder / "best" / "network.json").exists()


@pytest.mark.usefixtures("no_mlflow")
def test_its_own_recipe_searches_the_same_again(copied: Path) -> None:
    """What is asked follows from the recipe alone, also of one that was extended."""
    run = Run(copied / "runs" / "tiny-001")
    assert weft("extend", "tiny", "--budget", "18", "--local", cwd=copied).code == 0
    recipe = load_recipe(str(run.folder / "recipe.yaml"))
    assert recipe == run.recipe and recipe.digest == run.recipe_digest
    said = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert said["extended"] == [{"search": 12, "random": 12}]
    assert said["searcher"]["generations"] == 3 and said["tracking"]["runs"] == "all"
    again = searched(recipe)  # type: ignore[arg-type]
    assert again.folder != run.folder
    assert again.ledger.digest() == run.ledger.digest()


def test_a_recipe_says_so_only_when_its_search_was_extended(tmp_path: Path) -> None:
    """So one that never was has the digest of before there were extensions, and is gone on with."""
    recipe = tiny_recipe(tmp_path)
    more = tiny_recipe(tmp_path, extended=[{"search": 12, "random": 12}])
    assert "extended" not in recipe.model_dump()
    assert more.model_dump(mode="json")["extended"] == [{"search": 12, "random": 12}]
    assert SearchRecipe.model_validate_json(more.model_dump_json()) == more
    assert recipe.digest != more.digest
    with pytest.raises(ValueError, match=r"extended\.1.*not fewer than before"):
        tiny_recipe(tmp_path, extended=[{"search": 12, "random": 12}, {"search": 10, "random": 12}])


@pytest.mark.slow
def test_a_search_is_extended_on_ray(copied: Path, tmp_path: Path, no_mlflow: None) -> None:
    """By replicas, though it began in one process."""
    pytest.importorskip("ray")
    with private_environment() as env:
        ended = run_weft("extend", "tiny", "--budget", "18", "--json", cwd=copied, env=env)
    found = json_of(ended)
    whole = searched(tiny_recipe(tmp_path / "more", searcher={**EVOLUTION, "generations": 3}))
    run = Run(copied / "runs" / "tiny-001")
    assert found["ledger_digest"] == run.ledger.digest()
    for name in ("search", "random"):
        assert phase(run, name) == phase(whole, name)
    best = [(one.folder / "best" / "network.safetensors").read_bytes() for one in (run, whole)]
    assert best[0] == best[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--budget", "12"), ["--budget: 12", "a multiple of the population (6), from 18 on"]),
        (("tiny", "--budget", "20"), ["--budget: 20", "It goes by whole generations."]),
        (("tiny", "--budget", "0"), ["--budget"]),
        (("tiny",), ["--budget"]),
        (("tinny", "--budget", "18"), ["RUN: 'tinny'", "Did you mean 'tiny-001'?"]),
        (("tiny", "--budget", "18", "--address", "auto"), ["--address: 'auto'"]),
    ],
)
def test_what_is_refused_changes_nothing(
    finished: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    run = Run(finished / "runs" / "tiny-001")
    before = run.about, segments(run), run.ended
    ended = weft("extend", *arguments, "--local", cwd=finished)
    assert (ended.code, ended.out) == (2, "")
    for word in words:
        assert word in ended.err
    assert (run.about, segments(run), run.ended) == before
    assert (run.folder / "best" / "network.json").exists()


def test_grids_and_unfinished_searches_are_refused(tmp_path: Path, no_mlflow: None) -> None:
    write_recipe(tmp_path)
    assert weft("search", "small.yaml", "--local", cwd=tmp_path).code == 0
    grid = weft("extend", "small", "--budget", "18", "--local", cwd=tmp_path)
    assert grid.code == 2
    assert "RUN: 'small-001' cannot be used; allowed: a search over choices." in grid.err
    assert "Search a recipe with more seeds or settings" in grid.err
    run = Run.create(SearchPlan.of(tiny_recipe(tmp_path / "runs")))
    ended = weft("extend", run.name, "--budget", "18", "--local", cwd=tmp_path)
    assert ended.code == 2 and "To finish this one: weft resume tiny-001" in ended.err


@pytest.mark.slow
@pytest.mark.usefixtures("no_mlflow")
def test_a_space_that_was_searched_whole(tmp_path: Path) -> None:
    path = write_table(tmp_path / "known.csv", {"known": sum})
    score = {"kind": "table", "path": str(path), "names": ["known"], "image": [1, 8, 8]}
    table = {"data": None, "supernet": None, "score": score, "tracking": {"runs": "frontier"}}
    grid = searched(tiny_recipe(tmp_path / "runs", searcher={"kind": "grid"}, **table))
    with pytest.raises(UserError, match="one that can be extended: random, local"):
        extended_recipe(grid, 7000)
    searcher = {"kind": "random", "budget": 6561}
    whole = searched(tiny_recipe(tmp_path / "runs", searcher=searcher, **table))
    with pytest.raises(UserError, match=r"not asked for its whole space\..* 6,561 candidates in all"):
        extended(whole, 7000)
    assert whole.ending == "FINISHED"


def test_other_data_and_a_run_that_was_extended_meanwhile(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.experiment, "WriterProcess", NoWriter)
    run = Run(copied / "runs" / "tiny-001")
    recipe = extended_recipe(run, 18)
    other = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": 170})})
    with pytest.raises(UserError, match="what the run began with") as caught:
        check_extendable(run, SearchPlan.of(other))
    assert caught.value.field == "data"
    extended(run, 18)
    rows: list[Row] = list(run.ledger.rows())
    with pytest.raises(UserError, match="One has, just now"):
        search(recipe, Place(local=True), Console(quiet=True), extend=run)
    assert run.ending == "FINISHED" and list(run.ledger.rows()) == rows
