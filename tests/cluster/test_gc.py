"""`weft gc`: what is needed no more goes, what is kept still opens, and no run is touched while driven."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

import cluster.experiment
import cluster.gc
from cluster.candidates import trained_state
from cluster.disk_need import files_below
from cluster.export import export_network
from cluster.gc import Kept, clear_run, clear_runs
from cluster.grid import Grid, drive_local
from cluster.ledger import Row
from cluster.report import rank
from cluster.run import Run
from cluster.trial import candidate_folder
from networks.errors import UserError
from tests.cluster.choices import NoWriter, new_search, ready, reports, tiny_recipe
from tests.cluster.commands import tree, weft
from tests.cluster.rows import METRIC
from tests.cluster.searches import new_grid, raise_after, resumed_grid, small_recipe


@pytest.fixture
def grid(undisturbed: Grid, tmp_path: Path) -> Run:
    """The finished grid, moved to another place: six candidates with one or two checkpoints each."""
    shutil.copytree(undisturbed.run.folder, tmp_path / "runs" / "small-001")
    run = Run(tmp_path / "runs" / "small-001")
    run.finish("FINISHED")
    return run


def ranked(run: Run) -> list[Row]:
    return rank(run.ledger.rows(), METRIC)


def checkpoints(run: Run, row: Row) -> list[str]:
    folder = candidate_folder(run.folder, row.candidate)
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


def bytes_below(folder: Path) -> int:
    """Without locks, which hold the number of a process."""
    return sum(size for path, size in files_below(folder) if path.name != "lock")


def both(epoch: int) -> list[str]:
    return [f"epoch-{epoch:06d}.json", f"epoch-{epoch:06d}.safetensors"]


# Grids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest", [0, 1, 2, 5])
@pytest.mark.parametrize("best", [0, 2, 100])
def test_the_newest_and_those_of_the_best_stay(grid: Run, newest: int, best: int) -> None:
    before = {row.candidate.id: checkpoints(grid, row) for row in ranked(grid)}
    size = bytes_below(grid.folder)
    said = clear_run(grid, Kept(newest, best), dry_run=True)
    assert bytes_below(grid.folder) == size
    assert clear_run(grid, Kept(newest, best)) == said
    assert said.bytes == size - bytes_below(grid.folder)
    for place, row in enumerate(ranked(grid)):
        had = before[row.candidate.id]
        assert len(had) in (2, 4)
        kept = had if place < best or 2 * newest >= len(had) else had[len(had) - 2 * newest :]
        assert checkpoints(grid, row) == kept
    assert clear_run(grid, Kept(newest, best)) == said._replace(files=0, bytes=0)


def test_what_is_kept_opens_and_what_is_gone_is_refused(grid: Run, tmp_path: Path) -> None:
    shown = weft("show", "small", "--json", cwd=tmp_path).out
    ledger, ended = grid.ledger.digest(), grid.ended
    gone = weft("gc", "small", "--keep", "0", "--best", "1", cwd=tmp_path)
    assert gone.code == 0, gone.err
    assert weft("show", "small", "--json", cwd=tmp_path).out == shown
    assert (grid.ledger.digest(), grid.ended) == (ledger, ended)
    best, *others = ranked(grid)
    assert weft("damage", "small", best.candidate.id, "--json", cwd=tmp_path).code == 0
    assert export_network(grid, None, tmp_path / "out")["id"] == best.candidate.id
    for row in others:
        assert not candidate_folder(grid.folder, row.candidate).exists()
    for command in ("damage", "export"):
        refused = weft(command, "small", str(others[0].candidate.ask_index), cwd=tmp_path)
        assert (refused.code, refused.out) == (2, "")
        assert "a candidate with a checkpoint" in refused.err and "weft gc has removed it" in refused.err


def test_of_a_stopped_search_only_what_has_ended_is_cleared(tmp_path: Path, undisturbed: Grid) -> None:
    """A resume ends as if nothing had gone: the candidates that go on have their checkpoints."""
    recipe = small_recipe(tmp_path / "runs")
    grid = new_grid(recipe)
    grid.reports.append(raise_after(KeyboardInterrupt, 9))
    with grid.run.lock(), pytest.raises(KeyboardInterrupt):
        drive_local(grid)
    run = grid.run
    going = [row for row in ranked(run) if not row.final]
    before = {row.candidate.id: checkpoints(run, row) for row in going}
    epochs = {row.candidate.id: trained_state(run, row).epoch for row in going}
    assert sorted(epochs.values()) == [1, 1, 2], "one is on its way to the next rung"
    assert clear_run(run, Kept(newest=0, best=0)).files == 6
    assert {row.candidate.id: checkpoints(run, row) for row in going} == before
    assert run.ended is None
    again = resumed_grid(recipe)
    drive_local(again)
    assert again.run.ledger.digest() == undisturbed.run.ledger.digest()


def test_what_killed_processes_have_left_goes(grid: Run) -> None:
    old, new = grid.folder / "ledger" / ".00000001.json.x.draft", grid.folder / ".run.json.y.draft"
    for path in (old, new, grid.folder / "scratch" / "tune" / "trial" / "file", grid.folder / "notes.draft"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(7))
    os.utime(old, (time.time() - 7200,) * 2)
    found = clear_run(grid, Kept(newest=2))
    assert (found.files, found.bytes) == (2, 14)
    assert not old.exists() and new.exists()
    assert not (grid.folder / "scratch").exists()
    assert (grid.folder / "notes.draft").exists()


def test_files_of_the_users_stay(grid: Run) -> None:
    row = ranked(grid)[-1]
    folder = candidate_folder(grid.folder, row.candidate)
    (folder / "notes.txt").write_text("mine")
    (grid.folder / "candidates" / "mine").mkdir()
    clear_run(grid, Kept(newest=0, best=0))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert (grid.folder / "candidates" / "mine").exists()


# Searches over choices -------------------------------------------------------------------------------------


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: Run) -> Run:
    """A finished search, with a finished grid beside it, as `weft rank --train` leaves one."""
    monkeypatch.setattr(cluster.experiment, "WriterProcess", NoWriter)
    config = new_search(tiny_recipe(tmp_path / "runs", baseline=False))
    reports(ready(config))
    run = Run(config.folder)
    run.finish("FINISHED")
    shutil.copytree(grid.folder, run.folder / "standalone" / "tiny-standalone-001")
    return run


def test_a_supernet_stays_and_can_be_used_on(search: Run, tmp_path: Path) -> None:
    before = tree(search.folder / "supernet") | tree(search.folder / "best")
    inner = Run(search.folder / "standalone" / "tiny-standalone-001")
    size = bytes_below(search.folder)
    found = list(clear_runs([search], Kept(newest=0, best=1), named=True, dry_run=False))
    assert [one.run for one in found] == ["tiny-001", "tiny-standalone-001"]
    assert [one.files > 0 for one in found] == [False, True]
    assert sum(one.bytes for one in found) == size - bytes_below(search.folder)
    assert tree(search.folder / "supernet") | tree(search.folder / "best") == before
    assert len(list((inner.folder / "candidates").iterdir())) == 1
    assert export_network(search, None, tmp_path / "out")["trained"] == 4
    ended = weft("extend", "tiny", "--budget", "18", "--local", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["candidates"] == 18


# Runs that are being driven --------------------------------------------------------------------------------


def test_a_run_that_is_driven_is_left_alone(grid: Run, tmp_path: Path) -> None:
    shutil.copytree(grid.folder, tmp_path / "runs" / "small-002")
    other = Run(tmp_path / "runs" / "small-002")
    with grid.hold():
        before = tree(grid.folder)
        everything = weft("gc", "--keep", "0", "--best", "1", "--json", cwd=tmp_path)
        assert everything.code == 0
        named = weft("gc", "small-002", "small-001", cwd=tmp_path)
        assert tree(grid.folder) == before
    assert named.code == 2
    assert f"That is process {os.getpid()}" in named.err
    left, cleared = json.loads(everything.out)["runs"]
    assert left["run"] == "small-001" and left["files"] == 0
    assert "a run that no process drives" in left["left"]
    assert cleared["run"] == "small-002" and cleared["files"] > 0 and not cleared["left"]
    assert json.loads(everything.out)["bytes"] == cleared["bytes"]
    assert len(list((other.folder / "candidates").iterdir())) == 1


def test_a_named_run_that_is_driven_keeps_the_others_too(grid: Run, tmp_path: Path) -> None:
    shutil.copytree(grid.folder, tmp_path / "runs" / "small-002")
    other = Run(tmp_path / "runs" / "small-002")
    with grid.hold():
        before = tree(other.folder)
        with pytest.raises(UserError, match="a run that no process drives"):
            list(clear_runs([other, grid], Kept(0, 0), named=True, dry_run=False))
        assert tree(other.folder) == before


def test_it_holds_the_lock_while_it_removes(grid: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers: list[str] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        drivers.append(grid.driver)
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    assert clear_run(grid, Kept(0, 0)).files == len(drivers) > 0
    assert set(drivers) == {f"process {os.getpid()}"}
    assert not grid.driver


def test_one_that_is_taken_between_looking_and_holding(grid: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(grid.folder / "candidates")
    monkeypatch.setattr(Run, "driver", "")
    with grid.hold():
        (found,) = clear_runs([grid], Kept(0, 0), named=False, dry_run=False)
    assert found.files == 0 and "a run that no other process is driving" in found.left
    assert tree(grid.folder / "candidates") == before


def test_a_note_goes_before_its_weights(grid: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever interrupts it, no checkpoint is left that counts and cannot be read."""
    real = Path.unlink
    left = 3

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            clear_run(grid, Kept(0, 0))
    for path in (grid.folder / "candidates").rglob("*.json"):
        assert path.with_suffix(".safetensors").exists()
    assert grid.ending == "FINISHED"
    clear_run(grid, Kept(0, 0))
    assert not list((grid.folder / "candidates").rglob("*.safetensors"))


# On the command line ---------------------------------------------------------------------------------------


def test_the_command_says_what_it_frees(grid: Run, tmp_path: Path) -> None:
    size = bytes_below(grid.folder)
    dry = weft("gc", "--best", "2", "--dry-run", cwd=tmp_path)
    assert dry.code == 0, dry.err
    assert "would be freed" in dry.out and bytes_below(grid.folder) == size
    done = weft("gc", "--best", "2", cwd=tmp_path)
    freed = size - bytes_below(grid.folder)
    assert freed > 0
    assert done.out.splitlines()[-1].startswith(f"{freed:,} bytes (")
    assert done.out.splitlines()[-1] == dry.out.splitlines()[-1].replace("would be freed", "freed")
    assert any(line.split()[:1] == ["small-001"] for line in done.out.splitlines())
    assert weft("gc", cwd=tmp_path).out == "0 bytes (0 B) freed\n"
    assert weft("gc", "--storage", "nothing", cwd=tmp_path).out == "0 bytes (0 B) freed\n"


def test_a_run_that_cannot_be_read_stops_no_others(grid: Run, tmp_path: Path) -> None:
    shutil.copytree(grid.folder, tmp_path / "runs" / "small-000")
    segment = Run(tmp_path / "runs" / "small-000").ledger.segments()[0]
    segment.write_text(segment.read_text()[:-9])
    ended = weft("gc", "--keep", "0", "--json", cwd=tmp_path)
    broken, whole = json.loads(ended.out)["runs"]
    assert "a whole segment" in broken["left"]
    assert whole["run"] == "small-001"
    assert "a whole segment" in weft("gc", "small-000", cwd=tmp_path).err
    assert weft("gc", "small-003", cwd=tmp_path).code == 2
    assert weft("gc", "--keep", "-1", cwd=tmp_path).code == 2
