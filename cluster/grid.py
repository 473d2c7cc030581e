"""A grid search in progress, and the driver that runs it in this process."""

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
        """Pass a trial's report to whoever shows progress."""
        for listener in self.reports:
            listener(report)


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
