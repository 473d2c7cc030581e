"""Searches over topologies: what recipes say, what the runs keep, and equal results however they are run."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError
from rich.console import Console

from cluster.checkpoints import CheckpointStore
from cluster.experiment import Outcome, Place, search
from cluster.grid import Grid, drive_local
from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.recipe_topology import NetworksSection
from cluster.run import Run, runs_of
from cluster.snapshots import moments_of
from cluster.trial import candidate_folder
from networks.adjacency import adjacency
from networks.architecture import Architecture, Shape
from networks.errors import UserError
from networks.learnable import learnable
from networks.standard import standard_topology
from tests.cluster.searches import raise_after
from tests.cluster.test_drivers import Interrupted, drive_tune

LOCAL = Place(local=True)
SPACE: dict[str, Any] = {
    "kind": "topology",
    "nodes": 5,
    "stages": 2,
    "channels": 2,
    "topologies": [
        {"topology": "residual", "interval": [1, 3]},
        {
            "topology": "complete",
            "edges": [{"penalty": "none"}, {"penalty": "adaptive", "strength": 0.2, "rate": 5}],
        },
        {"generator": "ER", "p": 0.5},
    ],
    "seeds": 1,
}  # fmt: skip


def recipe_of(storage: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "name": "topologies",
            "space": SPACE,
            "data": {"name": "digits", "limit": 240},
            "training": {"epochs": 4, "batch_size": 40},
            "stopping": {"kind": "none"},
            "snapshots": {"points": 2, "seeds": 2},
            "storage": str(storage),
            **changes,
        }
    )


def run_of(recipe: Recipe, **options: Any) -> Outcome:
    return search(recipe, LOCAL, Console(quiet=True), **options)


def snapshots_run(run: Run) -> Run:
    (found,) = runs_of("topologies-snapshots", run.folder / "snapshots")
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_of(recipe_of(tmp_path_factory.mktemp("ended")))


# Recipes ------------------------------------------------------------------------------------------


def test_a_recipe_lists_topologies_and_how_their_edges_are_weighed(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    space = recipe.space.build(Shape(1, 8, 8), 10)
    labels = [space.names(genes)["setting"] for genes in space.enumerate()]
    assert labels == ["residual(1)", "residual(3)", "complete, learned", "complete, adaptive(0.2)", "ER(0.5)"]
    ways = [recipe.training_of(genes).edges for genes in space.enumerate()]
    assert [way and way.penalty for way in ways] == [None, None, "none", "adaptive", None]
    assert len({space.cost(genes).macs for genes in space.enumerate()}) == 1
    twice = recipe_of(tmp_path, space={**SPACE, "seeds": [3, 5]}).space.build(Shape(1, 8, 8), 10)
    assert twice.size == 10 and twice.decode((3, 0, 0)) != twice.decode((3, 0, 1)), "each seed its own graph"
    assert "snapshots" not in recipe_of(tmp_path, snapshots=None).model_dump()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topologies": [{"topology": "residua"}]}, "plain, residual, complete, dense"),
        ({"topologies": [{"generator": "WX", "k": 2}]}, "ER, BA, WS"),
        ({"topologies": [{"topology": "plain", "generator": "ER"}]}, "a topology"),
        ({"topologies": [{"topology": "plain"}, {"topology": "plain"}]}, "each topology once"),
        ({"topologies": [{"topology": "residual", "interval": 2}]}, "multiple of the interval 2"),
        ({"topologies": [{"generator": "WS", "k": 4, "p": 0.5}]}, "fewer than the 3 nodes"),
        ({"edges": [{"penalty": "l2"}]}, "penalty"),
        ({"edges": ["as they were"]}, "as they are"),
        ({"edges": [{"penalty": "none"}, {"penalty": "none", "rate": 2.0}]}, "each way once"),
        ({"topologies": [{"topology": "plain", "edges": "learned"}]}, "a list of"),
        ({"topologies": [{"topology": "plain", "edges": [{"strength": -1}]}]}, "strength"),
        ({"operation": "triplet_sep"}, "triplet_sep_conv_3x3"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        recipe_of(tmp_path, space={**SPACE, **changes})


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    bare = {**SPACE, "topologies": [{"topology": "plain"}]}
    with pytest.raises(ValidationError, match="edges that learn"):
        recipe_of(tmp_path, space=bare)
    with pytest.raises(ValidationError, match=r"1 to training\.epochs"):
        recipe_of(tmp_path, snapshots={"points": 5})
    training = {"epochs": 4, "edges": {"penalty": "uniform", "strength": 0.1}}
    with pytest.raises(ValidationError, match=r"it is in space\.edges"):
        recipe_of(tmp_path, training=training)
    narrow = {**SPACE, "macs": 10}
    with pytest.raises(UserError, match="two channels"):
        recipe_of(tmp_path, space=narrow).space.build(Shape(1, 8, 8), 10)


def test_networks_that_somebody_has_are_a_space_too(tmp_path: Path) -> None:
    """A standard one by its name, another from its file, each with the edges that it has and with more."""
    image = Shape(3, 32, 32)
    file = tmp_path / "network.json"
    file.write_text(standard_topology("resnet20", image, 10).to_json())
    space = {
        "kind": "networks",
        "networks": [
            {"architecture": "resnet20"},
            {"architecture": str(file), "label": "mine", "complete": True, "learn": "all"},
        ],
        "edges": ["as they are", {"penalty": "none"}],
        "seeds": 1,
    }
    section = recipe_of(tmp_path, space=space, snapshots=None).space
    built = section.build(image, 10)
    assert [built.names(genes)["setting"] for genes in built.enumerate()] == [
        "resnet20", "resnet20, learned", "mine", "mine, learned",
    ]  # fmt: skip
    assert built.decode((0, 0, 0)) == built.decode((1, 0, 0)) == standard_topology("resnet20", image, 10)
    mine = learnable(standard_topology("resnet20", image, 10), "all", complete=True)
    assert built.decode((1, 1, 0)) == mine
    with pytest.raises(UserError, match=r"space\.networks\.1\.architecture\.classes"):
        section.build(image, 7)
    with pytest.raises(ValidationError, match="resnet20, resnet32"):
        recipe_of(tmp_path, space={**space, "networks": [{"architecture": "resnet21"}]}, snapshots=None)
    with pytest.raises(ValidationError, match="each network once"):
        recipe_of(tmp_path, space={**space, "networks": 2 * [{"architecture": "resnet20"}]}, snapshots=None)


# Runs ---------------------------------------------------------------------------------------------


def test_topologies_are_kept_on_the_way(ended: Outcome) -> None:
    """As many as asked for, of the candidates whose edges learn."""
    prepared = Search.of(ended.run.recipe)  # type: ignore[arg-type]
    for entrant in prepared.entrants:
        store = CheckpointStore(candidate_folder(ended.run.folder, entrant.candidate)).newest()
        assert store is not None
        architecture = prepared.space.decode(entrant.candidate.genes)
        kept = store.values.get("snapshots", {})
        assert list(kept) == (["2", "4"] if "complete" in str(entrant.names["setting"]) else [])
        if kept:
            first, last = moments_of(architecture, store)
            assert (first.epoch, last.epoch) == (2, 4)
            for stage, values in enumerate(last.values):
                assert values.equal(store.tensors[f"network.stages.{stage}.edge_values"])
            assert not first.values[0].equal(last.values[0])


def test_kept_topologies_are_trained_from_scratch(ended: Outcome) -> None:
    """Candidates of a run of their own, which name the one that they were taken from; frozen all the way."""
    grid = snapshots_run(ended.run)
    section = grid.recipe.space
    assert isinstance(section, NetworksSection) and len(section.networks) == 2
    rows = {row.candidate.ask_index: row for row in grid.ledger.rows()}
    assert len(rows) == 4 and all(row.status == "ok" for row in rows.values())
    found = ended.report["snapshots"]
    best = next(row for row in ended.report["ranking"] if row["setting"].startswith("complete"))
    assert {one["parent"] for one in found} == {best["id"]} == {row.parent for row in rows.values()}
    assert [one["epoch"] for one in found] == [2, 4] and all(one["trainings"] == 2 for one in found)
    for ask, row in rows.items():
        network = section.networks[row.candidate.genes[0]].architecture
        assert isinstance(network, Architecture)
        assert row.names["epoch"] in (2, 4) and "edges fixed" in row.edit
        store = CheckpointStore(candidate_folder(grid.folder, row.candidate)).newest()
        assert store is not None, ask
        for stage in range(2):
            weights = [edge.value for edge in network.graph(stage).edges]
            assert store.tensors[f"network.stages.{stage}.edge_values"].tolist() == weights
        assert not any("edge_values" in name for name in store.tensors if name.startswith("momentum"))


def test_what_is_said_of_it(ended: Outcome) -> None:
    page = (ended.run.folder / "report.md").read_text()
    assert "## Topologies along their optimisation" in page and "seed 1 after 2 |" in page
    names = {path.name for path in ended.run.pictures.glob("*.png")}
    assert {"snapshots.png", "edges.png"} <= names
    grid = snapshots_run(ended.run)
    client = MlflowClient(grid.tracking_uri)
    experiment = client.get_experiment_by_name("topologies-snapshots")
    assert experiment is not None
    children = [
        run for run in client.search_runs([experiment.experiment_id]) if "weft.candidate_id" in run.data.tags
    ]
    assert len(children) == 4
    section = grid.recipe.space
    assert isinstance(section, NetworksSection)
    for child in children:
        assert child.data.tags["weft.parent_candidate"] and "edges fixed" in child.data.tags["weft.edit"]
        assert float(child.data.params["sparsity"]) >= 0 and child.data.params["epoch"] in ("2", "4")
        text = client.download_artifacts(child.info.run_id, "adjacency.json")
        number = json.loads(child.data.tags["genes"])[0]
        network = section.networks[number].architecture
        assert isinstance(network, Architecture)
        assert json.loads(Path(text).read_text())[0] == adjacency(network.graph(0)).tolist()


def test_a_driver_that_died_is_resumed(tmp_path: Path, ended: Outcome) -> None:
    recipe = recipe_of(tmp_path)
    prepared = Search.of(recipe)
    grid = Grid(prepared, Run.create(prepared))
    grid.reports.append(raise_after(Interrupted, 11))
    with pytest.raises(Interrupted):
        drive_local(grid)
    again = run_of(recipe, resume=True)
    assert again.run.ledger.digest() == ended.run.ledger.digest()
    assert snapshots_run(again.run).ledger.digest() == snapshots_run(ended.run).ledger.digest()


def test_no_numbers_fail_candidates_and_leave_nothing_to_train_again(tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 40, "lr": 1e30}
    broken = run_of(recipe_of(tmp_path, training=training))
    rows = list(broken.run.ledger.rows())
    assert {row.status for row in rows} == {"failed"} and all("not a number" in row.reason for row in rows)
    assert broken.report["snapshots"] == [] and not (broken.run.folder / "snapshots").exists()


@pytest.mark.ray
def test_ray_equals_local(shared_ray: None, tmp_path: Path, ended: Outcome) -> None:
    prepared = Search.of(recipe_of(tmp_path))
    grid = Grid(prepared, Run.create(prepared))
    drive_tune(grid)
    assert grid.run.ledger.digest() == ended.run.ledger.digest()
    for entrant in prepared.entrants:
        one, other = (
            CheckpointStore(candidate_folder(run.folder, entrant.candidate)).newest()
            for run in (grid.run, ended.run)
        )
        assert one is not None and other is not None
        assert one.values.get("snapshots") == other.values.get("snapshots")
        assert all(one.tensors[name].equal(value) for name, value in other.tensors.items())
