"""The end of a search: its networks trained on their own, under one recipe, with several seeds.

They are a grid beside the run, so that a search which is gone on with goes on in the middle of it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from cluster.export import export_network
from cluster.grid_beside import beside, named
from cluster.ledger import Row
from cluster.recipe import ListedSection, Recipe
from cluster.recipe_spaces import ChoiceSection
from cluster.report import newest, rank
from cluster.run import Run, runs_of
from cluster.search_plan import SearchPlan
from cluster.search_recipe import SearchRecipe
from cluster.tables import REPORTED, summary
from cluster.transformations import made_of, meets
from networks.spaces.space import Genes
from trainers.training import TrainingSettings

RETRAINED = "retrained"  # the folder in a run's


class Chosen(NamedTuple):
    """What a search ends with, and what it is called."""

    label: str
    row: Row

    @property
    def genes(self) -> Genes:
        return self.row.candidate.genes


def chosen_networks(plan: SearchPlan, run: Run) -> list[Chosen]:
    """Each of the candidates to be rewritten and what it became; or the leaders, no two alike."""
    recipe, rows = plan.recipe, list(run.ledger.rows())
    if recipe.retraining is None:
        return []
    if plan.given:
        labels = plan.labels
        return [
            one
            for before, _, after in made_of(rows, list(labels), recipe)
            for label in [labels[before.candidate.genes]]
            for one in (Chosen(label, before), Chosen(f"{label} rewritten", after))
        ]
    leaders: dict[Genes, Row] = {}
    for row in rank(rows, recipe.metric):
        if row.status == "ok":
            leaders.setdefault(row.candidate.genes, row)
    best = list(leaders.values())[: recipe.retraining.best]
    return [Chosen(f"place {place}", row) for place, row in enumerate(best, 1)]


def standalone_grid(
    recipe: SearchRecipe,
    run: Run,
    what: str,
    genes: Sequence[Genes],
    seeds: int,
    training: TrainingSettings,
    space: ChoiceSection | None = None,
) -> Recipe:
    """Candidates of a search as a grid beside it, each trained on its own."""
    listed = ListedSection(space=space or recipe.space, genes=tuple(genes), seeds=seeds)
    return beside(recipe, run, what, listed, training)


def retrain(plan: SearchPlan, run: Run, train: Callable[[Recipe], Run]) -> None:
    """Train what the search ends with. The one that validates best, by the mean over its seeds, of those that
    meet the constraints, becomes the run's best network, with the weights of its best seed."""
    settings, chosen = plan.recipe.retraining, chosen_networks(plan, run)
    genes = list(dict.fromkeys(one.genes for one in chosen))
    if settings is None or not genes:
        return
    grid = standalone_grid(
        plan.recipe, run, RETRAINED, genes, settings.seeds, settings.training, plan.recipe.retrained_space
    )
    trained, selects = train(grid), REPORTED[0]  # never by the test images
    fit = {one.genes for one in chosen if meets(one.row, plan.recipe)}
    known = {one: rows for one, rows in _by_genes(trained).items() if one in fit}
    if known:
        means = {one: fmean(row.metrics[selects] for row in rows) for one, rows in known.items()}
        best = max(known, key=lambda one: (means[one], -genes.index(one)))
        row = max(known[best], key=lambda row: (row.metrics[selects], -row.candidate.ask_index))
        export_network(trained, str(row.candidate.ask_index), run.folder / "best")


def retrained(plan: SearchPlan, run: Run) -> list[dict[str, Any]]:
    """Those networks with the metrics of their trainings so far, and their costs; JSON-ready."""
    chosen = chosen_networks(plan, run)
    grids = runs_of(named(plan.recipe, RETRAINED), run.folder / RETRAINED) if chosen else []
    if not grids:
        return []
    known = _by_genes(grids[-1])
    return [_line(one, known[one.genes]) for one in chosen if known.get(one.genes)]


def _by_genes(trained: Run) -> dict[Genes, list[Row]]:
    """The finished trainings of each candidate, by seed."""
    found: dict[Genes, list[Row]] = defaultdict(list)
    space = trained.recipe.space
    assert isinstance(space, ListedSection)
    listed = space.genes
    for row in sorted(newest(trained.ledger.rows()), key=lambda row: row.candidate.ask_index):
        if row.status == "ok":
            found[listed[row.candidate.genes[0]]].append(row)
    return found


def _line(one: Chosen, rows: Sequence[Row]) -> dict[str, Any]:
    values = {name: [row.metrics[name] for row in rows if name in row.metrics] for name in REPORTED}
    return {
        "label": one.label,
        "candidate": one.row.candidate.ask_index,
        "id": one.row.candidate.id,
        "genes": list(one.genes),
        "names": one.row.names,
        "edit": one.row.edit,
        "trainings": len(rows),
        "params": rows[0].cost.params,
        "macs": rows[0].cost.macs,
        "metrics": {name: summary(some) for name, some in values.items() if some},
    }
