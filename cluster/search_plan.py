"""A search recipe made concrete: its data or table, its space, its searchers; checked, nothing written."""

import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from cluster.checkpoints import write_atomically
from cluster.replica import ReplicaJob, ScoringSettings
from cluster.search_loop import Phase
from cluster.search_recipe import COSTS, SearchRecipe, TableScore
from cluster.table_pool import file_digest
from cluster.trial import trial_device
from networks.counters import counter_random, counter_seed
from networks.errors import UserError
from networks.network import build_network
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from searchers.constraints import Feasible, check_satisfiable, static_costs
from searchers.listed import ListedSearcher
from searchers.problem import Problem
from searchers.random_search import RandomSettings
from searchers.searcher import Candidate, Evaluation, Searcher
from trainers.data import Data, open_data
from trainers.latency import latency_ms
from trainers.scores.registry import check_supported, find_score
from trainers.table import Table

LATENCIES = "latencies.json"  # in a run's folder


class SearchPlan:
    """What a recipe will search. `latencies` is the file that measured latencies are kept in, so that a
    resumed search sees the ones that it began with."""

    def __init__(self, recipe: SearchRecipe, data: Data | None, latencies: Path | None = None) -> None:
        self.recipe, self.data = recipe, data
        self._latencies = LatencyBook(latencies)
        if isinstance(recipe.score, TableScore):
            self.space: ChoiceSpace = recipe.space.build(recipe.score.image, recipe.score.classes)
        else:
            assert data is not None
            self.space = recipe.space.build(data.image, len(data.classes))

    @classmethod
    def of(cls, recipe: SearchRecipe, latencies: Path | None = None) -> "SearchPlan":
        """Open the data or the table and build the space. Raises `UserError` for everything that can be
        known to be wrong before the search begins."""
        if isinstance(recipe.score, TableScore):
            plan = cls(recipe, None, latencies)
            _ = plan.table
        else:
            data = open_data(recipe.data)
            if recipe.supernet is not None:
                try:
                    data.steps_per_epoch(recipe.supernet.batch_size)
                except UserError as error:
                    raise error.under("supernet") from None
            plan = cls(recipe, data, latencies)
            for field, names in plan._score_names():
                for position, name in enumerate(names):
                    check_supported(find_score(name, field), plan.space, f"{field}.{position}")
        check_satisfiable(plan.space, recipe.constraints, plan.costs, recipe.seed)
        _ = plan.truth, plan.known
        recipe.tracking.check_runs(plan.planned_asks)
        return plan

    def _score_names(self) -> list[tuple[str, tuple[str, ...]]]:
        names = [("score.names", self.recipe.score.names)]
        if self.recipe.ranking is not None:
            names.append(("ranking.scores", self.recipe.ranking.scores))
        return names

    @property
    def size_text(self) -> str:
        return f"up to {self.planned_asks:,} candidates of {self.space.size:,}"

    @property
    def data_field(self) -> str:
        """The field of the recipe that names what candidates are scored on."""
        return "score.path" if isinstance(self.recipe.score, TableScore) else "data"

    @property
    def data_name(self) -> str:
        score = self.recipe.score
        return str(score.path) if isinstance(score, TableScore) else self.recipe.data.name

    @property
    def data_digest(self) -> str:
        """Of the images, or of the table's file."""
        if isinstance(self.recipe.score, TableScore):
            return file_digest(self.recipe.score.path)
        assert self.data is not None
        return self.data.digest

    @cached_property
    def table(self) -> Table | None:
        """What scores the candidates, where a table does."""
        score = self.recipe.score
        if not isinstance(score, TableScore):
            return None
        try:
            return Table.read(score.path, self.space, score.names)
        except UserError as error:
            raise error.under("score") from None

    @cached_property
    def truth(self) -> Table | None:
        """What scores are ranked against."""
        ranking = self.recipe.ranking
        if ranking is None:
            return None
        try:
            return Table.read(ranking.table, self.space, (ranking.truth,))
        except UserError as error:
            raise error.under("ranking") from None

    @cached_property
    def known(self) -> list[Evaluation]:
        """What the searcher is told before its first ask."""
        warm = self.recipe.warm_start
        if warm is None:
            return []
        wanted = [goal.metric for goal in self.recipe.goals if goal.metric not in COSTS]
        try:
            table = Table.read(warm.path, self.space, wanted)
        except UserError as error:
            raise error.under("warm_start") from None
        return [
            Evaluation(
                candidate=Candidate.of(self.recipe.identity, self.space.digest, genes, ask, "warm_start"),
                status="ok",
                metrics={**table.metrics(genes), **self.costs(genes)},
            )
            for ask, genes in enumerate(table.genes)
        ]

    @property
    def needs_latency(self) -> bool:
        named = [*(goal.metric for goal in self.recipe.goals), *(one.cost for one in self.recipe.constraints)]
        return "latency_ms" in named

    def costs(self, genes: Genes) -> dict[str, float]:
        """Static costs, and latency where the recipe asks for it."""
        return {**static_costs(self.space)(genes), **self.measured(genes)}

    def measured(self, genes: Genes) -> Mapping[str, float]:
        if not self.needs_latency:
            return {}
        return {"latency_ms": self._latencies.look_up(genes, self._measure)}

    def _measure(self, genes: Genes) -> float:
        network = build_network(self.space.decode(genes), self.recipe.seed)
        return latency_ms(network, self.space.template.image, device=trial_device(self.recipe.resources))

    @property
    def problem(self) -> Problem:
        feasible = Feasible(self.recipe.constraints, self.costs)
        seed = counter_seed(self.recipe.seed, "searcher")
        return Problem(self.space, self.recipe.goals, seed, feasible)

    @property
    def planned_asks(self) -> int:
        """The most candidates that will be asked for."""
        once = self.recipe.searcher.most_asks(self.space)
        return once * (2 if self.recipe.has_baseline else 1)

    def phases(self) -> list[Phase]:
        """The search; then, to compare with, random candidates to the same number."""
        searcher: Searcher = self.recipe.searcher.build(self.problem)
        if self.known:
            searcher.tell(self.known)
        phases = [Phase("search", searcher)]
        if self.recipe.has_baseline:
            budget = self.recipe.searcher.most_asks(self.space)
            problem = self.problem._replace(seed=counter_seed(self.recipe.seed, "baseline"))
            phases.append(Phase("random", RandomSettings(budget=budget).build(problem)))
        return phases

    def ranked(self) -> Phase:
        """The random candidates that scores are ranked on: those of which the truth is known."""
        ranking, truth = self.recipe.ranking, self.truth
        assert ranking is not None and truth is not None
        column = truth.column(ranking.truth)
        known = [genes for genes, value in zip(truth.genes, column, strict=True) if not math.isnan(value)]
        rng = counter_random(self.recipe.seed, "ranking")
        return Phase("ranking", ListedSearcher(rng.sample(known, min(ranking.cells, len(known)))))

    def job(self, names: tuple[str, ...]) -> ReplicaJob:
        """What replicas are built from; their processes may work in another folder than this one."""
        recipe = self.recipe
        assert not isinstance(recipe.score, TableScore)
        return ReplicaJob(
            space=recipe.space,
            data=recipe.data.from_anywhere(),
            supernet=recipe.supernet,
            scoring=ScoringSettings(names=names, batch_size=recipe.score.batch_size),
            seed=recipe.seed,
            device="cuda" if recipe.resources.gpus else "cpu",
        )


class LatencyBook:
    """Measured latencies by genes, kept in a file where one is given."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[Genes, float] = {}
        if path is not None and path.exists():
            self._known = {tuple(genes): value for genes, value in json.loads(path.read_text())}

    def look_up(self, genes: Genes, measure: Callable[[Genes], float]) -> float:
        if genes not in self._known:
            self._known[genes] = measure(genes)
            if self._path is not None:
                write_atomically(self._path, json.dumps([*self._known.items()]).encode())
        return self._known[genes]
