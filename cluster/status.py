"""Where runs stand, read from their folders alone: nothing is asked of the processes that drive them."""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cluster.checkpoints import CheckpointStore
from cluster.ledger import read_segment
from cluster.progress import clock
from cluster.run import Run
from cluster.search_recipe import SearchRecipe
from cluster.standing import Standing
from cluster.tables import plain_table, short
from cluster.tracker import Cursor
from cluster.vitals import vitals_of

State = Literal["running", "died", "FINISHED", "FAILED", "KILLED"]
RECENT_MS = 300_000  # what a rate is told of
WATCH_S = 2.0


class Status(NamedTuple):
    """`evaluations`: rows of the ledger, one for each candidate at each rung. `per_minute`: over the last
    five minutes of the ledger. `idle_s`: since its last row. `outbox`: segments that MLflow has not taken
    yet, as this machine knows. `step`: of the supernet's training as of its last checkpoint, of `steps`.
    `driver`: the process that drives it, and holds its lease, if any. `replicas` (or trials of a grid), the
    `machines` they are on and how many `deaths` there were: as the driver said last, while one does."""

    run: str
    state: State
    evaluations: int
    failed: int
    best: float | None
    metric: str
    per_minute: float | None
    idle_s: float | None
    step: int | None
    steps: int | None
    outbox: int
    driver: str
    replicas: int | None
    machines: int | None
    deaths: int | None


class Watched:
    """One run; every `look` reads only what was committed since the last."""

    def __init__(self, run: Run) -> None:
        self.run = run
        about = run.about
        self._metric = str(about["metric"])
        self._standing = Standing(run.ledger, self._metric)
        self._segments = self._rows = self._failed = 0
        self._best: float | None = None
        self._times: deque[int] = deque()

    def look(self) -> Status:
        segments = self.run.ledger.segments()
        for number in range(self._segments, len(segments)):
            rows = read_segment(segments[number])
            points = self._standing.update(number, rows)
            self._best = points[-1].value if points else self._best
            self._rows += len(rows)
            self._failed += sum(row.status == "failed" for row in rows)
            self._times.extend(row.time for row in rows)
        self._segments = len(segments)
        while self._times and self._times[-1] - self._times[0] > RECENT_MS:
            self._times.popleft()
        step, steps = self._trained()
        driver = self.run.driver
        vitals = vitals_of(self.run) if driver else None
        return Status(
            run=self.run.name,
            state=self._state(),
            evaluations=self._rows,
            failed=self._failed,
            best=self._best,
            metric=self._metric,
            per_minute=self._pace(),
            idle_s=max(0.0, time.time() - self._times[-1] / 1000) if self._times else None,
            step=step,
            steps=steps,
            outbox=max(0, self._segments - Cursor.load(self.run).segments),
            driver=driver,
            replicas=None if vitals is None else vitals.replicas,
            machines=None if vitals is None else vitals.machines,
            deaths=None if vitals is None else vitals.deaths,
        )

    def _state(self) -> State:
        ended = self.run.ending
        if ended is not None:
            return ended
        return "running" if self.run.driver else "died"

    def _pace(self) -> float | None:
        span = (self._times[-1] - self._times[0]) / 60_000 if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / span if span else None

    def _trained(self) -> tuple[int | None, int | None]:
        recipe = self.run.recipe
        if not isinstance(recipe, SearchRecipe) or recipe.supernet is None:
            return None, None
        epochs = CheckpointStore(self.run.folder / "supernet").epochs()
        return (epochs[-1] if epochs else 0), recipe.supernet.steps


def status_table(statuses: Sequence[Status]) -> Table:
    """Where runs stand, a line each."""
    heads = ("run", "state", "at work", "evaluations", "best", "a minute", "idle", "to MLflow")
    table = plain_table(*heads, left=heads[:3])
    for one in statuses:
        done = f"{one.evaluations}" + (f" ({one.failed} failed)" if one.failed else "")
        if one.steps is not None and one.step is not None and one.step < one.steps and not one.evaluations:
            done = f"step {one.step:,} of {one.steps:,}"
        table.add_row(
            one.run,
            one.state if one.state != "running" or not one.driver else f"running ({one.driver})",
            _crew(one),
            done,
            "" if one.best is None else short(one.best),
            "" if one.per_minute is None else f"{one.per_minute:.1f}",
            "" if one.idle_s is None or one.state != "running" else clock(one.idle_s),
            f"{one.outbox} left" if one.outbox else "all",
        )
    return table


def _crew(one: Status) -> str:
    if one.replicas is None:
        return ""
    places = f" on {one.machines} machines" if one.machines and one.machines > 1 else ""
    return f"{one.replicas}{places}" + (f", {one.deaths} died" if one.deaths else "")


def watched(runs: Sequence[Watched], console: Console) -> None:
    """Show the table until no run is driven any more, or Ctrl-C."""
    found = [one.look() for one in runs]
    with suppress(KeyboardInterrupt), Live(status_table(found), console=console, auto_refresh=False) as live:
        while any(one.state == "running" for one in found):
            time.sleep(WATCH_S)
            found = [one.look() for one in runs]
            live.update(status_table(found), refresh=True)
