"""One search from start to end: where it runs, its writer, its report. What `weft search` calls."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console

from cluster.grid import Grid, drive_local
from cluster.pictures import draw_architecture, draw_curves, draw_leaders, save_figure
from cluster.preparation import Search
from cluster.progress import Progress
from cluster.recipe import Recipe
from cluster.report import markdown, rank, report
from cluster.run import Ending, Run
from cluster.tracker import WriterProcess, check_tracking
from networks.errors import UserError

log = logging.getLogger(__name__)

PICTURED = 3  # graphs of the best candidates
DRAIN_S = 120.0
DRAIN_AFTER_STOP_S = 3.0


class Place(NamedTuple):
    """Where a search runs: in this process (`local`), on the Ray at `address`, or on one of its own."""

    local: bool = False
    address: str | None = None


class Outcome(NamedTuple):
    run: Run
    report: dict[str, Any]


def search(recipe: Recipe, place: Place, console: Console, *, resume: bool = False) -> Outcome:
    """Run a recipe's search, or go on with its unfinished one.

    Nothing is written before the recipe, the data, MLflow and the resources are known to do. Raises
    `UserError` for the user's mistakes and KeyboardInterrupt after Ctrl-C, with everything kept.
    """
    prepared = Search.of(recipe)
    uri = recipe.tracking.uri
    if uri is not None:
        check_tracking(uri)
    with _connection(recipe, place):
        run = Run.resumable(prepared) if resume else Run.create(prepared)
        with run.lock(), _interruptible():
            console.print(f"{run.name}: {len(prepared.entrants)} candidates, in {run.folder}")
            return _drive(prepared, run, place, console)


@contextmanager
def _connection(recipe: Recipe, place: Place) -> Iterator[None]:
    if place.local:
        context: Any = nullcontext()
    else:
        try:
            from cluster.tune_driver import connected
        except ModuleNotFoundError as error:
            raise UserError("--local", False, "true where ray is not installed", str(error)) from None
        context = connected(recipe.resources, place.address)
    with context:
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """A polite request to end (SIGTERM) is the same as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drive(prepared: Search, run: Run, place: Place, console: Console) -> Outcome:
    grid = Grid(prepared, run)
    progress = Progress(console, prepared.recipe, len(prepared.entrants))
    grid.recorder.listeners.append(progress.committed)
    grid.reports.append(progress.heard)
    kept = grid.replay()
    if kept:
        console.print(f"resumed: {kept} candidates are final already")
    writer = WriterProcess(run.folder)
    writer.start()
    ending: Ending = "FAILED"
    try:
        with progress:
            if place.local:
                drive_local(grid)
            else:
                from cluster.tune_driver import drive_tune

                drive_tune(grid)
        ending = "FINISHED"
    except KeyboardInterrupt:
        ending = "KILLED"
        raise
    finally:
        found = write_report(run, prepared, pictures=ending == "FINISHED")
        run.finish(ending)
        patience = DRAIN_S if ending == "FINISHED" else DRAIN_AFTER_STOP_S
        _drain(writer, patience, console)
    return Outcome(run, found)


def _drain(writer: WriterProcess, patience: float, console: Console) -> None:
    if not writer.drain(patience, lambda left: console.print(f"writing to MLflow: {left} segments left")):
        console.print(
            "MLflow has not taken everything yet; the writer goes on in the background, and nothing is lost"
        )


def write_report(run: Run, prepared: Search, *, pictures: bool) -> dict[str, Any]:
    """report.json, report.md and, if asked, the pictures; the report itself."""
    rows = list(run.ledger.rows())
    recipe = prepared.recipe
    names: list[str] = []
    if pictures and rows:
        for place, row in enumerate(rank(rows, recipe.metric)[:PICTURED], 1):
            title = f"{row.names['setting']} seed {row.names['seed']}: {_score(row.metrics, recipe.metric)}"
            names.append(f"best-{place}.png")
            figure = draw_architecture(prepared.space.decode(row.candidate.genes), title)
            save_figure(figure, run.pictures / names[-1])
        for name, figure in (
            ("settings.png", draw_leaders(rows, recipe.metric)),
            ("curves.png", draw_curves(rows, recipe.metric)),
        ):
            names.append(name)
            save_figure(figure, run.pictures / name)
    found = report(run, recipe, rows)
    run.write_json("report.json", found)
    (run.folder / "report.md").write_text(markdown(found, names))
    return found


def _score(metrics: dict[str, float], metric: str) -> str:
    return f"{100 * metrics[metric]:.2f} %" if metric in metrics else "no score"
