"""A trial that is one search: train the supernet, then ask, score, commit and tell, a round a step.

Knows no Ray: what makes its pool is given to it, and drivers call `step`.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cluster.checkpoints import Checkpoint, CheckpointStore
from cluster.grid import SameNumerics
from cluster.ledger import Ledger, Row
from cluster.network_file import save_network
from cluster.pool import LocalPool, Pool
from cluster.recorder import Recorder
from cluster.replica import ReplicaJob
from cluster.report import rank
from cluster.run import Run
from cluster.search_loop import Phase, SearchLoop
from cluster.search_plan import LATENCIES, SearchPlan, batch_size_of
from cluster.search_recipe import SearchRecipe
from cluster.stopwatch import TIMES, Stopwatch
from cluster.table_pool import TablePool
from networks.errors import UserError
from networks.supernet import build_supernet
from trainers.one_shot import load_weights
from trainers.recalibration import recalibrated
from trainers.scores.accuracy import RECALIBRATION_BATCHES
from trainers.scores.score import Bench
from trainers.training import Diverged

CHUNK_S = 10.0  # a checkpoint about as often
Stage = Literal["training", "search", "random", "ranking", "done"]
MakePool = Callable[[ReplicaJob], Pool]


class SearchConfig(BaseModel):
    """What a process needs to run a search. `folder` is the run's, absolute; `ranking` the folder in it
    that the ranking's ledger lies in. `replicas` is decided where the search is driven; None where it has
    no actors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: SearchRecipe
    folder: Path
    ranking: str = "ranking"
    replicas: int | None = None


class SearchReport(BaseModel):
    """What a trial says after a step. `asked`: candidates committed in the stage, of at most `planned`.
    `metrics`: of training. `began`: Unix seconds of the process's first step. `best`: value of the first
    objective so far."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = {}
    asked: int = 0
    planned: int = 0
    began: float = 0.0
    best: float | None = None

    @property
    def done(self) -> bool:
        return self.stage == "done"


class SearchTrial:
    """One search. `setup` goes on from the newest checkpoint and the ledger; a finished search is done at
    once. `close` gives the pool back and can be called again."""

    def __init__(self, make_pool: MakePool) -> None:
        self._make_pool = make_pool
        self._pool: Pool | None = None

    def setup(self, config: SearchConfig) -> None:
        """Make the search ready; every trace of an earlier one is gone."""
        asked = time.time()
        self.close()
        self.config, recipe = config, config.recipe
        self.run = Run(config.folder)
        self.plan = SearchPlan.of(recipe, config.folder / LATENCIES)
        if self.plan.data_digest != self.run.about["data_digest"]:
            raise UserError(
                self.plan.data_field, self.plan.data_name, "what the run began with", "It differs from that."
            )
        self._checkpoints = CheckpointStore(config.folder / "supernet")
        self._numerics = SameNumerics(self.run, recipe.allow_mixed)
        self._best: float | None = None
        self._pace = 0.0  # seconds a training step
        self._scoring: tuple[str, ...] = ()
        checkpoint = self._loaded()
        anew = checkpoint is None and not self.run.ledger.segments()
        since = self.run.about["created"] / 1000 if anew else asked
        self.watch = Stopwatch(config.replicas or 1, since)
        self.plan.check_measured()
        self._use_scores(recipe.score.names, checkpoint)
        self.loop = self._loop(self.plan.phases(), self.run.ledger, recipe.needed)
        self.ranking: SearchLoop | None = None
        if recipe.ranking is not None:
            self.ranking = self._loop([self.plan.ranked()], Ledger(config.folder / config.ranking))
        self.plan.latencies.flush()

    reset = setup

    def _loop(self, phases: list[Phase], ledger: Ledger, needed: Sequence[str] = ()) -> SearchLoop:
        recorder, plan = Recorder(ledger), self.plan

        def commit(rows: list[Row]) -> None:
            plan.latencies.flush()  # they decided what was asked for
            recorder.write(rows)

        loop = SearchLoop(
            plan.recipe.identity, plan.space, phases, commit,
            round_size=self.config.recipe.round, rounds_in_flight=self.config.recipe.rounds_in_flight,
            measured=plan.measured, needed=needed, numerics=self.pool.about.numerics,
        )  # fmt: skip
        rows = recorder.replay()
        loop.replay(rows)
        self._note(rows)
        return loop

    @property
    def pool(self) -> Pool:
        assert self._pool is not None, "the trial is closed"
        return self._pool

    def _use_scores(self, names: tuple[str, ...], checkpoint: Checkpoint | None = None) -> None:
        """A pool that computes these scores, with the weights of the checkpoint or of the pool before it."""
        if self._pool is not None and names == self._scoring:
            return
        state = None if checkpoint is None else (checkpoint.tensors, checkpoint.values["pool"])
        if self._pool is not None:
            state = self._pool.state()
            self._pool.close()
            self._pool = None
        table = self.plan.table
        if table is not None:
            self._pool = TablePool(table, names)
        else:
            self._pool = self._make_pool(self.plan.job(names))
            about = self._pool.about
            self._numerics.check(about.numerics)
            if about.data != self.run.about["data_digest"]:
                raise UserError(
                    "data", self.config.recipe.data.name, "the same images on every machine",
                    f"Those at {about.place.partition(':')[0]} differ from those that the search began with.",
                )  # fmt: skip
        if state is not None:
            self._pool.load_state(*state)
        self._scoring = names

    def step(self) -> SearchReport:
        """Train for a while, or do one round."""
        self.watch.start()
        try:
            return self._step()
        except Diverged as error:
            settings = self.config.recipe.supernet
            assert settings is not None
            allowed = "a rate that the training bears"
            raise UserError("supernet.lr", settings.lr, allowed, str(error)) from None

    def _step(self) -> SearchReport:
        if self.pool.step < self._steps:
            return self._train()
        if not self.loop.finished:
            stage: Stage = "random" if self.loop.phases[0].name == "random" else "search"
            rows = self.loop.advance(self.pool)
            self.watch.told(rows)
            self._note(rows)
            return self._report(stage, self.loop.evaluations, self.plan.planned_asks)
        ranking = self.config.recipe.ranking
        if self.ranking is not None and ranking is not None and not self.ranking.finished:
            self._use_scores(ranking.scores)
            self.ranking.advance(self.pool)
            return self._report("ranking", self.ranking.evaluations, ranking.cells)
        if self._steps and not (self.config.folder / "best" / "network.json").exists():
            self._save_best()
        if self.watch.times.wall:
            times = self.watch.times
            self.run.write_json(TIMES, {**times._asdict(), "overhead": times.overhead})
        return self._report("done", self.loop.evaluations, self.loop.evaluations)

    def _train(self) -> SearchReport:
        if not self._checkpoints.epochs():
            self.save()  # what there is to go back to, should the first steps diverge
        left = self._steps - self.pool.step
        chunk = max(1, min(left, int(CHUNK_S / self._pace))) if self._pace else min(left, 2)
        started = time.monotonic()
        metrics = self.pool.train(chunk)
        taken = time.monotonic() - started
        self._pace = taken / chunk
        self.save()
        self.watch.trained(taken)
        return self._report("training", 0, 0, metrics)

    @property
    def _steps(self) -> int:
        supernet = self.config.recipe.supernet
        return 0 if supernet is None else supernet.steps

    def _save_best(self) -> None:
        """The network of the best candidate, with the supernet's weights and statistics of its own."""
        best = rank(self.run.ledger.rows(), self.config.recipe.metric)[:1]
        if not best or best[0].status != "ok":
            return
        recipe, genes = self.config.recipe, best[0].candidate.genes
        assert self.plan.data is not None
        # Here, on the CPU, whatever the replicas train on: all that is needed are weights and a few batches.
        supernet = build_supernet(self.plan.space, recipe.seed)
        load_weights(supernet, self.pool.state()[0])
        bench = Bench(self.plan.space, self.plan.data, recipe.seed, batch_size_of(recipe))
        images = (bench.batch(number)[0] for number in range(RECALIBRATION_BATCHES))
        with recalibrated(supernet, images, genes):
            network = supernet.extract(genes)
        about = {"genes": list(genes), "metrics": best[0].metrics, "classes": list(self.plan.data.classes)}
        save_network(self.config.folder / "best", network, about)

    def save(self) -> None:
        """A checkpoint of the supernet. It names the space and the segments that are committed."""
        tensors, values = self.pool.state()
        about = {"pool": values, "space": self.plan.space.digest, "segments": len(self.run.ledger.segments())}
        try:
            self._checkpoints.save(self.pool.step, tensors, about)
        except OSError as error:
            place = str(self.config.folder)
            raise UserError("storage", place, "a folder with room that can be written", str(error)) from None

    def _loaded(self) -> Checkpoint | None:
        """The newest usable checkpoint. Raises `UserError` when there are some and none is usable, or when
        it is of another space."""
        checkpoint = self._checkpoints.newest()
        folder = str(self._checkpoints.folder)
        if checkpoint is None:
            if self._checkpoints.epochs():
                raise UserError(
                    "checkpoint", folder, "a whole checkpoint, unaltered", "Delete it to train anew."
                )
            return None
        if checkpoint.values.get("space") != self.plan.space.digest:
            raise UserError("checkpoint", folder, "a checkpoint of this recipe's space")
        committed, named = len(self.run.ledger.segments()), checkpoint.values.get("segments", 0)
        if committed < named:
            allowed = f"the {named} segments that were committed when the supernet was saved"
            fix = f"There are {committed}: segments were deleted, or the checkpoint is of another run."
            raise UserError("ledger", str(self.run.ledger.folder), allowed, fix)
        return checkpoint

    def _note(self, rows: list[Row]) -> None:
        metric = self.config.recipe.metric
        for row in rows:
            if row.status == "ok" and row.candidate.phase == "search":
                value = row.metrics[metric]
                self._best = value if self._best is None else max(self._best, value)

    def _report(
        self, stage: Stage, asked: int, planned: int, metrics: dict[str, float] | None = None
    ) -> SearchReport:
        return SearchReport(
            stage=stage,
            step=self.pool.step,
            steps=self._steps,
            metrics=metrics or {},
            asked=asked,
            planned=planned,
            began=self.watch.times.began,
            best=self._best,
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def drive_local_search(config: SearchConfig, heard: Callable[[SearchReport], None]) -> None:
    """Run the search in this process; Ray need not be installed."""
    trial = SearchTrial(LocalPool)
    try:
        trial.setup(config)
        while True:
            report = trial.step()
            heard(report)
            if report.done:
                return
    finally:
        trial.close()
