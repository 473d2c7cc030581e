"""A grid search in progress, and the driver that runs it in this process."""

import json
from collections.abc import Callable

from cluster.barrier import Barrier, NoBarrier, Verdict
from cluster.preparation import Search
from cluster.recipe import AshaStopping, HalvingStopping
from cluster.recorder import Recorder
from cluster.run import Run
from cluster.trial import Report, TrainingTrial
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
        self._same = SameNumerics(run, recipe.allow_mixed)
        self.reports: list[Callable[[Report], None]] = []

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

    def heard(self, report: Report) -> None:
        """Check that a trial computes as the others do, and pass its report to whoever shows progress.

        Raises `UserError` where it does not and the recipe does not allow it.
        """
        if report.numerics:
            self._same.check(report.numerics)
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
        trial.setup(grid.configs[ask])
        verdict: Verdict = "go"
        while verdict == "go":
            report = trial.step()
            grid.heard(report)
            verdict = barrier.arrive(report)
