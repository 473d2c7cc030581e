"""One search from start to end: where it runs, its writer, its report. What `weft search` calls."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console

from cluster.disk_need import tell_disk_need
from cluster.extend import check_extendable
from cluster.grid import Grid, drive_local
from cluster.grid_report import write_report
from cluster.lease import Lease
from cluster.local_search import drive_local_search
from cluster.logs import logged
from cluster.preparation import Search
from cluster.progress import Progress
from cluster.recipe import AnyRecipe, AshaStopping, Recipe
from cluster.recipe_errors import together
from cluster.retraining import retrain
from cluster.run import Ending, Run, check_storage, runs_of
from cluster.search_messages import SearchConfig, SearchReport
from cluster.search_plan import SearchPlan
from cluster.search_progress import SearchProgress
from cluster.search_recipe import SearchRecipe
from cluster.search_report import write_search_report
from cluster.snapshots import train_snapshots
from cluster.stopping import heeding
from cluster.tracker import WriterProcess, check_tracked
from cluster.trial import trial_device
from cluster.vitals import Monitor, RayMetrics
from networks.errors import UserError

log = logging.getLogger(__name__)

DRAIN_S = 60.0  # without any progress of the writer
DRAIN_AFTER_STOP_S = 3.0
SAY_EVERY_S = 10.0


class Place(NamedTuple):
    """Where a search runs: in this process (`local`), on the Ray at `address`, or on one of its own."""

    local: bool = False
    address: str | None = None


class Outcome(NamedTuple):
    run: Run
    report: dict[str, Any]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a polite request to end, in the middle of `run`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.name)
        self.run = run


def search(
    recipe: AnyRecipe,
    place: Place,
    console: Console,
    *,
    resume: bool | Run = False,
    extend: Run | None = None,
) -> Outcome:
    """Run a recipe's search; or go on with its newest unfinished one, or with the one that is given; or
    `extend` the finished one that the recipe was made of (cluster/extend.py).

    Nothing is written before the recipe, the data, MLflow and the resources are known to do. Raises
    `UserError` for the user's mistakes and `Interrupted` after Ctrl-C, with everything kept.
    """
    together(
        (
            lambda: _check_place(recipe, place),
            lambda: check_storage(recipe.storage),
            lambda: check_tracked(recipe.tracking.uri),
        )
    )
    prepared = prepare(recipe)
    if isinstance(prepared, SearchPlan) and prepared.table is not None and not place.local:
        console.print("a table needs no Ray: searching in this process")
        place = Place(local=True)
    run: Run | None = extend
    if extend is not None:
        check_extendable(extend, prepared)
    elif isinstance(resume, Run):
        resume.check_resumable(prepared)
        run = resume
    elif resume:
        run = Run.resumable(prepared)
    try:
        with connection(recipe, place, console), interruptible():
            if isinstance(recipe, SearchRecipe) and not place.local:
                from cluster.tune_search import checked_replicas

                checked_replicas(recipe)
            run = run or Run.create(prepared)
            with run.hold() as lease, heeding(run), logged(run):
                if extend is not None:
                    check_extendable(run, prepared)  # before anything is changed
                run.reopen()
                if extend is not None:
                    run.extend(recipe)
                elif resume:
                    run.adopt(recipe)
                console.print(f"{run.name}: {prepared.size_text}, in {run.folder}")
                tell_disk_need(prepared, run.folder, console)
                if isinstance(prepared, SearchPlan):
                    return _drive_search(prepared, run, lease, place, console)
                return _drive(prepared, run, lease, place, console)
    except KeyboardInterrupt:
        if run is None:
            raise
        raise Interrupted(run) from None


def prepare(recipe: AnyRecipe) -> Search | SearchPlan:
    """The recipe made concrete. Raises `UserError` for what cannot be searched."""
    return SearchPlan.of(recipe) if isinstance(recipe, SearchRecipe) else Search.of(recipe)


def _check_place(recipe: AnyRecipe, place: Place) -> None:
    """Refuse what cannot work there; where Ray runs elsewhere, it answers for its GPUs itself."""
    if place.address is None:
        trial_device(recipe.resources)
    if place.local and isinstance(recipe, Recipe) and isinstance(recipe.stopping, AshaStopping):
        raise UserError("stopping.kind", "asha", "none or halving with --local", "ASHA is Ray Tune's.")
    sizes_ray = isinstance(recipe, Recipe) or place.local
    if recipe.resources.workers is not None and place != Place() and sizes_ray:
        given = "--local" if place.local else "--address"
        log.warning("resources.workers does nothing with %s", given)


@contextmanager
def connection(recipe: AnyRecipe, place: Place, console: Console) -> Iterator[None]:
    """Ray, where the place has one."""
    if place.local:
        context: Any = nullcontext()
    else:
        try:
            from cluster.ray_cluster import connected, joined
        except ModuleNotFoundError as error:
            raise UserError("--local", False, "true where ray is not installed", str(error)) from None
        if not joined():
            console.print("starting Ray" if place.address is None else f"joining Ray at {place.address}")
        context = connected(recipe.resources, place.address)
    with context:
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """A polite request to end (SIGTERM) is the same as Ctrl-C. It is heard once: `ray job stop` asks every
    process of a job, and those that are asked pass it on, while this one already writes down where it is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drive(prepared: Search, run: Run, lease: Lease, place: Place, console: Console) -> Outcome:
    grid = Grid(prepared, run)
    progress = Progress(console, prepared.recipe, len(prepared.entrants), lambda: len(grid.running))
    grid.recorder.listeners.append(progress.committed)
    monitor = Monitor(run, None if place.local else RayMetrics(run))
    grid.reports.append(progress.heard)
    grid.reports.append(lambda _: lease.check())
    grid.reports.append(lambda _: monitor.heard(grid.vitals()))
    kept = grid.replay()
    if kept:
        console.print(f"resumed: {kept} candidates are final already")

    def drive() -> None:
        with progress:
            if place.local:
                drive_local(grid)
            else:
                from cluster.tune_driver import drive_tune

                drive_tune(grid)
        train_snapshots(prepared, run, partial(trained_grid, place=place, console=console))

    return _driven(run, lease, drive, lambda ended: write_report(run, prepared, pictures=ended), console)


def _drive_search(plan: SearchPlan, run: Run, lease: Lease, place: Place, console: Console) -> Outcome:
    config = SearchConfig(recipe=plan.recipe, folder=run.folder)

    def drive() -> None:
        drive_choices(config, lease, place, console)
        retrain(plan, run, partial(trained_grid, place=place, console=console))

    return _driven(run, lease, drive, lambda ended: write_search_report(run, plan), console)


def trained_grid(grid: Recipe, place: Place, console: Console) -> Run:
    """The run of a grid that another search ends with."""
    if place != Place():  # where `workers` sizes nothing
        grid = grid.model_copy(update={"resources": grid.resources.model_copy(update={"workers": None})})
    return finished_run(grid, place, console)


def finished_run(recipe: AnyRecipe, place: Place, console: Console) -> Run:
    """The run of this recipe: the one that is there already, gone on with where it was interrupted; else a
    new one."""
    same = [run for run in runs_of(recipe.name, recipe.storage) if run.recipe_digest == recipe.digest]
    if same and same[-1].ending == "FINISHED":
        return same[-1]
    return search(recipe, place, console, resume=bool(same)).run


def drive_choices(config: SearchConfig, lease: Lease, place: Place, console: Console) -> None:
    """Run or finish a search over choices where `place` says."""
    run = Run(config.folder)
    monitor = Monitor(run, None if place.local else RayMetrics(run))
    with SearchProgress(console, config.recipe.metric, started=time.time()) as progress:

        def heard(report: SearchReport) -> None:
            lease.check()
            progress.heard(report)
            monitor.heard(report.vitals())

        if place.local:
            drive_local_search(config, heard)
        else:
            from cluster.tune_search import drive_tune_search

            drive_tune_search(config, heard)


def _driven(
    run: Run,
    lease: Lease,
    drive: Callable[[], None],
    write: Callable[[bool], dict[str, Any]],
    console: Console,
) -> Outcome:
    """Drive beside the MLflow writer; then report, whatever the ending was. `write` is told whether the
    search came to its end."""
    writer = WriterProcess(run)
    writer.start()
    ending: Ending = "FAILED"
    try:
        drive()
        lease.check()
        ending = "FINISHED"
    except KeyboardInterrupt:
        ending = "KILLED"
        raise
    finally:
        if lease.lost:
            writer.stop()
        else:
            found = _ended(run, ending, write, writer, console)
    return Outcome(run, found)


def _ended(
    run: Run, ending: Ending, write: Callable[[bool], dict[str, Any]], writer: WriterProcess, console: Console
) -> dict[str, Any]:
    try:
        try:
            return write(ending == "FINISHED")
        except OSError:
            ending = "FAILED"  # so that it can be gone on with, which writes the report again
            raise
        finally:  # whatever becomes of pictures, the search has ended as it did
            run.finish(
                ending
            )  # where there is no room for this either, it has not ended, and is gone on with
    except OSError as error:
        place = str(run.folder)
        raise UserError("storage", place, "a folder with room that can be written", str(error)) from None
    finally:
        _drain(writer, DRAIN_S if ending == "FINISHED" else DRAIN_AFTER_STOP_S, console)


def _drain(writer: WriterProcess, patience: float, console: Console) -> None:
    """Wait for MLflow as long as the writer gets on, and `patience` seconds more."""
    with _Waiting(console) as waiting:
        left, moved = writer.outbox, time.monotonic()
        while (now := time.monotonic()) - moved < patience:
            if writer.drain(min(2.0, patience), waiting.told):
                return
            if not writer.running:  # it cannot read the ledger, and says why in its log
                break
            if writer.outbox != left:
                left, moved = writer.outbox, now
    console.print(
        f"MLflow has not taken everything of {writer.run.name}; nothing is lost. The writer goes on in the "
        f"background, until MLflow fails for a minute. After that: weft sync {writer.run.name}"
    )


class _Waiting:
    """Says what the writer has left: a line that renews itself in a terminal, a few lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("") if console.is_terminal else None
        self._said = -SAY_EVERY_S
        self._left = -1

    def __enter__(self) -> "_Waiting":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def told(self, left: int) -> None:
        line = f"writing to MLflow: {left} segments left" if left else "writing the report to MLflow"
        if self._status is not None:
            self._status.start()
            self._status.update(line)
        elif left != self._left and time.monotonic() - self._said >= SAY_EVERY_S:
            self._said, self._left = time.monotonic(), left
            self._console.print(line)
