"""A grid search in progress, and the driver that runs it in this process."""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection

from cluster.barrier import Barrier, NoBarrier, Verdict
from cluster.ledger import Row
from cluster.preparation import Search
from cluster.recipe import AshaStopping, HalvingStopping
from cluster.recorder import Recorder
from cluster.run import Run
from cluster.trial import Report, TrainingTrial
from cluster.vitals import Vitals
from networks.errors import UserError


class Grid:
    """A search in progress: what was committed before, and the barrier for what is left."""

    def __init__(self, search: Search, run: Run) -> None:
        self.search, self.run = search, run
        self.recorder = Recorder(run.ledger, search.entrants)
        recipe, asks = search.recipe, [entrant.candidate.ask_index for entrant in search.entrants]
        eta = recipe.stopping.eta if isinstance(recipe.stopping, HalvingStopping) else 1
        self.barrier: Barrier | NoBarrier = Barrier(self.recorder, asks, recipe.rungs, eta, recipe.metric)
        if isinstance(recipe.stopping, AshaStopping):
            self.barrier = NoBarrier(self.recorder, asks, recipe.rungs)
        self.configs = search.configs(run.folder)
        self.last: dict[int, Report] = {}  # by ask index
        self.deaths: Counter[int] = Counter()  # of processes, by ask index
        self.running: Collection[int] = ()  # ask indices; the driver keeps it
        self._same = SameNumerics(run, recipe.allow_mixed)
        self.reports: list[Callable[[Report], None]] = []
        self._ended: set[int] = set()
        self._best: float | None = None
        self.recorder.listeners.append(self._committed)

    def _committed(self, rows: list[Row]) -> None:
        metric = self.search.recipe.metric
        self._ended |= {row.candidate.ask_index for row in rows if row.final}
        values = [row.metrics[metric] for row in rows if metric in row.metrics]
        self._best = max([*values, *([] if self._best is None else [self._best])], default=None)

    def vitals(self) -> Vitals:
        """For those who watch from outside."""
        running = [self.last[ask] for ask in self.running if ask in self.last]
        return Vitals(
            stage="grid",
            asked=len(self._ended),
            planned=len(self.configs),
            best=self._best,
            replicas=len(self.running),
            machines=len({report.place.rpartition(":")[0] for report in running}),
            deaths=sum(self.deaths.values()),
        )

    def replay(self) -> int:
        """Take over committed rows; how many candidates are final already."""
        rows = self.recorder.replay()
        for row in rows:
            if row.candidate != self.configs[row.candidate.ask_index].candidate:
                raise UserError(
                    "ledger", row.candidate.id, "candidates of this recipe", "The run is of another search."
                )
        self.barrier.replay(rows)
        for listener in self.recorder.listeners:
            listener(rows)
        return sum(row.final for row in rows)

    def died(self, ask: int, times: int, why: str) -> None:
        """A candidate's process died. It is given up when that happened more often than `retries`."""
        self.deaths[ask] += times
        if self.deaths[ask] <= self.search.recipe.retries:
            return
        last = self.last.get(ask, Report(ask_index=ask, epoch=0))
        reason = f"its process died {self.deaths[ask]} times, the last time: {why}"
        changes = {"status": "failed", "reason": reason, "time": time.time_ns() // 1_000_000}
        self.barrier.fail(last.model_copy(update=changes))

    def heard(self, report: Report) -> None:
        """Check that a trial computes as the others do, on the same images; then pass its report on.

        Raises `UserError` where it does not. The recipe may allow other numerics, never other images.
        """
        if report.numerics:
            self._same.check(report.numerics)
        if report.data and report.data != self.search.data.digest:
            raise UserError(
                "data", self.search.recipe.data.name, "the same images on every machine",
                f"Those at {report.place.partition(':')[0]} differ from those that the search began with.",
            )  # fmt: skip
        self.last[report.ask_index] = report
        for listener in self.reports:
            listener(report)


class SameNumerics:
    """Holds a run to the numerics of its first report, which is kept in the run's folder."""

    def __init__(self, run: Run, allow_mixed: bool) -> None:
        self._run, self._allow_mixed = run, allow_mixed
        path = run.folder / "numerics.json"
        self._first: str | None = json.loads(path.read_text())["numerics"] if path.exists() else None

    def check(self, found: str) -> None:
        """Raise `UserError` for a trial that computes otherwise than the run began."""
        if self._first is None:
            self._run.write_json("numerics.json", {"numerics": found})
            self._first = found
        elif found != self._first and not self._allow_mixed:
            raise UserError(
                "allow_mixed", False, f"trials that compute as this run began ({self._first})",
                f"One computes with {found}: its results could differ in the last bits. "
                "--set allow_mixed=true accepts that.",
            )  # fmt: skip


def drive_local(grid: Grid) -> None:
    """Train the candidates one after another in this process; Ray need not be installed."""
    barrier = grid.barrier
    if isinstance(barrier, NoBarrier):
        raise UserError("stopping.kind", "asha", "none or halving with --local", "ASHA is Ray Tune's.")
    trial = TrainingTrial()
    while not barrier.done:
        ask = barrier.open[0]
        grid.running = (ask,)
        trial.setup(grid.configs[ask])
        verdict: Verdict = "go"
        while verdict == "go":
            report = trial.step()
            grid.heard(report)
            verdict = barrier.arrive(report)
