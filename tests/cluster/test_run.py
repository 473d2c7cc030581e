"""A run's folder: numbered, found, locked, and resumed only by the search that it belongs to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.run import Run, check_storage, runs_of
from cluster.version import code_version
from networks.errors import UserError
from tests.cluster.searches import small_recipe


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return Search.of(small_recipe(tmp_path_factory.mktemp("prepared")))


def search(prepared: Search, storage: Path, **changes: object) -> Search:
    """The same candidates and data under a changed recipe."""
    return Search(small_recipe(storage, **changes), prepared.space, prepared.data)


def test_runs_are_numbered_and_never_shared(prepared: Search, tmp_path: Path) -> None:
    storage = tmp_path / "deep" / "runs"
    names = [Run.create(search(prepared, storage)).name for _ in range(3)]
    assert names == ["small-001", "small-002", "small-003"]
    (storage / "small-002" / "run.json").unlink()
    (storage / "small-007").mkdir()  # of a search that died at once
    (storage / "small-notes").mkdir()
    assert Run.create(search(prepared, storage)).name == "small-008"
    assert [run.name for run in runs_of("small", storage)] == ["small-001", "small-003", "small-008"]


def test_the_thousandth_run_is_the_newest(prepared: Search, tmp_path: Path) -> None:
    (tmp_path / "small-999").mkdir()
    (tmp_path / "small-999" / "run.json").write_text("{}")
    created = Run.create(search(prepared, tmp_path))
    assert created.name == "small-1000"
    assert Run.find("small", tmp_path).name == "small-1000"


def test_recipes_whose_names_begin_alike_do_not_mix(prepared: Search, tmp_path: Path) -> None:
    Run.create(search(prepared, tmp_path, name="small-ws"))
    Run.create(search(prepared, tmp_path, name="small-001"))
    own = Run.create(search(prepared, tmp_path))
    assert [run.name for run in runs_of("small", tmp_path)] == [own.name]
    assert Run.resumable(search(prepared, tmp_path)).name == own.name
    assert Run.find("small-001-001", tmp_path).about["experiment"] == "small-001"


def test_a_run_says_what_it_is_of(prepared: Search, tmp_path: Path) -> None:
    made = search(prepared, tmp_path)
    run = Run.create(made)
    assert run.recipe == made.recipe
    assert Recipe.model_validate(yaml.safe_load((run.folder / "recipe.yaml").read_text())) == made.recipe
    assert run.about["data_digest"] == prepared.data.digest
    assert run.about["commit"] == code_version()
    assert run.ending is None
    run.finish("KILLED")
    assert Run(run.folder).ending == "KILLED"


def test_a_run_may_be_moved(prepared: Search, tmp_path: Path) -> None:
    run = Run.create(search(prepared, tmp_path))
    assert run.tracking_uri == f"sqlite:///{tmp_path}/small-001/mlflow.db"
    moved = Run(run.folder.rename(tmp_path / "elsewhere"))
    assert moved.tracking_uri == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    assert str(run.folder) not in (moved.folder / "run.json").read_text()
    named = Run.create(search(prepared, tmp_path, tracking={"uri": "http://somewhere:5000"}))
    assert named.tracking_uri == "http://somewhere:5000"


# Finding --------------------------------------------------------------------------------------------


def test_a_run_is_found_by_name_path_and_recipe(
    prepared: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Run.create(search(prepared, tmp_path / "runs")) for _ in range(2))
    assert Run.find("small-001", tmp_path / "runs").folder == first.folder
    assert Run.find("small", tmp_path / "runs").folder == second.folder
    assert Run.find(str(first.folder), tmp_path / "elsewhere").folder == first.folder
    monkeypatch.chdir(tmp_path)
    assert Run.find("runs/small-001", Path("nowhere")).folder == first.folder
    assert Run.find("small-001", Path("runs")).folder.is_absolute()


@pytest.mark.parametrize(
    "name", ["small-01", "smal", "/nowhere/small-001", "../*", "**", "x**y", "[a", "", "small-001/ledger"]
)
def test_an_unknown_run_is_named_with_those_there_are(prepared: Search, tmp_path: Path, name: str) -> None:
    Run.create(search(prepared, tmp_path))
    with pytest.raises(UserError, match=r"a run in .*: small-001") as caught:
        Run.find(name, tmp_path)
    assert (caught.value.field, caught.value.value) == ("RUN", name)
    if name in ("small-01", "smal"):
        assert "Did you mean 'small-001'?" in str(caught.value)


def test_without_storage_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none yet"):
        Run.find("small", tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a/b", "../a", "..", ".hidden", "", "a b", "a\n", "a*", "x" * 81])
def test_names_that_are_no_folder_names_are_refused_by_the_recipe(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        small_recipe(tmp_path, name=name)


# Resuming -------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_resumed_wherever_it_is_run(prepared: Search, tmp_path: Path) -> None:
    run = Run.create(search(prepared, tmp_path))
    assert Run.resumable(search(prepared, tmp_path)).folder == run.folder
    elsewhere = {"resources": {"cpus": 2}, "retries": 0, "tracking": {"runs": "all"}}
    assert Run.resumable(search(prepared, tmp_path, **elsewhere)).folder == run.folder
    for ending in ("KILLED", "FAILED"):
        run.finish(ending)
        assert Run.resumable(search(prepared, tmp_path)).folder == run.folder


def test_a_resumed_run_takes_over_where_it_is_tracked_and_run(prepared: Search, tmp_path: Path) -> None:
    run = Run.create(search(prepared, tmp_path))
    before = run.about
    server = {"uri": "http://somewhere:5000", "runs": "frontier"}
    changed = search(prepared, tmp_path, tracking=server, resources={"cpus": 2})
    Run.resumable(changed).adopt(changed.recipe)
    assert run.tracking_uri == "http://somewhere:5000"
    assert run.about["runs"] == "frontier" and run.recipe == changed.recipe
    assert Recipe.model_validate(yaml.safe_load((run.folder / "recipe.yaml").read_text())) == changed.recipe
    kept = (
        "run",
        "experiment",
        "recipe_digest",
        "space_digest",
        "data_digest",
        "metric",
        "created",
        "commit",
    )
    assert {name: run.about[name] for name in kept} == {name: before[name] for name in kept}
    run.adopt(search(prepared, tmp_path).recipe)
    assert run.about == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"training": {"epochs": 5, "batch_size": 32}},
        {"stopping": {"kind": "none"}},
        {"data": {"name": "digits", "limit": 301}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_recipe_is_not_resumed(
    prepared: Search, tmp_path: Path, changes: dict[str, object]
) -> None:
    Run.create(search(prepared, tmp_path))
    with pytest.raises(UserError, match=r"--resume: 'small-001'.*same recipe.*recipe\.yaml"):
        Run.resumable(search(prepared, tmp_path, **changes))


def test_other_images_under_the_same_recipe_are_not_resumed(prepared: Search, tmp_path: Path) -> None:
    run = Run.create(search(prepared, tmp_path))
    run.write_json("run.json", {**run.about, "data_digest": "of other images"})
    with pytest.raises(UserError, match=r"data: 'digits'.*what the run began with"):
        Run.resumable(search(prepared, tmp_path))


def test_a_finished_run_is_not_resumed(prepared: Search, tmp_path: Path) -> None:
    Run.create(search(prepared, tmp_path)).finish("FINISHED")
    with pytest.raises(UserError, match=r"an unfinished run.*weft show small-001"):
        Run.resumable(search(prepared, tmp_path))


def test_the_newest_unfinished_run_of_the_recipe_is_resumed(prepared: Search, tmp_path: Path) -> None:
    """Whatever lies between: finished runs, runs of a changed recipe, runs of other images."""
    runs = [Run.create(search(prepared, tmp_path, seed=seed)) for seed in (0, 0, 0, 0, 1)]
    runs[2].write_json("run.json", {**runs[2].about, "data_digest": "of other images"})
    runs[3].finish("FINISHED")
    assert Run.resumable(search(prepared, tmp_path)).name == "small-002"
    assert Run.resumable(search(prepared, tmp_path, seed=1)).name == "small-005"
    with pytest.raises(UserError, match=r"'small-005'.*changed since"):
        Run.resumable(search(prepared, tmp_path, seed=2))
    runs[1].finish("FINISHED")
    assert Run.resumable(search(prepared, tmp_path)).name == "small-001"
    runs[0].finish("FINISHED")
    with pytest.raises(UserError, match="something else"):
        Run.resumable(search(prepared, tmp_path))
    runs[2].finish("FINISHED")
    with pytest.raises(UserError, match="weft show small-004"):
        Run.resumable(search(prepared, tmp_path))


def test_nothing_to_resume(prepared: Search, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume: 'small'.*Start it without"):
        Run.resumable(search(prepared, tmp_path))
    assert list(tmp_path.iterdir()) == []


# Lock and storage -----------------------------------------------------------------------------------

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_is_kept_out_until_it_dies(prepared: Search, tmp_path: Path) -> None:
    run = Run.create(search(prepared, tmp_path))
    run.finish("KILLED")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, run.folder / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    (run.folder / "lock").write_text("4711")
    try:
        with pytest.raises(UserError, match="no other process"), run.lock():
            raise AssertionError("two drivers")
    finally:
        holder.kill()
        holder.communicate()
    assert run.ending == "KILLED"  # who was kept out changed nothing
    assert (run.folder / "lock").read_text() == "4711"
    with run.lock():
        assert run.ending is None
        assert int((run.folder / "lock").read_text()) > 0
        with pytest.raises(UserError, match="no other process"), Run(run.folder).lock():
            raise AssertionError("two drivers")
    with run.lock():
        pass


@pytest.mark.parametrize("place", ["file", "under a file"])
def test_storage_that_cannot_be_written_is_named(prepared: Search, tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_text("a file")
    storage = tmp_path / "taken" if place == "file" else tmp_path / "taken" / "runs"
    for use in (lambda: Run.create(search(prepared, storage)), lambda: check_storage(storage)):
        with pytest.raises(UserError, match="a folder that can be written") as caught:
            use()
        assert (caught.value.field, caught.value.value) == ("storage", str(storage))
    assert (tmp_path / "taken").read_text() == "a file"


def test_storage_is_checked_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_storage(tmp_path / "not" / "there" / "yet")
    monkeypatch.chdir(tmp_path)
    check_storage(Path("runs"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("os.access", lambda folder, mode: Path(folder) != tmp_path)  # as for a guest
    with pytest.raises(UserError, match=f"{tmp_path} is write-protected"):
        check_storage(tmp_path / "runs")


def test_json_of_a_run_is_replaced_whole(
    prepared: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(search(prepared, tmp_path))
    run.write_json("report.json", {"old": 1})

    def die(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(OSError, match="No space"):
        run.write_json("report.json", {"new": 2})
    assert json.loads((run.folder / "report.json").read_text()) == {"old": 1}
