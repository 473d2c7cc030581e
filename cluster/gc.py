"""`weft gc`: removes what a run keeps and needs no more. What was found stays: ledger, reports, networks."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from cluster.disk_need import bytes_text, files_below
from cluster.files import STALE_S, AnyPath, remove_folder
from cluster.lease import disk_lease
from cluster.logs import FILE as LOG
from cluster.recipe import Recipe
from cluster.report import rank
from cluster.run import Run, all_runs
from cluster.tables import plain_table
from cluster.trial import candidate_folder
from networks.errors import UserError

STANDALONE = "standalone"  # runs inside a run (cluster/rank.py)
# Of a run in S3, on this machine: MLflow's record, where people may have written notes, and logs.
KEPT_HERE = ("mlflow.db", "mlartifacts", LOG)


class Kept(NamedTuple):
    """How many checkpoints stay: all of the `best` candidates, the newest `newest` of the others."""

    newest: int = 1
    best: int = 10


class Spared(NamedTuple):
    """What went, or would go. `left`: why the run was left alone, if it was."""

    run: str
    files: int = 0
    bytes: int = 0
    left: str = ""


class File(NamedTuple):
    path: AnyPath
    size: int


def clear_runs(runs: Sequence[Run], kept: Kept, *, named: bool, dry_run: bool) -> Iterator[Spared]:
    """Clear one run after the other, and the trainings that `weft rank` keeps beside a search. One that a
    process drives is left alone; if the user has `named` it, `UserError` is raised before anything goes."""
    every = [one for run in runs for one in (run, *all_runs(run.folder / STANDALONE))]
    for run in every if named else ():
        if run.driver:
            raise _driven(run)
    for run in every:
        try:
            yield clear_run(run, kept, dry_run=dry_run)
        except ValueError as error:  # it is driven, altered, or of another version
            if named:
                raise
            yield Spared(run.name, left=str(error).splitlines()[0])


def clear_run(run: Run, kept: Kept, *, dry_run: bool = False) -> Spared:
    """Remove what a run needs no more, with its lock held. Raises `UserError` when a process drives it."""
    if run.driver:
        raise _driven(run)
    found = list(spare_files(run, kept))
    if found and not dry_run:
        with run.hold():
            found = list(spare_files(run, kept))  # as it is now that nobody changes it
            for file in found:
                file.path.unlink(missing_ok=True)
            remove_folder(run.work / "scratch")
            for folder in {file.path.parent for file in found}:
                if isinstance(folder, Path):
                    with suppress(OSError):  # there is something left in it
                        folder.rmdir()
    return Spared(run.name, len(found), sum(file.size for file in found))


def spare_files(run: Run, kept: Kept) -> Iterator[File]:
    """Checkpoints, what Tune and killed processes have left, and this machine's copy of a run in S3. A note
    comes before its weights: a checkpoint without a note does not count."""
    yield from _checkpoints(run, kept)
    yield from (File(*one) for one in files_below(run.work / "scratch"))
    if isinstance(run.folder, Path):
        yield from _drafts(run.folder)
    elif run.ending == "FINISHED":
        yield from _work(run.work)


def _checkpoints(run: Run, kept: Kept) -> Iterator[File]:
    """Of a grid's candidates. Those that are to go on keep theirs; the supernet of a search is always needed,
    for `weft export`, `rank` and `extend`."""
    recipe = run.recipe
    if not isinstance(recipe, Recipe):
        return
    there: dict[str, list[File]] = defaultdict(list)
    for path, size in files_below(run.folder / "candidates"):
        if path.name.startswith("epoch-"):
            there[path.parent.name].append(File(path, size))
    for row in rank(run.ledger.rows(), recipe.metric)[kept.best :]:
        files = there[candidate_folder(run.folder, row.candidate).name] if row.final else []
        stems = sorted({file.path.stem for file in files})
        gone = stems[: max(0, len(stems) - kept.newest)]
        spare = [file for file in files if file.path.stem in gone]
        yield from sorted(spare, key=lambda file: not file.path.name.endswith(".json"))


def _drafts(folder: Path) -> Iterator[File]:
    """Files that were not finished, and that nobody writes any more."""
    for path, size in files_below(folder):
        assert isinstance(path, Path)
        draft = path.name.startswith(".") and path.name.endswith(".draft")
        if draft and path.relative_to(folder).parts[0] != STANDALONE:
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    yield File(path, size)


def _work(work: Path) -> Iterator[File]:
    """What this machine keeps of a run in S3 and can make again; nothing while the MLflow writer is at it."""
    try:
        with disk_lease(work / "tracking" / "lock", work.name):
            found = [File(*one) for one in files_below(work)]
    except (FileNotFoundError, UserError):
        return
    for file in found:
        assert isinstance(file.path, Path)
        place = file.path.relative_to(work)
        if not place.parts[0].startswith(KEPT_HERE) and place.name != "lock":
            yield file


def _driven(run: Run) -> UserError:
    return UserError("RUN", run.name, "a run that no process drives", f"That is {run.driver}.")


def cleared_table(found: Sequence[Spared]) -> Table:
    """What each run gave, a line each; runs that had nothing to give are not shown."""
    table = plain_table("run", "files", "bytes", "", left=("run", ""))
    for one in found:
        if one.files or one.left:
            table.add_row(one.run, f"{one.files:,}", bytes_text(one.bytes), one.left)
    return table
