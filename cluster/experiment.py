"""A search from recipe to report: prepare, drive, report. The drivers and the command line meet here."""

from collections.abc import Callable
from pathlib import Path

from cluster.barrier import Barrier, NoBarrier, Verdict
from cluster.recipe import AshaStopping, HalvingStopping, Recipe
from cluster.recorder import Entrant, Recorder
from cluster.run import Run
from cluster.trial import Report, TrainingTrial, TrialConfig
from networks.errors import UserError
from networks.spaces.randwire import RandWireSpace
from searchers.grid import GridSearcher
from searchers.searcher import Candidate
from trainers.data import Data, open_data

ALL_RUNS_LIMIT = 2000


class Search:
    """A recipe made concrete: its space and its candidates, checked, nothing written yet."""

    def __init__(self, recipe: Recipe, space: RandWireSpace, data: Data) -> None:
        self.recipe, self.space, self.data = recipe, space, data
        self.entrants = [self._entrant(ask, genes) for ask, genes in enumerate(self._genes())]
        if len(self.entrants) > ALL_RUNS_LIMIT and recipe.tracking.runs is None:
            raise UserError(
                "tracking.runs", None, f"all or frontier, for more than {ALL_RUNS_LIMIT} candidates",
                f"This search has {len(self.entrants)}.",
            )  # fmt: skip

    @classmethod
    def of(cls, recipe: Recipe) -> "Search":
        """Open the data and build the space. Raises `UserError`."""
        data = open_data(recipe.data)
        data.steps_per_epoch(recipe.training.batch_size)  # refuses a batch larger than the set
        return cls(recipe, recipe.space.build(data.image, len(data.classes)), data)

    def _genes(self) -> list[tuple[int, ...]]:
        searcher = GridSearcher(self.space)
        return searcher.ask(len(searcher))

    def _entrant(self, ask: int, genes: tuple[int, ...]) -> Entrant:
        identity = f"{self.recipe.name}/{self.recipe.seed}"
        architecture = self.space.decode(genes)
        return Entrant(
            candidate=Candidate.of(identity, self.space.digest, genes, ask),
            names=self.space.names(genes),
            architecture=architecture.digest,
            cost=architecture.complexity(),
        )

    def configs(self, folder: Path) -> list[TrialConfig]:
        """What each candidate's trial is set up with, in ask order."""
        return [
            TrialConfig(recipe=self.recipe, folder=folder, candidate=entrant.candidate)
            for entrant in self.entrants
        ]


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
