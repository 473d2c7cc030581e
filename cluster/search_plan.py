"""A search recipe made concrete: its data or table, its space, its searchers; checked, nothing written."""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property

from cluster.files import AnyPath, write_atomically
from cluster.replica import ReplicaJob, ScoringSettings
from cluster.search_loop import Phase
from cluster.search_recipe import COSTS, SearchRecipe, TableScore
from cluster.table_pool import file_digest
from cluster.trial import trial_device
from networks.complexity import LATENCY
from networks.counters import counter_random, counter_seed
from networks.errors import UserError, nearest
from networks.network import build_network
from networks.spaces.choices import ChoiceSpace, Kept
from networks.spaces.space import Genes
from searchers.constraints import Feasible, check_satisfiable, static_costs
from searchers.listed import ListedSearcher
from searchers.nat import NatSettings
from searchers.problem import Problem
from searchers.random_search import RandomSettings
from searchers.rewriting import Rewriting
from searchers.searcher import Candidate, Evaluation, Searcher
from trainers.data import Data, open_data
from trainers.latency import latency_ms
from trainers.one_shot_settings import check_possible
from trainers.scores.registry import check_supported, find_score
from trainers.scores.score import check_batches
from trainers.table import Fields, Table
from trainers.training import check_trainable

LATENCIES = "latencies.json"  # in a run's folder


class SearchPlan:
    """What a recipe will search. `latencies` is the file that measured latencies are kept in, so that a
    resumed search sees the ones that it began with."""

    def __init__(self, recipe: SearchRecipe, data: Data | None, latencies: AnyPath | None = None) -> None:
        self.recipe, self.data = recipe, data
        self.latencies = LatencyBook(latencies)
        if isinstance(recipe.score, TableScore):
            self.space: ChoiceSpace = recipe.space.build(recipe.score.image, recipe.score.classes)
        else:
            assert data is not None
            self.space = recipe.space.build(data.image, len(data.classes))

    @classmethod
    def of(cls, recipe: SearchRecipe, latencies: AnyPath | None = None) -> "SearchPlan":
        """Open the data or the table and build the space. Raises `UserError` for everything that can be
        known to be wrong before the search begins, without measuring anything (`check_measured`)."""
        if isinstance(recipe.score, TableScore):
            plan = cls(recipe, None, latencies)
            _ = plan.table
        else:
            plan = cls(recipe, open_data(recipe.data), latencies)
            plan._check_scores()
            plan._check_supernet()
            plan._check_retraining()
        _ = plan.given  # names what is nearest to a bound that its own candidates cannot meet
        plan._check_constraints(measure=not plan.measures)
        _ = plan.truth, plan.warm
        recipe.tracking.check_runs(plan.planned_asks)
        return plan

    def check_measured(self) -> None:
        """Raise `UserError` for measured constraints that nothing meets. To be called where candidates are
        measured: elsewhere they take another time."""
        if self.measures:
            self._check_constraints(measure=True)
            self._check_rewritings()

    def _check_rewritings(self) -> None:
        """That a given candidate can be rewritten to one that is fast enough: its cheapest is measured."""
        settings = self.recipe.searcher
        if not isinstance(settings, NatSettings):
            return
        rewriting = Rewriting(self.space, settings.rule, strict=settings.strict)
        for number, one in enumerate(self.recipe.constraints):
            for position, genes in enumerate(self.given if one.cost == LATENCY else ()):
                cheapest = rewriting.cheapest(genes, "macs")
                found = self.measured(cheapest)[LATENCY]
                if one.at_most is not None and found > one.at_most:
                    edit = self.space.edit(genes, cheapest) or "what it is"
                    fix = (
                        f"It takes {found:.4g} to run what searcher.transform.{position} can be rewritten to "
                    )
                    fix += f"with the fewest multiply-adds: {edit}."
                    allowed = f"{found:.4g} or more"
                    raise UserError(f"constraints.{number}.at_most", one.at_most, allowed, fix)

    def _check_supernet(self) -> None:
        settings, resources = self.recipe.supernet, self.recipe.resources
        if settings is None:
            return
        assert self.data is not None
        check_possible(settings, self.data, "a CPU", mixes=resources.gpus > 0)
        try:  # the best network is recalibrated with batches of this size
            self.data.steps_per_epoch(batch_size_of(self.recipe))
        except UserError as error:
            raise error.under("score") from None
        bins = settings.mac_bins
        if bins is not None:
            low, high = self.space.extremes("macs")
            width = (bins.high - bins.low) / bins.bins
            if bins.low + width < low or bins.high - width > high:  # the first or the last has no path
                fix = f"In this space, macs: smallest {low:,}, largest {high:,}."
                raise UserError("supernet.mac_bins", bins.model_dump(), "bins with a path in each", fix)

    def _check_retraining(self) -> None:
        settings = self.recipe.retraining
        if settings is None:
            return
        assert self.data is not None
        try:
            space = self.recipe.retrained_space.build(self.data.image, len(self.data.classes))
            if [one.word for some in space.options for one in some] != [
                one.word for some in self.space.options for one in some
            ]:
                allowed = "changes that leave the choices as they are: width, depth and the like"
                raise UserError("space", settings.space, allowed)
            check_trainable(space.template, settings.training)
            self.data.steps_per_epoch(settings.training.batch_size)
        except UserError as error:
            raise error.under("retraining") from None

    def _check_scores(self) -> None:
        assert self.data is not None
        named = [("score.names", self.recipe.score.names)]
        if self.recipe.ranking is not None:
            named.append(("ranking.scores", self.recipe.ranking.scores))
        if self.recipe.shrinking is not None:
            named.append(("shrinking.score", (self.recipe.shrinking.score,)))
        scores = []
        for field, names in named:
            for position, name in enumerate(names):
                scores.append(find_score(name, field))
                check_supported(scores[-1], self.space, f"{field}.{position}")
        for score in scores:
            try:
                check_batches(score, self.data, batch_size_of(self.recipe))
            except UserError as error:
                raise error.under("score") from None

    def _check_constraints(self, measure: bool) -> None:
        constraints = self.recipe.constraints
        for position, one in enumerate(constraints):
            if one.cost not in COSTS:
                field = f"constraints.{position}.cost"
                raise UserError(field, one.cost, ", ".join(COSTS), nearest(one.cost, COSTS))
        check_satisfiable(self.space, constraints, self.costs, self.recipe.seed, measure=measure)

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
        return Table.read(score.path, self.space, score.names, Fields("score.path", "score.names"))

    @cached_property
    def truth(self) -> Table | None:
        """What scores are ranked against."""
        ranking = self.recipe.ranking
        if ranking is None:
            return None
        fields = Fields("ranking.table", "ranking.truth")
        return Table.read(ranking.table, self.space, (ranking.truth,), fields)

    @cached_property
    def warm(self) -> Table | None:
        """The table of what is known already."""
        warm = self.recipe.warm_start
        if warm is None:
            return None
        # Costs are known of every candidate, unless a table says them.
        known = COSTS if self.table is None else [name for name in COSTS if name not in self.table.names]
        wanted = [goal.metric for goal in self.recipe.goals if goal.metric not in known]
        fields = Fields("warm_start.path")
        try:
            return Table.read(warm.path, self.space, wanted, fields)
        except UserError as error:
            if error.field != fields.columns:
                raise
            allowed = f"a table with a column for each objective: {', '.join(wanted)}"
            fix = f"It has {error.allowed}. {error.fix}".rstrip()
            raise UserError(fields.file, str(warm.path), allowed, fix) from None

    @cached_property
    def known(self) -> list[Evaluation]:
        """What the searcher is told before its first ask. Measures candidates where latency is an objective,
        and of those only such as meet the constraints: a searcher ignores the others."""
        table = self.warm
        if table is None:
            return []
        ranks = LATENCY in [goal.metric for goal in self.recipe.goals]
        costs, feasible = static_costs(self.space), self.feasible
        return [
            Evaluation(
                candidate=Candidate.of(self.recipe.identity, self.space.digest, genes, ask, "warm_start"),
                status="ok",
                metrics={
                    **costs(genes),
                    **(self.measured(genes) if ranks and feasible(genes) else {}),
                    **table.metrics(genes),
                },
            )
            for ask, genes in enumerate(table.genes)
        ]

    @property
    def measures(self) -> bool:
        """Whether candidates are measured: the recipe needs their latency, and no table has it."""
        return self.recipe.needs_latency and (self.table is None or LATENCY not in self.table.names)

    def costs(self, genes: Genes) -> dict[str, float]:
        """Static costs, and latency where the recipe asks for it."""
        return {**static_costs(self.space)(genes), **self.measured(genes)}

    def measured(self, genes: Genes) -> Mapping[str, float]:
        """The latency where the recipe needs it; NaN where a table should have it and has not."""
        if not self.recipe.needs_latency:
            return {}
        if self.measures:
            return {LATENCY: self.latencies.look_up(genes, self.latency)}
        assert self.table is not None
        return {LATENCY: self.table.find(genes, [LATENCY]).metrics.get(LATENCY, math.nan)}

    def latency(self, genes: Genes) -> float:
        """Of the candidate as a network alone, for one image, in milliseconds; measured now. Raises
        `UserError` on a machine without the GPU that candidates have."""
        network = build_network(self.space.decode(genes), self.recipe.seed)
        return latency_ms(network, self.space.template.image, device=trial_device(self.recipe.resources))

    @property
    def feasible(self) -> Feasible:
        """What meets the constraints; only what meets the static ones is measured."""
        return Feasible(self.recipe.constraints, static_costs(self.space), self.measured)

    @property
    def problem(self) -> Problem:
        seed = counter_seed(self.recipe.seed, "searcher")
        return Problem(self.space, self.recipe.goals, seed, self.feasible)

    @cached_property
    def given(self) -> list[Genes]:
        """The candidates that the search rewrites."""
        settings = self.recipe.searcher
        if not isinstance(settings, NatSettings):
            return []
        return settings.given(self.space, self.recipe.constraints)

    @property
    def labels(self) -> dict[Genes, str]:
        """What each of them is called: as the recipe does, where that is a name."""
        settings, found = self.recipe.searcher, dict[Genes, str]()
        if isinstance(settings, NatSettings):
            for number, (said, genes) in enumerate(zip(settings.transform, self.given, strict=True), 1):
                named = isinstance(said, str) and re.fullmatch(r"[\w-]+", said.strip())
                found.setdefault(genes, str(said).strip() if named else f"given {number}")
        return found

    @property
    def planned_asks(self) -> int:
        """The most candidates that will be asked for."""
        once = self.recipe.searcher.most_asks(self.space)
        return once * (2 if self.recipe.has_baseline else 1)

    @property
    def planned_trainings(self) -> int:
        """The most trainings of networks on their own, after the search."""
        settings = self.recipe.retraining
        if settings is None:
            return 0
        return settings.seeds * (2 * len(set(self.given)) or settings.best)

    def phases(self, space: ChoiceSpace | None = None) -> list[Phase]:
        """The search, of what is left of the space; then, to compare with, random candidates to the same
        number. Of a search that was extended: both up to where it ended before, then on."""
        own = self.problem._replace(space=space or self.space)
        searchers: dict[str, Searcher] = {"search": self.recipe.searcher.build(own)}
        if known := [one for one in self.known if own.space.legal(one.candidate.genes)]:
            searchers["search"].tell(known)
        if self.recipe.has_baseline:
            budget = self.recipe.searcher.most_asks(own.space)
            problem = own._replace(seed=counter_seed(self.recipe.seed, "baseline"))
            searchers["random"] = RandomSettings(budget=budget).build(problem)
        ends = [*(stretch.model_dump() for stretch in self.recipe.extended), dict[str, int]()]
        return [Phase(name, one, end.get(name)) for end in ends for name, one in searchers.items()]

    def ranked(self, space: ChoiceSpace | None = None) -> Phase:
        """The random candidates that scores are ranked on: those of which the truth is known, of what is left
        of the space."""
        ranking, truth = self.recipe.ranking, self.truth
        assert ranking is not None and truth is not None
        column = truth.column(ranking.truth)
        legal = (space or self.space).legal
        known = [
            genes
            for genes, value in zip(truth.genes, column, strict=True)
            if not math.isnan(value) and legal(genes)
        ]
        rng = counter_random(self.recipe.seed, "ranking")
        return Phase("ranking", ListedSearcher(rng.sample(known, min(ranking.cells, len(known)))))

    def job(self, names: tuple[str, ...], supernet: int = 0, kept: Kept | None = None) -> ReplicaJob:
        """What replicas are built from; their processes may work in another folder than this one. `supernet`:
        which of those that vote; `kept`: the options that are left."""
        recipe = self.recipe
        return ReplicaJob(
            space=recipe.space,
            data=recipe.data.from_anywhere(),
            supernet=recipe.supernet,
            scoring=ScoringSettings(names=names, batch_size=batch_size_of(recipe)),
            seed=counter_seed(recipe.seed, "supernet", supernet) if supernet else recipe.seed,
            kept=kept,
            device="cuda" if recipe.resources.gpus else "cpu",
        )


def batch_size_of(recipe: SearchRecipe) -> int:
    """Of validation, and wherever a score takes batches."""
    assert not isinstance(recipe.score, TableScore)
    return recipe.score.batch_size


class LatencyBook:
    """Measured latencies by genes, kept in a file where one is given. `flush` before anything is committed
    that follows from them."""

    def __init__(self, path: AnyPath | None) -> None:
        self._path, self._new = path, False
        self._known: dict[Genes, float] = {}
        if path is not None and path.exists():
            self._known = {tuple(genes): value for genes, value in json.loads(path.read_text())}

    def look_up(self, genes: Genes, measure: Callable[[Genes], float]) -> float:
        if genes not in self._known:
            self._known[genes] = measure(genes)
            self._new = True
        return self._known[genes]

    def flush(self) -> None:
        """Write what was measured since the last time, all at once: a file that is synced takes as long as
        measuring a candidate."""
        if self._new and self._path is not None:
            write_atomically(self._path, json.dumps([*self._known.items()]).encode())
        self._new = False
