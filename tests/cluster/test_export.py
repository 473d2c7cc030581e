"""`weft export`: the network that was found, computing as it did in the search; also while that runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cluster.candidates import trained_state
from cluster.checkpoints import CheckpointStore
from cluster.export import export_network
from cluster.grid import Grid, drive_local
from cluster.network_file import load_network
from cluster.report import rank
from cluster.run import Run
from cluster.search_messages import SearchConfig
from cluster.trial import TrainingTrial, candidate_folder
from networks.errors import UserError
from tests.cluster.choices import new_search, ready, reports, tiny_recipe, write_table
from tests.cluster.commands import tree, weft
from tests.cluster.rows import METRIC
from tests.cluster.searches import new_grid, small_recipe
from trainers.data import open_data
from trainers.scores.accuracy import validate


@pytest.fixture
def grid(undisturbed: Grid, tmp_path: Path) -> Run:
    """The finished grid, moved to another place."""
    shutil.copytree(undisturbed.run.folder, tmp_path / "runs" / "small-001")
    return Run(tmp_path / "runs" / "small-001")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SearchConfig:
    config = new_search(tiny_recipe(tmp_path_factory.mktemp("searched") / "runs"))
    reports(ready(config))
    return config


# Grids -----------------------------------------------------------------------------------------------------


def accuracy_of(folder: Path, run: Run) -> float:
    network, _ = load_network(folder)
    with torch.no_grad():
        return validate(network, open_data(run.recipe.data).batches("validation", 64)).accuracy


def test_the_best_of_a_grid_has_the_accuracy_that_was_recorded(grid: Run, tmp_path: Path) -> None:
    before = tree(grid.folder)
    found = export_network(grid, None, tmp_path / "out")
    best = rank(grid.ledger.rows(), grid.recipe.metric)[0]
    assert (found["candidate"], found["id"], found["trained"]) == (
        best.candidate.ask_index,
        best.candidate.id,
        4,
    )
    assert found["metrics"] == best.metrics
    assert found["params"] == best.cost.params
    assert accuracy_of(tmp_path / "out", grid) == best.metrics["validation_accuracy"]
    network, about = load_network(tmp_path / "out")
    assert network.architecture.digest == best.architecture
    assert about == {name: value for name, value in found.items() if name not in {"folder", "params"}}
    assert tree(grid.folder) == before


def test_any_candidate_by_number_or_id(grid: Run, tmp_path: Path) -> None:
    last = rank(grid.ledger.rows(), grid.recipe.metric)[-1]
    for name in (str(last.candidate.ask_index), last.candidate.id):
        found = export_network(grid, name, tmp_path / name)
        assert (found["trained"], found["metrics"]) == (last.epoch, last.metrics)
        assert accuracy_of(tmp_path / name, grid) == last.metrics["validation_accuracy"]


def test_while_a_grid_runs_the_newest_checkpoint_is_taken(tmp_path: Path) -> None:
    """After the first rung, in the middle of the second: one candidate is further than its row."""
    grid = new_grid(small_recipe(tmp_path / "runs"))
    trained: list[int] = []

    def export(report: object) -> None:
        if not grid.run.ledger.segments():
            with pytest.raises(UserError, match="None of this one has been scored yet"):
                export_network(grid.run, None, tmp_path / "out")
            return
        found = export_network(grid.run, None, tmp_path / "out")
        assert found["candidate"] == rank(grid.run.ledger.rows(), METRIC)[0].candidate.ask_index
        assert found["metrics"][METRIC] == accuracy_of(tmp_path / "out", grid.run)
        trained.append(found["trained"])

    grid.reports.append(export)
    drive_local(grid)
    assert set(trained) == {1, 2, 3, 4}, "all that the best was trained for while it was the best"


def test_a_checkpoint_that_is_replaced_while_it_is_read(
    grid: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both that were listed are gone when they are read; what was written meanwhile is taken."""
    row = rank(grid.ledger.rows(), grid.recipe.metric)[0]
    store = CheckpointStore(candidate_folder(grid.folder, row.candidate))
    newest = store.newest()
    assert newest is not None
    real = CheckpointStore.newest
    calls = 0

    def race(self: CheckpointStore) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            self.save(newest.epoch + 2, newest.tensors, newest.values)
            return None
        return real(self)

    monkeypatch.setattr(CheckpointStore, "newest", race)
    assert trained_state(grid, row).epoch == newest.epoch + 2
    assert calls == 2


def test_what_a_grid_has_no_weights_of(grid: Run, tmp_path: Path) -> None:
    row = rank(grid.ledger.rows(), grid.recipe.metric)[0]
    folder = candidate_folder(grid.folder, row.candidate)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="a whole checkpoint, unaltered") as caught:
        export_network(grid, None, tmp_path / "out")
    assert (caught.value.field, caught.value.value) == ("checkpoint", str(folder))
    shutil.rmtree(folder)
    with pytest.raises(
        UserError, match="There is none in small-001: it failed early, or weft gc has removed it"
    ):
        export_network(grid, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Searches over choices -------------------------------------------------------------------------------------


def test_the_best_of_a_search_is_the_one_that_it_keeps(searched: SearchConfig, tmp_path: Path) -> None:
    run = Run(searched.folder)
    found = export_network(run, None, tmp_path / "out")
    _, about = load_network(run.folder / "best")
    assert {name: found[name] for name in about} == about
    assert (tmp_path / "out" / "network.safetensors").read_bytes() == (
        run.folder / "best" / "network.safetensors"
    ).read_bytes()
    assert found["trained"] == 4


def test_any_candidate_of_a_search_has_the_accuracy_that_was_recorded(
    searched: SearchConfig, tmp_path: Path
) -> None:
    run = Run(searched.folder)
    for row in list(run.ledger.rows())[::7]:
        export_network(run, row.candidate.id, tmp_path / "out")
        assert accuracy_of(tmp_path / "out", run) == row.metrics["accuracy"]


def test_while_a_search_runs_the_best_so_far_is_exported(tmp_path: Path) -> None:
    config = new_search(tiny_recipe(tmp_path / "runs"))
    run, trial = Run(config.folder), ready(config)
    while trial.step().stage == "training":
        with pytest.raises(UserError, match="None of this one has been scored yet"):
            export_network(run, None, tmp_path / "out")
    first = export_network(run, None, tmp_path / "first")
    assert first["candidate"] in (0, 1, 2)
    assert accuracy_of(tmp_path / "first", run) == first["metrics"]["accuracy"]
    assert not (run.folder / "best").exists()
    reports(trial)
    last = export_network(run, None, tmp_path / "last")
    assert last["metrics"]["accuracy"] >= first["metrics"]["accuracy"]


def test_a_supernet_of_another_step_is_not_what_was_scored(searched: SearchConfig, tmp_path: Path) -> None:
    shutil.copytree(searched.folder, tmp_path / "tiny-001")
    run = Run(tmp_path / "tiny-001")
    newest = sorted((run.folder / "supernet").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(UserError, match="of step 4, with which candidates are scored") as caught:
        export_network(run, None, tmp_path / "out")
    assert caught.value.field == "checkpoint"


def test_other_data_would_recalibrate_otherwise(searched: SearchConfig, tmp_path: Path) -> None:
    shutil.copytree(searched.folder, tmp_path / "tiny-001")
    run = Run(tmp_path / "tiny-001")
    run.write_json("run.json", {**run.about, "data_digest": "0" * 64})
    with pytest.raises(UserError, match="what the run began with"):
        export_network(run, None, tmp_path / "out")


def test_a_table_has_no_networks(tmp_path: Path) -> None:
    path = write_table(tmp_path / "known.csv", {"known": sum})
    score = {"kind": "table", "path": str(path), "names": ["known"], "image": [1, 8, 8]}
    config = new_search(tiny_recipe(tmp_path / "runs", data=None, supernet=None, score=score))
    reports(ready(config))
    with pytest.raises(UserError, match="a search that trains a supernet"):
        export_network(Run(config.folder), None, tmp_path / "out")


# On the command line ---------------------------------------------------------------------------------------


def test_the_command_says_what_and_where(grid: Run, tmp_path: Path) -> None:
    best = rank(grid.ledger.rows(), grid.recipe.metric)[0]
    ended = weft("export", "small", cwd=tmp_path)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith(
        f"small-001, candidate {best.candidate.ask_index}: {best.cost.params:,} parameters; "
    )
    folder = f"small-001-{best.candidate.ask_index:06d}"
    assert lines[1] == f"network, read again and checked: {folder}"
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
        "network.json",
        "network.safetensors",
    ]
    found = json.loads(weft("export", "small", "0", "--to", "here/net", "--json", cwd=tmp_path).out)
    assert (found["candidate"], found["folder"]) == (0, "here/net")
    assert (tmp_path / "here" / "net" / "network.json").exists()
    again = weft("export", "small", "0", "--to", "here/net", cwd=tmp_path)
    assert again.code == 0 and again.out.endswith("checked: here/net\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("smal", "0"), ["RUN: 'smal'", "Did you mean 'small-001'?"]),
        (("small", "6"), ["CANDIDATE: '6'", "0 to 5", "weft show small-001"]),
        (("small", "--to", "taken/net"), ["--to: 'taken/net'", "a folder that can be written"]),
    ],
)
def test_what_the_command_refuses(
    grid: Run, tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    ended = weft("export", *arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    for word in words:
        assert word in ended.err


def test_a_failed_candidate_has_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trial: TrainingTrial, config: object) -> object:
        raise MemoryError("none left")

    monkeypatch.setattr(TrainingTrial, "_build", fail)
    grid = new_grid(small_recipe(tmp_path / "runs"))
    drive_local(grid)
    with pytest.raises(UserError, match="Here all have failed"):
        export_network(grid.run, None, tmp_path / "out")
    with pytest.raises(UserError, match="it failed early"):
        export_network(grid.run, "0", tmp_path / "out")
