"""A trial that is one search: train the supernet, then ask, score, commit and tell, a round a step.

Knows no Ray: what makes its pool is given to it, and drivers call `step`.
"""

import time
from collections.abc import Callable, Sequence

import torch

from cluster.checkpoints import Checkpoint
from cluster.export import path_network
from cluster.grid import SameNumerics
from cluster.ledger import Ledger, Row
from cluster.network_file import save_network
from cluster.pool import Pool
from cluster.recorder import Recorder
from cluster.replica import ReplicaJob
from cluster.report import rank
from cluster.run import Run
from cluster.search_loop import Phase, SearchLoop
from cluster.search_messages import SearchConfig, SearchReport, Stage
from cluster.search_plan import LATENCIES, SearchPlan
from cluster.shrinking import Course, Vote
from cluster.stopwatch import TIMES, Stopwatch
from cluster.supernet_checkpoints import SupernetCheckpoints
from cluster.table_pool import TablePool
from cluster.transformations import made_of, meets, scored_on_all
from networks.errors import UserError
from networks.liveness import WORST
from searchers.nat import NatSettings
from searchers.shrinking import children_of, operator_scores
from trainers.training import Diverged

CHUNK_S = 10.0  # a checkpoint about as often
MakePool = Callable[[ReplicaJob], Pool]


class SearchTrial:
    """One search. `setup` goes on from the newest checkpoint and the ledger; a finished search is done at
    once. `close` gives the pool back and can be called again.

    Of a search that shrinks, `vote` is what this supernet votes at a rung that is not decided: until it is,
    and `reset` tells of it, steps do nothing more."""

    def __init__(self, make_pool: MakePool) -> None:
        self._make_pool = make_pool
        self._pool: Pool | None = None

    def setup(self, config: SearchConfig) -> None:
        """Make the search ready; every trace of an earlier one is gone."""
        asked = time.time()
        torch.set_num_threads(1)  # so that what a policy adds up has the same bits wherever it learns
        self.close()
        self.config, recipe = config, config.recipe
        self.run = Run(config.folder)
        self.plan = SearchPlan.of(recipe, config.folder / LATENCIES)
        self.course = Course(recipe, self.plan.space, config.dropped)
        self.vote: Vote | None = None
        if self.plan.data_digest != self.run.about["data_digest"]:
            raise UserError(
                self.plan.data_field, self.plan.data_name, "what the run began with", "It differs from that."
            )
        self._checkpoints = SupernetCheckpoints(self.run, self.course, config.supernet)
        self._numerics = SameNumerics(self.run, recipe.allow_mixed)
        self._best: float | None = None
        self._pace = 0.0  # seconds a training step
        self._scoring: tuple[str, ...] = ()
        checkpoint = self._checkpoints.newest()
        self._rung = 0 if checkpoint is None else checkpoint.values.get("rung", 0)
        anew = checkpoint is None and not self.run.ledger.segments()
        since = self.run.about["created"] / 1000 if anew else asked
        self.watch = Stopwatch(since)
        self.plan.check_measured()
        self._make(checkpoint)
        self._loops: tuple[SearchLoop, SearchLoop | None] | None = None
        if self.course.over and not config.supernet:
            _ = self.loop  # what is wrong with the ledger is said at once

    def reset(self, config: SearchConfig) -> None:
        """As `setup`; a supernet of which another rung is decided goes on as it is, in its live pool."""
        if not self._goes_on(config):
            self.setup(config)
            return
        self.config, self.vote = config, None
        self.course = self.course._replace(dropped=config.dropped)

    def _goes_on(self, config: SearchConfig) -> bool:
        """Whether this differs from what it does now in later rungs alone."""
        if self._pool is None or config.model_copy(update={"dropped": self.config.dropped}) != self.config:
            return False
        return config.dropped[: self._rung] == self.config.dropped[: self._rung]

    @property
    def loop(self) -> SearchLoop:
        """Of the search, in what is left of the space; from the moment when nothing more is dropped."""
        return self._both[0]

    @property
    def _both(self) -> tuple[SearchLoop, SearchLoop | None]:
        if self._loops is None:
            config, recipe = self.config, self.config.recipe
            left, ranking = self.course.left(len(self.course.dropped)), None
            search = self._loop(self.plan.phases(left), self.run.ledger, recipe.needed)
            if recipe.ranking is not None:
                ranking = self._loop([self.plan.ranked(left)], Ledger(config.folder / config.ranking))
            self._loops = search, ranking
            self.plan.latencies.flush()
        return self._loops

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
        if not loop.in_part:
            self._note(scored_on_all(rows, self.plan.recipe, self.plan.given))
        return loop

    @property
    def pool(self) -> Pool:
        assert self._pool is not None, "the trial is closed"
        return self._pool

    def _make(self, checkpoint: Checkpoint | None) -> None:
        """The pool, with the weights of the checkpoint."""
        table, self._scoring = self.plan.table, self._first_scores
        if table is not None:
            self._pool = TablePool(table, self._scoring)
        else:
            self._pool = self._make_pool(self._job)
            about = self._pool.about
            self._numerics.check(about.numerics)
            if about.data != self.run.about["data_digest"]:
                raise UserError(
                    "data", self.config.recipe.data.name, "the same images on every machine",
                    f"Those at {about.place.partition(':')[0]} differ from those that the search began with.",
                )  # fmt: skip
        if checkpoint is not None:
            self._pool.load_state(checkpoint.tensors, checkpoint.values["pool"])

    @property
    def _first_scores(self) -> tuple[str, ...]:
        """What replicas score by in the beginning."""
        recipe = self.config.recipe
        return recipe.score.names if recipe.shrinking is None else (recipe.shrinking.score,)

    @property
    def _job(self) -> ReplicaJob:
        return self.plan.job(self._scoring, self.config.supernet, self.course.kept(self._rung))

    def _use_scores(self, names: tuple[str, ...]) -> None:
        if names != self._scoring:
            self._scoring = names
            self.pool.reset(self._job)

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
        if self.pool.step < self._until:
            return self._train()
        if self._rung < len(self.course.dropped):
            return self._shrink()
        if not self.course.over:
            return self._voted()
        if self.config.supernet:
            return self._report("done", 0, 0)
        self._use_scores(self.config.recipe.score.names)
        if not self.loop.finished:
            stage: Stage = "random" if self.loop.phases[0].name == "random" else "search"
            in_part = self.loop.in_part
            rows = self.loop.advance(self.pool)
            self.watch.told(rows, self.pool.crew.replicas)
            if not in_part:
                self._note(rows)
            return self._report(stage, self.loop.evaluations, self.plan.planned_asks)
        ranking, loop = self.config.recipe.ranking, self._both[1]
        if loop is not None and ranking is not None and not loop.finished:
            self._use_scores(ranking.scores)
            loop.advance(self.pool)
            return self._report("ranking", loop.evaluations, ranking.cells)
        if self._until and not (self.config.folder / "best" / "network.json").exists():
            self._save_best()
        if self.watch.times.wall:
            times = self.watch.times
            self.run.write_json(TIMES, {**times._asdict(), "overhead": times.overhead})
        return self._report("done", self.loop.evaluations, self.loop.evaluations)

    def _train(self) -> SearchReport:
        if not self._checkpoints.any:
            self.save()  # what there is to go back to, should the first steps diverge
        left = self._until - self.pool.step
        chunk = max(1, min(left, int(CHUNK_S / self._pace))) if self._pace else min(left, 2)
        started = time.monotonic()
        metrics = self.pool.train(chunk)
        taken = time.monotonic() - started
        self._pace = taken / chunk
        self.save()
        self.watch.trained(taken)
        return self._report("training", 0, 0, metrics)

    @property
    def _until(self) -> int:
        first, settings = self.course.until(self._rung), self.config.recipe.searcher
        if not isinstance(settings, NatSettings) or settings.alternate is None:
            return first
        beside = self.course.over and not self.config.supernet
        return first + settings.trained_beside(self.loop.learnt if beside else 0)

    def _shrink(self) -> SearchReport:
        """Take over the decision of a rung."""
        rebase = self.course.rebases(self._rung)
        self._rung += 1
        self.pool.reset(self._job, rebase=rebase)
        return self._report("shrinking", 0, 0)

    def _voted(self) -> SearchReport:
        """Score the operators, unless that is done already."""
        if self.vote is None:
            started, shrinking = time.monotonic(), self.config.recipe.shrinking
            assert shrinking is not None
            space, seed = self.course.left(self._rung), self.config.recipe.seed
            children = children_of(space, shrinking, seed, "rung", self._rung, feasible=self.plan.feasible)
            self.pool.submit(children)
            found = [one.metrics.get(shrinking.score) for one in self.pool.collect(len(children))]
            usable = [None if score is None or score <= WORST else score for score in found]
            self.vote = operator_scores(space, children, usable)
            self.watch.trained(time.monotonic() - started)
        return self._report("shrinking", 0, 0)

    def _save_best(self) -> None:
        """The network of the best candidate, with the supernet's weights and statistics of its own."""
        rows, metric = list(self.run.ledger.rows()), self.config.recipe.metric
        if self.plan.given:  # not of all that a policy learnt from, but of what was made of the given ones
            made = made_of(rows, self.plan.given, self.config.recipe)
            rows = [best for _, _, best in made if meets(best, self.config.recipe)]
        best = rank(rows, metric)[:1]
        if not best or best[0].status != "ok":
            return
        assert self.plan.data is not None
        genes = best[0].candidate.genes
        left = self.course.left(self._rung)
        network = path_network(self.plan, left, self.pool.state()[0], genes)
        about = {"genes": list(genes), "metrics": best[0].metrics, "classes": list(self.plan.data.classes)}
        save_network(self.config.folder / "best", network, about)

    def save(self) -> None:
        """A checkpoint of the supernet as it is now."""
        self._checkpoints.save(self.pool, self._rung)

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
            steps=self._until,
            metrics=metrics or {},
            asked=asked,
            planned=planned,
            began=self.watch.times.began,
            best=self._best,
            crew=self.pool.crew,
            supernet=self.config.supernet,
            rung=self._rung,
            left=self.course.left(self._rung).size,
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
